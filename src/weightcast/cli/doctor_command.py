"""weightcast doctor: what is installed, whether it works, and whether a saved folder is whole."""

from __future__ import annotations

import argparse
import json
import platform
import re
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Any, Literal

SUMMARY = "Say what is installed and what is missing; check that it works, and a saved folder."
HELP = """The check converts, trains, saves, loads and merges a small network in a second or two.
The exit code is 1 if anything failed; a missing extra is no failure."""

EXTRAS = {
    "bench": "peers that weightcast bench measures beside",
    "data": "data by name or folder, and the demo's digits",
    "hub": "save_pretrained, from_pretrained, push_to_hub",
    "onnx": "weightcast export to ONNX files",
    "ray": "sweeps beyond one machine",
    "report": "charts and pages",
    "train": "the command line, the training loop, logs",
    "wavelets": "wavelet dictionaries",
}
"""What each extra is for; one that is not in this list is shown without."""


@dataclass(frozen=True)
class Check:
    """One line of the doctor's report.

    Args:
        name: of what was looked at.
        state: ``ok``, ``missing`` where something optional is not there, or ``failed``.
        detail: what was found, and the remedy where there is one.
    """

    name: str
    state: Literal["ok", "missing", "failed"]
    detail: str


def add_options(parser: Any) -> None:
    """The command's arguments.

    Args:
        parser: of argparse, or one that takes the same.
    """
    parser.add_argument("folder", nargs="?", metavar="FOLDER", help="a saved model to check")
    parser.add_argument("--json", action="store_true", help="print JSON in place of text")


def run_doctor(arguments: Sequence[str]) -> bool:
    """Parse the command's arguments, check, and print the report.

    This needs nothing beyond the core, so that it can say what is missing.

    Args:
        arguments: the command line's, without ``doctor``.

    Returns:
        Whether nothing failed.

    Raises:
        ValueError: arguments that it does not know.
    """
    parser = argparse.ArgumentParser(
        prog="weightcast doctor",
        description=f"{SUMMARY} {HELP}",
        exit_on_error=False,
        allow_abbrev=False,
    )
    add_options(parser)
    try:
        options, unknown = parser.parse_known_args(arguments)
    except argparse.ArgumentError as error:
        raise ValueError(str(error)) from error
    if unknown:
        raise ValueError(f"doctor knows FOLDER and --json, not {' '.join(unknown)}")
    checks = examine(options.folder)
    if options.json:
        ok = all(check.state != "failed" for check in checks)
        print(json.dumps({"ok": ok, "checks": [asdict(check) for check in checks]}, indent=1))
    else:
        print(render(checks))
    return all(check.state != "failed" for check in checks)


def examine(folder: str | Path | None = None) -> list[Check]:
    """All checks.

    Args:
        folder: a saved model; None leaves that check out.
    """
    checks = [*_core(), *_extras(), *_self_check()]
    return checks if folder is None else [*checks, _folder_check(Path(folder))]


def render(checks: Sequence[Check]) -> str:
    """The checks as lines of text, and a last line that sums them up."""
    width = max(len(check.name) for check in checks)
    lines = [f"{check.state:8}{check.name:<{width}}  {check.detail}" for check in checks]
    failed = [check.name for check in checks if check.state == "failed"]
    verdict = f"Failed: {', '.join(failed)}." if failed else "All that is installed works."
    return "\n".join([*lines, "", verdict])


def _core() -> Iterator[Check]:
    yield Check("python", "ok", f"{platform.python_version()} on {platform.platform()}")
    for name in ("weightcast", "torch", "numpy", "scipy", "scikit-learn", "safetensors"):
        try:
            yield Check(name, "ok", version(name))
        except PackageNotFoundError:
            yield Check(name, "failed", "not installed: pip install weightcast")
    import torch

    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    threads = f"{torch.get_num_threads()} threads"
    yield Check("devices", "ok", ", ".join([f"CPU with {threads}", *gpus]))


def _extras() -> Iterator[Check]:
    """One line for each extra of this package: its packages, or what is missing of them."""
    for extra, names in sorted(extra_packages().items()):
        found: dict[str, str | None] = {}
        for name in names:
            try:
                found[name] = version(name)
            except PackageNotFoundError:
                found[name] = None
        what = f" ({EXTRAS[extra]})" if extra in EXTRAS else ""
        missing = [name for name, installed in found.items() if installed is None]
        if missing:
            remedy = f"pip install 'weightcast[{extra}]'"
            detail = f"without {', '.join(missing)}{what}: {remedy}"
            yield Check(f"extra {extra}", "missing", detail)
        else:
            packages = ", ".join(f"{name} {installed}" for name, installed in found.items())
            yield Check(f"extra {extra}", "ok", f"{packages}{what}")


def extra_packages() -> dict[str, list[str]]:
    """The packages that each extra for users asks for, as this package's metadata has them."""
    extras: dict[str, list[str]] = {}
    for requirement in requires("weightcast") or []:
        found = re.match(r"([\w.-]+)[^;]*;.*extra == ['\"](\w+)['\"]", requirement)
        if found and found[2] != "dev" and found[1] != "weightcast":
            extras.setdefault(found[2], []).append(found[1])
    return extras


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
    import torch
    from torch import nn

    import weightcast as wc

    generator = torch.Generator().manual_seed(0)
    state["x"] = torch.randn(40, 36, generator=generator)
    state["dense"] = nn.Sequential(nn.Linear(36, 20), nn.Tanh(), nn.Linear(20, 4)).eval()
    rules = {
        "0": wc.Rule(wc.dictionaries.Kernel(), 0.25, columns=4, grid=(6, 6)),
        "2": wc.Rule(wc.dictionaries.Covariance(selection="leading"), 0.25),
    }
    state["model"] = wc.convert(state["dense"], rules, inputs=state["x"])


def _train(state: dict[str, Any]) -> None:
    import torch

    import weightcast as wc

    model = state["model"]
    optimiser = torch.optim.AdamW(wc.parameter_groups(model, learning_rate=0.01))
    losses = []
    for _ in range(3):
        optimiser.zero_grad()
        loss = (model(state["x"]) - state["x"][:, :4]).square().mean()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    if not losses[-1] < losses[0]:
        raise RuntimeError(f"the loss did not fall: {losses}")


def _save(state: dict[str, Any]) -> None:
    import weightcast as wc

    wc.save(state["model"], state["folder"])
    wc.save(state["model"], state["folder"])  # once more, in place of the first


def _load(state: dict[str, Any]) -> None:
    import torch

    import weightcast as wc

    loaded = wc.load(state["folder"], state["dense"])
    if not torch.equal(loaded(state["x"]), state["model"](state["x"])):
        raise RuntimeError("a loaded network gives other outputs than the one that was saved")


def _merge(state: dict[str, Any]) -> None:
    import torch

    import weightcast as wc

    merged = wc.merge(state["model"])
    torch.testing.assert_close(merged(state["x"]), state["model"](state["x"]), atol=1e-5, rtol=1e-4)


_STEPS: dict[str, Callable[[dict[str, Any]], None]] = {
    "convert": _convert,
    "train": _train,
    "save": _save,
    "load": _load,
    "merge": _merge,
}


def _folder_check(folder: Path) -> Check:
    from weightcast.storage import FormatError
    from weightcast.storage.format_error import excerpt
    from weightcast.storage.inspection import inspect

    try:
        found = inspect(folder)
    except (FormatError, OSError) as error:
        return Check("folder", "failed", str(error))
    facts = found.manifest
    stored = sum(layer.base is not None for layer in facts.layers.values())
    by = ", ".join(f"{name} {number}" for name, number in facts.versions.items())
    detail = (
        f"{folder}: schema {facts.schema}, written by {excerpt(by)}; "
        f"{len(facts.layers)} predicted layers ({stored} with stored bases), "
        f"{facts.counts['learned']:,} learned numbers, {found.n_bytes:,} bytes, all checksums right"
    )
    if found.not_finite:
        names = ", ".join(map(excerpt, found.not_finite[:3]))
        return Check("folder", "failed", f"{detail}; NaN or infinite: {names}")
    return Check("folder", "ok", detail)
