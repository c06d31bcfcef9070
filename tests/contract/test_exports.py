"""Every exported class has a row in the table, and every public name a docstring."""

from __future__ import annotations

import inspect
import re
from importlib.metadata import version

import pytest

import weightcast as wc
from tests.contract.table import BASES, DICTIONARIES, KERNELS, LAYERS, NOT_BUILT, make_dictionary
from weightcast import dictionaries, kernels
from weightcast.cli.main import main


def _concrete(module, kind: type) -> set[str]:
    found = {
        name: cls
        for name, cls in vars(module).items()
        if inspect.isclass(cls) and issubclass(cls, kind) and not name.startswith("_")
    }
    return {name for name, cls in found.items() if not inspect.isabstract(cls)}


def test_every_dictionary_has_a_row():
    rows = {type(make_dictionary(name, 24)).__name__ for name in DICTIONARIES}
    assert _concrete(dictionaries, dictionaries.Dictionary) - NOT_BUILT == rows


def test_every_base_has_a_row():
    assert _concrete(dictionaries, dictionaries.Base) == set(BASES)


def test_every_kernel_has_a_row():
    rows = {type(kernel).__name__ for kernel in KERNELS.values()}
    assert _concrete(kernels, kernels.CoordinateKernel) == rows


def test_every_layer_has_a_row():
    exported = _concrete(wc, wc.PredictedLayer) - {"PredictedLayer"}  # what all of them share
    assert exported == {row.predicted.__name__ for row in LAYERS.values()}


def test_dir_lists_public_names_alone(capsys):
    assert sorted(dir(wc)) == sorted([*wc.__all__, "__version__"])
    assert wc.__version__ == version("weightcast")
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"weightcast {wc.__version__}\n"


def _public() -> dict[str, object]:
    names = {f"weightcast.{name}": getattr(wc, name) for name in wc.__all__}
    names |= {
        f"weightcast.dictionaries.{name}": getattr(dictionaries, name)
        for name in dictionaries.__all__
    }
    names |= {
        f"weightcast.kernels.{name}": value
        for name, value in vars(kernels).items()
        if not name.startswith("_") and getattr(value, "__module__", "") == kernels.__name__
    }
    return {name: value for name, value in names.items() if not inspect.ismodule(value)}


def test_the_explicit_exports_exist():
    for module in (wc, dictionaries):
        for name in module.__all__:
            assert hasattr(module, name), name
        assert list(module.__all__) == sorted(module.__all__, key=lambda n: (n.upper() != n, n))


@pytest.mark.parametrize("name", _public())
def test_every_public_name_is_documented(name):
    value = _public()[name]
    text = inspect.getdoc(value) or ""
    assert len(text.splitlines()[0]) > 10, f"{name} has no docstring"
    if inspect.isclass(value) and issubclass(value, BaseException):
        return
    try:
        parameters = [p for p in inspect.signature(value).parameters if p != "self"]
    except (TypeError, ValueError):
        return
    if inspect.isabstract(value) or not parameters or getattr(value, "_is_protocol", False):
        return
    refers = re.search(r"[Aa]rguments (of|as for)", text)
    assert "Args:" in text or refers, f"{name}({', '.join(parameters)}) documents no arguments"


@pytest.mark.parametrize("name", _public())
def test_documented_arguments_exist(name):
    value = _public()[name]
    text = inspect.getdoc(value) or ""
    if "Args:" not in text:
        return
    section = re.split(r"\n(?:Returns|Raises|References|Yields)", text.split("Args:")[1])[0]
    documented = re.findall(r"^ {4}(\w+):", section, re.MULTILINE)
    parameters = set(inspect.signature(value).parameters)
    assert documented
    assert set(documented) <= parameters, f"{name} has no {set(documented) - parameters}"
    undocumented = [p for p in parameters if p not in documented]
    assert not undocumented, f"{name} leaves {undocumented} undocumented"
