"""Nothing that is read is executed: what the package calls, and what load does."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import weightcast as wc
from tests.saved_folders import make_dense, make_model, save_quietly

SOURCES = sorted(Path(wc.__file__).parent.rglob("*.py"))
MODULES = {"cloudpickle", "dill", "joblib", "marshal", "pickle", "shelve"}
BUILTINS = {"__import__", "compile", "eval", "exec"}


ROUND_TRIP = r"pickle\.loads\(pickle\.dumps\(\w+\)\)"
"""What weightcast.testing does with an object in memory, to see whether it can be pickled."""


def offences(tree: ast.AST) -> Iterator[str]:
    """Whatever in a syntax tree could execute what a file holds."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names = {node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)}
        else:
            names = set()
        yield from (f"imports {n}" for n in names if n.split(".")[0].lstrip("_") in MODULES)
        if isinstance(node, ast.Attribute) and node.attr == "load_from_checkpoint":
            yield "load_from_checkpoint"
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func)
        options = {option.arg: ast.unparse(option.value) for option in node.keywords}
        if called in BUILTINS:
            yield f"calls {called}"
        if called == "torch.load" and options.get("weights_only") != "True":
            yield "torch.load without weights_only=True"
        if called in ("np.load", "numpy.load") and options.get("allow_pickle", "False") != "False":
            yield "numpy.load with pickles"
        loader = ast.unparse(node.args[1]) if len(node.args) > 1 else options.get("Loader")
        if called in ("yaml.unsafe_load", "yaml.full_load"):
            yield called
        if called == "yaml.load" and loader not in safe_loaders(tree):
            yield "yaml.load without a safe loader"


def safe_loaders(tree: ast.AST) -> set[str]:
    """PyYAML's safe loader, and what a file derives from it."""
    classes = [node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    own = {one.name for one in classes if "yaml.SafeLoader" in map(ast.unparse, one.bases)}
    return {"yaml.SafeLoader"} | own


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_no_source_executes_what_it_reads(path):
    text = path.read_text()
    if path.parent.name == "testing" and re.search(ROUND_TRIP, text):
        text = re.sub(ROUND_TRIP, "None", text).replace("import pickle\n", "")
        assert "pickle." not in text
    assert not list(offences(ast.parse(text)))


@pytest.mark.parametrize(
    "line",
    [
        "import pickle",
        "from pickle import loads",
        "import _pickle as p",
        "eval(text)",
        "exec(text)",
        "__import__(name)",
        "torch.load(file)",
        "torch.load(file, weights_only=False)",
        "Module.load_from_checkpoint(file)",
        "np.load(file, allow_pickle=True)",
        "yaml.load(text)",
        "yaml.load(text, yaml.Loader)",
    ],
)
def test_the_walk_finds_them(line):
    assert list(offences(ast.parse(line)))


def test_the_walk_leaves_others_alone():
    allowed = "model.eval(); torch.load(f, weights_only=True); torch.compile(m); json.load(f)"
    assert not list(offences(ast.parse(allowed)))


SEEN: list[str] | None = None
HOSTILE = ("socket.", "subprocess.", "os.system", "os.exec", "os.spawn", "pickle.", "shutil.")


def _watch(event: str, arguments: tuple) -> None:
    if SEEN is None:
        return
    writes = event == "open" and isinstance(arguments[1], str) and set(arguments[1]) & set("wax+")
    if event in ("exec", "compile", "import") or event.startswith(HOSTILE) or writes:
        SEEN.append(f"{event} {arguments}")


@pytest.mark.parametrize("name", ["Kernel", "Covariance", "Wavelet"])
def test_loading_executes_imports_writes_and_sends_nothing(name, tmp_path):
    global SEEN
    save_quietly(make_model(name), tmp_path / "model")
    dense = make_dense()
    wc.load(tmp_path / "model", dense)  # what libraries import at their first use
    if not getattr(sys, "_weightcast_watched", False):
        sys.addaudithook(_watch)  # for good, so only once
        sys._weightcast_watched = True
    SEEN = []
    try:
        loaded = wc.load(tmp_path / "model", dense)
        assert not SEEN
        (tmp_path / "watched").write_text("x")
        exec("pass")
        assert {event.split()[0] for event in SEEN} >= {"open", "compile", "exec"}  # it does see
    finally:
        SEEN = None
    assert torch.equal(loaded[0].V, make_model(name)[0].V)
