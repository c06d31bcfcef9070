"""weightcast doctor: what is installed, whether it works, and whether a saved folder is whole."""

from __future__ import annotations

import json
import platform
import tempfile
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

import weightcast as wc
from weightcast.cli.extras import broken_package, extras, import_failure
from weightcast.cli.installed import command_parser, commands
from weightcast.files import user_path
from weightcast.storage import FormatError
from weightcast.storage.format_error import excerpt
from weightcast.storage.inspection import inspect

SUMMARY = "Say what is installed and what is missing; check that it works, and a saved folder."
HELP = """All packages are imported, and every command's options are made; then a small network
is converted, trained, saved, loaded and merged: some ten seconds. The exit code is 1 if anything
failed; a missing extra is no failure, a package that is there and does not import is one."""

EXTRAS = {
    "adapt": "networks from the Hub, for weightcast adapt",
    "bench": "peers that weightcast bench measures beside",
    "data": "data by name or folder, and the demo's digits",
    "gpu": "a kernel that weightcast bench --preset gpu times",
    "hub": "save_pretrained, from_pretrained, push_to_hub",
    "onnx": "weightcast export to ONNX files",
    "ray": "sweeps beyond one machine",
    "report": "charts and pages",
    "train": "the training loop, its settings, logs",
    "wavelets": "wavelet dictionaries",
}
"""What each extra is for; one that is not in this list is shown without."""


@dataclass(frozen=True)
class Check:
    """One line of the report; what is ``missing`` is optional, and ``detail`` has the remedy."""

    name: str
    state: Literal["ok", "missing", "failed"]
    detail: str


def add_options(parser: ArgumentParser) -> None:
    """Add the command's options."""
    parser.add_argument("folder", nargs="?", metavar="FOLDER", help="a saved model to check")
    parser.add_argument("--json", action="store_true", help="print JSON in place of text")


def run(options: Namespace) -> int:
    """Check, and print the report; 1 if anything failed."""
    checks = [*_core(), *_extras(), *_commands(), *_self_check()]
    if options.folder is not None:
        checks.append(_folder_check(user_path(options.folder)))
    failed = [check.name for check in checks if check.state == "failed"]
    if options.json:
        print(json.dumps({"ok": not failed, "checks": list(map(asdict, checks))}, indent=1))
    else:
        width = max(len(check.name) for check in checks)
        for check in checks:
            print(f"{check.state:8}{check.name:<{width}}  {check.detail}")
        verdict = f"Failed: {', '.join(failed)}." if failed else "All that is installed works."
        print(f"\n{verdict}")
    return 1 if failed else 0


def _core() -> Iterator[Check]:
    yield Check("python", "ok", f"{platform.python_version()} on {platform.platform()}")
    names = ["weightcast", "torch", "numpy", "scipy", "scikit-learn", "safetensors"]
    for name, found in _versions(names).items():
        wrong = import_failure(name) if found else "not installed: pip install weightcast"
        yield Check(name, "failed" if wrong else "ok", wrong or str(found))
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    yield Check("devices", "ok", ", ".join([f"CPU with {torch.get_num_threads()} threads", *gpus]))


def _extras() -> Iterator[Check]:
    """One line for each extra of this package: its packages, what is missing or broken of them."""
    for extra, names in extras().items():
        found = _versions(names)
        what = f" ({EXTRAS[extra]})" if extra in EXTRAS else ""
        missing = ", ".join(name for name, installed in found.items() if installed is None)
        broken = list(filter(None, map(import_failure, filter(found.get, names))))
        if broken:
            yield Check(f"extra {extra}", "failed", "; ".join(broken))
        elif missing:
            remedy = f"pip install 'weightcast[{extra}]'"
            yield Check(f"extra {extra}", "missing", f"without {missing}{what}: {remedy}")
        else:
            packages = ", ".join(f"{name} {installed}" for name, installed in found.items())
            yield Check(f"extra {extra}", "ok", f"{packages}{what}")


def _versions(names: list[str]) -> dict[str, str | None]:
    """Installed versions by package; None where one is missing."""
    found: dict[str, str | None] = dict.fromkeys(names)
    for name in names:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def _commands() -> Iterator[Check]:
    """Every command's --help; one line for all where they work."""
    known = commands()
    broken = False
    for name, entry in known.items():
        try:
            command_parser(name, entry.load()).format_help()
        except Exception as error:
            broken = True
            line = broken_package(error) or f"{type(error).__name__}: {error}"
            yield Check(f"{name} --help", "failed", line)
    if not broken:
        yield Check("commands", "ok", f"--help of {', '.join(known)}")


def _self_check() -> Iterator[Check]:
    """A small network through the whole walk; a step that fails ends it."""
    state: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        state["folder"] = Path(folder) / "model"
        for name, step in _STEPS.items():
            start = time.perf_counter()
            try:
                step(state)
            except Exception as error:
                yield Check(f"self-check: {name}", "failed", f"{type(error).__name__}: {error}")
                return
            milliseconds = (time.perf_counter() - start) * 1e3
            yield Check(f"self-check: {name}", "ok", f"{milliseconds:.0f} ms")


def _convert(state: dict[str, Any]) -> None:
    generator = torch.Generator().manual_seed(0)
    state["x"] = torch.randn(40, 36, generator=generator)
    state["dense"] = nn.Sequential(nn.Linear(36, 20), nn.Tanh(), nn.Linear(20, 4)).eval()
    rules = {
        "0": wc.Rule(wc.dictionaries.Kernel(), 0.25, columns=4, grid=(6, 6)),
        "2": wc.Rule(wc.dictionaries.Covariance(selection="leading"), 0.25),
    }
    state["model"] = wc.convert(state["dense"], rules, inputs=state["x"])


def _train(state: dict[str, Any]) -> None:
    model, x = state["model"], state["x"]
    optimiser = torch.optim.AdamW(wc.parameter_groups(model, learning_rate=0.01))
    losses = []
    for _ in range(3):
        optimiser.zero_grad()
        loss = (model(x) - x[:, :4]).square().mean()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    if not losses[-1] < losses[0]:
        raise RuntimeError(f"the loss did not fall: {losses}")


def _save(state: dict[str, Any]) -> None:
    wc.save(state["model"], state["folder"])
    wc.save(state["model"], state["folder"])  # once more, in place of the first


def _load(state: dict[str, Any]) -> None:
    loaded = wc.load(state["folder"], state["dense"])
    if not torch.equal(loaded(state["x"]), state["model"](state["x"])):
        raise RuntimeError("a loaded network gives other outputs than the one that was saved")


def _merge(state: dict[str, Any]) -> None:
    merged = wc.merge(state["model"])
    torch.testing.assert_close(merged(state["x"]), state["model"](state["x"]), atol=1e-5, rtol=1e-4)


_STEPS = {"convert": _convert, "train": _train, "save": _save, "load": _load, "merge": _merge}


def _folder_check(folder: Path) -> Check:
    try:
        found = inspect(folder)
    except (FormatError, OSError) as error:
        return Check("folder", "failed", str(error))
    manifest = found.manifest
    stored = sum(layer.base is not None for layer in manifest.layers.values())
    by = ", ".join(f"{name} {number}" for name, number in manifest.versions.items())
    detail = (
        f"{folder}: schema {manifest.schema}, written by {excerpt(by)}; "
        f"{len(manifest.layers)} predicted layers ({stored} with stored bases), "
        f"{manifest.counts['learned']:,} learned numbers, {found.n_bytes:,} bytes, "
        "all checksums right"
    )
    if found.not_finite:
        names = ", ".join(map(excerpt, found.not_finite[:3]))
        return Check("folder", "failed", f"{detail}; NaN or infinite: {names}")
    return Check("folder", "ok", detail)
