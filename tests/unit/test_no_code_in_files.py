"""Nothing that is read is executed: what the package calls, and what load does."""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path

import pytest
import torch

import weightcast as wc
from tests.executing_code import offences
from tests.saved_folders import make_dense, make_model, save_quietly

SOURCES = sorted(Path(wc.__file__).parent.rglob("*.py"))
ALLOWED = {
    # weightcast.testing sees whether an object in memory can be pickled, by its name in its module.
    "testing": {
        r"pickle\.loads\(pickle\.dumps\(\w+\)\)": "None",
        r"import pickle\n": "",
        r"sys\.modules\[layer_class\.__module__\]": "None",
    },
    # The command imports a function that the user has named, and has allowed to be imported;
    # doctor imports the installed packages of the extras.
    "cli": {r"importlib\.import_module\(module\)": "None"},
}
"""What may stand in the modules of one package only, and what is read in its place."""


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_no_source_executes_what_it_reads(path):
    text = path.read_text()
    for pattern, replacement in ALLOWED.get(path.parent.name, {}).items():
        text = re.sub(pattern, replacement, text)
    assert not list(offences(ast.parse(text)))


@pytest.mark.parametrize(
    "line",
    [
        "import pickle",
        "import pickle, json",
        "from pickle import loads",
        "import _pickle as p",
        "import dill as d",
        "import cloudpickle",
        "from joblib import load",
        "from marshal import loads as read",
        "import shelve",
        "import importlib; importlib.import_module('pickle')",
        "from importlib import import_module; import_module('dill.source')",
        "from importlib import import_module as find; find('shelve')",
        "importlib.import_module(name)",
        "importlib.import_module(name='pickle')",
        "sys.modules['pickle']",
        "eval(text)",
        "exec(text)",
        "run = exec",
        "map(eval, texts)",
        "__import__(name)",
        "__builtins__['eval']",
        "import builtins; builtins.eval(text)",
        "import builtins as b; b.exec(text)",
        "from builtins import eval as read",
        "import builtins; getattr(builtins, 'eval')",
        "import builtins; getattr(builtins, name)",
        "torch.load(file)",
        "torch.load(file, weights_only=False)",
        "torch.load(file, weights_only=flag)",
        "torch.load(file, **options)",
        "from torch import load",
        "from torch import load as read",
        "from torch import *",
        "from torch.serialization import load",
        "import torch as t; t.load(file)",
        "from torch import serialization as s; s.load(file)",
        "read = torch.load",
        "functools.partial(torch.load, file)",
        "getattr(torch, 'load')(file)",
        "import torch as t; getattr(t, 'load')(file)",
        "getattr(torch, name)(file)",
        "vars(torch)['load']",
        "torch.__dict__['load']",
        "torch.jit.load(file)",
        "Module.load_from_checkpoint(file)",
        "getattr(Module, 'load_from_checkpoint')(file)",
        "np.load(file, allow_pickle=True)",
        "from numpy import load",
        "import numpy as n; n.load(file, allow_pickle=flag)",
        "pandas.read_pickle(file)",
        "yaml.load(text)",
        "yaml.load(text, yaml.Loader)",
        "yaml.load(text, Loader=yaml.Loader)",
        "from yaml import unsafe_load",
    ],
)
def test_the_walk_finds_them(line):
    assert list(offences(ast.parse(line)))


@pytest.mark.parametrize(
    "line",
    [
        "model.eval(); torch.compile(m); json.load(f); self.load(f); wc.load(f)",
        "torch.load(f, weights_only=True)",
        "import torch as t; t.load(f, weights_only=True)",
        "np.load(f); np.load(f, allow_pickle=False)",
        "yaml.load(f, yaml.SafeLoader); yaml.load(f, Loader=yaml.SafeLoader)",
        "class Mine(yaml.SafeLoader): ...\nyaml.load(f, Mine)",
        "importlib.import_module('pywt'); getattr(layer, name)",
        "from torch.nn import functional; getattr(functional, name)",
    ],
)
def test_the_walk_leaves_others_alone(line):
    assert not list(offences(ast.parse(line)))


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
