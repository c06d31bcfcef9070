"""Extras: the packages that each is made of, and one line on those that are there and broken."""

from __future__ import annotations

import functools
import importlib
import re
import traceback
import warnings
from collections.abc import Iterator, Mapping
from importlib.metadata import packages_distributions, requires
from itertools import pairwise
from pathlib import Path

_JOINT = ("all", "demo", "dev", "docs", "lab")  # extras that are made of others
_OURS = "weightcast"  # our modules begin with it


def extras() -> dict[str, list[str]]:
    """The packages of each extra, by its name; of those that are not made of other extras."""
    found: dict[str, list[str]] = {}
    for requirement in requires("weightcast") or []:
        parts = re.match(r"([\w.-]+)[^;]*;.*extra == ['\"](\w+)['\"]", requirement)
        if parts and parts[2] not in _JOINT and parts[1] != "weightcast":
            found.setdefault(parts[2], []).append(parts[1])
    return dict(sorted(found.items()))


def import_failure(package: str) -> str | None:
    """What is wrong with an installed package that does not import, as one line; None if it does.

    Args:
        package: as pip calls it; all modules that it brings are imported.
    """
    for module, packages in _installed().items():
        if _plain(package) not in map(_plain, packages) or module.startswith("_"):
            continue
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                importlib.import_module(module)
        except Exception as error:
            return broken_package(error) or _line(module, module, error)
    return None


def broken_package(error: BaseException | None) -> str | None:
    """One line on the installed package at whose import an error was raised; None for others.

    Its name, that of the package which it needs and which is the broken one, the reason and what to
    do. A package that is not installed is another matter.
    """
    found: list[tuple[str, BaseException]] = []
    while error is not None:
        names = [name for name in _importing(error) if not name.startswith(_OURS)]
        found += [(name, error) for name in names if name in _installed()]
        error = error.__cause__
    return _line(found[0][0], *found[-1]) if found else None


def _importing(error: BaseException) -> Iterator[str]:
    """The packages whose modules were being run, outermost first, or could not even be read."""
    module = ""
    for frame, _ in traceback.walk_tb(error.__traceback__):
        module = str(frame.f_globals.get("__name__")).partition(".")[0]
        if frame.f_code.co_name == "<module>":
            yield module
    if isinstance(error, SyntaxError):
        for folder, name in pairwise(Path(error.filename or "").parts):
            if folder in ("site-packages", "dist-packages"):
                yield name
    elif isinstance(error, ImportError) and module.startswith(
        _OURS
    ):  # of a name that we expect in it
        yield str(error.name).partition(".")[0]


def _line(module: str, culprit: str, error: BaseException) -> str:
    """The package that was asked for, the one within it that is broken, the reason, the remedy."""
    package, broken = (_installed().get(name, [name])[0] for name in (module, culprit))
    of_extra = [extra for extra, names in extras().items() if _plain(package) in map(_plain, names)]
    which = f"{package} (extra {of_extra[0]})" if of_extra else package
    within = f" in {broken}" if broken != package else ""
    reason = " ".join(f"{type(error).__name__}: {error}".split())
    install = f"'weightcast[{of_extra[0]}]'" if of_extra else package
    return (
        f"{which} is installed and does not import, {reason}{within}: "
        f"pip uninstall {broken}, then pip install {install}"
    )


@functools.cache
def _installed() -> Mapping[str, list[str]]:
    """The packages by the modules that they bring."""
    return packages_distributions()


def _plain(package: str) -> str:
    """A package's name as pip compares it."""
    return re.sub(r"[-_.]+", "-", package).lower()
