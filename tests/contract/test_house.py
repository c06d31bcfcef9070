"""The rules of the house hold for every file; beside each, snippets that must be found."""

from __future__ import annotations

import ast
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path

import pytest

import weightcast
from tests.contract import house

LIBRARY, LABORATORY = house.files("weightcast"), house.files("weightcast_lab")
BOTH = LIBRARY | LABORATORY
PACKAGES = {"weightcast": LIBRARY, "weightcast_lab": LABORATORY}

Rule = Callable[[ast.Module], Iterator[house.Found]]

told_apart = partial(house.told_apart, classes=house.concrete_classes())


def broken(rule: Rule, files: dict[str, Path], excused: tuple[str, ...] = ()) -> list[str]:
    """Where a rule is broken, as file:line: what."""
    return [
        f"src/{name}:{line}: {what}"
        for name, path in files.items()
        if not name.startswith(excused)
        for line, what in rule(house.parse(path))
    ]


def finds(rule: Rule, snippet: str) -> bool:
    return any(rule(ast.parse(snippet)))


def check(found: list[str]) -> None:
    assert not found, "\n" + "\n".join(found)


def test_every_file_is_read():
    assert len(LIBRARY) > 80
    assert len(LABORATORY) > 80
    assert "weightcast/layers/view.py" in LIBRARY


# Rule 2

PUTS_MODULES = {
    "weightcast/transform/swap.py": "the one place that puts a module in another's",
    "weightcast/cli/stand_in.py": "builds a model out of nothing: no module is replaced",
    "weightcast/inputs/batches.py": "copies batches, and no module",
    "weightcast/inputs/contents.py": "puts back what objects held before a run",
    "weightcast_lab/bench/peers.py": "puts in layers of other libraries",
    "weightcast_lab/studies/compression.py": "puts in factors by other methods, to compare ours",
    "weightcast_lab/studies/deep/ways.py": "puts in layers by other methods, to compare ours",
}


def test_one_file_puts_a_module_in_anothers_place():
    check(broken(house.replaced_modules, BOTH, tuple(PUTS_MODULES)))


@pytest.mark.parametrize(
    "snippet",
    [
        "def f(parent, name, new):\n parent._modules[name] = new",
        "def f(parent, name):\n del parent._modules[name]",
        "def f(parent, name, new):\n children = parent._modules\n children[name] = new",
        "def f(parent, name, new):\n parent._modules.update({name: new})",
        "def f(parent, name, new):\n parent._modules |= {name: new}",
        "def f(parent, name, new):\n vars(parent)['_modules'][name] = new",
        "def f(parent, other):\n parent._modules, n = other, 1",
        "def f(parent, name, new):\n setattr(parent, name, new)",
        "def f(parent, name, new):\n parent.__setattr__(name, new)",
        "def f(parent, name, new):\n nn.Module.__setattr__(parent, name, new)",
        "def f(model, name, new):\n model.set_submodule(name, new)",
        "def f(model, name, new):\n model.get_submodule('0').add_module(name, new)",
        "def f(new):\n holder = nn.ModuleDict({})\n holder['model'] = new",
        "def f(holder: nn.Sequential, new):\n holder[0] = new",
        "def f(model):\n model.head = nn.Linear(2, 3)",
        "def f(model, copies):\n return copy.deepcopy(model, copies)",
    ],
)
def test_a_module_in_anothers_place_is_found(snippet):
    assert finds(house.replaced_modules, snippet)


@pytest.mark.parametrize(
    "snippet",
    [
        "class A:\n def __init__(self, x):\n  self.add_module('a', x)\n  setattr(self, 'b', x)",
        "def f(module, child):\n bare = copy.copy(module)\n bare._modules['a'] = child",
        "def f(root):\n return [m for m in root._modules.values()], root._modules['a']",
        "def f(model):\n holder = nn.ModuleDict({'model': model})\n return holder['model']",
        "def f(layer, dense):\n layer.bias = dense.bias\n layer.weight = nn.Parameter(dense.bias)",
        "def f(layer):\n return copy.deepcopy(layer)",
        "def f(model, kept):\n return copy.deepcopy(model, {id(x): x for x in kept})",
        "class A:\n def g(self):\n  object.__setattr__(self, 'grid', 3)",
    ],
)
def test_building_and_reading_are_no_replacement(snippet):
    assert not finds(house.replaced_modules, snippet)


# Rule 3

ASKS_WHICH = {
    "weightcast_lab/studies/rica.py": "its curves are of dictionaries by name",
    "weightcast_lab/sweeps/curves.py": "its curves are of dictionaries by name",
}


def test_nobody_asks_which_dictionary_or_base_it_is():
    check(broken(told_apart, BOTH, ("weightcast/dictionaries/", *ASKS_WHICH)))


def test_dictionaries_and_bases_are_known():
    names = {"Kernel", "LowRank", "RandomGaussian", "DenseBase", "KroneckerBase", "Covariance"}
    assert names < house.concrete_classes()
    assert not {"Dictionary", "Base", "KernelRidge"} & house.concrete_classes()


@pytest.mark.parametrize(
    "test",
    [
        "isinstance(x, Kernel)",
        "isinstance(x, (int, Kernel))",
        "isinstance(x, int | d.LowRank)",
        "issubclass(type(x), DenseBase)",
        "type(x) is Kernel",
        "type(x) in (Kernel, DenseBase)",
        "x.__class__ == d.Kernel",
        "type(x).__name__ == 'Kernel'",
        "{Kernel: 1, DenseBase: 2}[type(x)]",
    ],
)
def test_a_question_for_one_dictionary_is_found(test):
    imports = "from weightcast.dictionaries import DenseBase, Kernel\n"
    imports += "from weightcast import dictionaries as d\n"
    assert finds(told_apart, f"{imports}{test}")


def test_a_pattern_with_one_dictionary_is_found():
    start = "from weightcast.dictionaries import Kernel\nmatch x:\n"
    assert finds(told_apart, f"{start} case Kernel(): pass")


@pytest.mark.parametrize(
    "snippet",
    [
        "from weightcast.dictionaries import Dictionary, Base\nisinstance(x, (Dictionary, Base))",
        "from sklearn.gaussian_process.kernels import Kernel\nisinstance(x, Kernel)",
        "from weightcast.dictionaries import Kernel\nisinstance(x, int) and Kernel()",
        "from weightcast.dictionaries import Kernel\nx = {'Kernel': Kernel()}",
    ],
)
def test_families_and_other_peoples_classes_may_be_asked_for(snippet):
    assert not finds(told_apart, snippet)


# Rule 4

READS_WORDS = {
    "weightcast/storage/tracing.py": "torch.export tells what it cannot trace in words alone",
    "weightcast/cli/sources.py": "torch.load tells a file that it will not unpickle in words alone",
    "weightcast/testing/": "checks that a message names the numbers, which users read",
}


def test_no_decision_is_taken_from_a_messages_words():
    check(broken(house.words_read, BOTH, tuple(READS_WORDS)))


@pytest.mark.parametrize("test", [
    "'dense' in str(error)",
    "'dense' not in f'{error}'",
    "'dense' in error.args[0]",
    "str(error).startswith('it')",
    "str(error) == 'no'",
    "reason.startswith('is ')",
    "row.reason.endswith('it')",
    "reason.split()[0] in ('is', 'has')",
    "split_reason != 'none'",
    "re.search('dense', str(error))",
    "'x' in hint.lower()",
])  # fmt: skip
def test_a_decision_by_words_is_found(test):
    assert finds(house.words_read, f"if {test}: pass")
    assert finds(house.words_read, f"x = 1 if {test} else 2")


def test_words_taken_apart_for_a_decision_are_found():
    assert finds(house.words_read, "if reason.partition(':')[2]: pass")
    caught = "try: pass\nexcept ValueError as problem:\n if 'it' in str(problem): pass"
    assert finds(house.words_read, caught)


@pytest.mark.parametrize(
    "snippet",
    [
        "if reason: pass",
        "if row.reason == '' or reason is None: pass",
        "print(str(error).splitlines()[0])",
        "if hint in (int, float): pass",
        "if name.startswith('re:') and 'a' in text: pass",
    ],
)
def test_saying_words_is_no_decision(snippet):
    assert not finds(house.words_read, snippet)


@pytest.mark.parametrize(
    ("rule", "excused"),
    [
        *((house.replaced_modules, place) for place in PUTS_MODULES),
        *((told_apart, place) for place in ASKS_WHICH),
        *((house.words_read, place) for place in READS_WORDS),
    ],
)
def test_nothing_is_excused_in_vain(rule, excused):
    files = {name: path for name, path in BOTH.items() if name.startswith(excused)}
    assert broken(rule, files)


# Rule 5


def duplicates(files: dict[str, Path]) -> dict[str, list[str]]:
    """Names of several files."""
    places: dict[str, list[str]] = defaultdict(list)
    for name, path in files.items():
        if path.stem not in ("__init__", "__main__"):
            places[path.name].append(name)
    return {name: found for name, found in places.items() if len(found) > 1}


def of_standard_library(files: dict[str, Path]) -> list[str]:
    """Files, and folders of files, that are named as a module of the standard library."""
    parts = {name: {*Path(name).parts[:-1], Path(name).stem} for name in files}
    return [name for name, own in parts.items() if own & sys.stdlib_module_names]


@pytest.mark.parametrize("package", [
    "weightcast",
    "weightcast_lab",
])  # fmt: skip
def test_a_file_name_occurs_once(package):
    assert duplicates(PACKAGES[package]) == {}


@pytest.mark.parametrize("package", PACKAGES)
def test_no_file_is_named_as_one_of_the_standard_library(package):
    assert of_standard_library(PACKAGES[package]) == []


def test_names_that_occur_twice_or_elsewhere_are_found():
    names = ["a/rows.py", "b/rows.py", "a/__init__.py", "b/__init__.py", "b/json.py", "io/x.py"]
    files = {name: Path(name) for name in names}
    assert duplicates(files) == {"rows.py": ["a/rows.py", "b/rows.py"]}
    assert of_standard_library(files) == ["b/json.py", "io/x.py"]


# Rule 1, which import-linter checks too, but for imports by a string


def names(package: str) -> Rule:
    """Whether a file imports a package, or names it to import it."""
    return lambda tree: (
        (line, name)
        for line, name in house.named_modules(tree)
        if name == package or name.startswith((f"{package}.", f"{package}:"))
    )


def test_the_library_never_names_the_laboratory():
    check(broken(names("weightcast_lab"), LIBRARY))


def test_the_command_alone_imports_integrations():
    check(
        broken(
            names("weightcast.integrations"),
            LIBRARY,
            ("weightcast/cli/", "weightcast/integrations/"),
        )
    )


@pytest.mark.parametrize("snippet", [
    "import weightcast_lab",
    "from weightcast_lab import data",
    "def f():\n from weightcast_lab.data import text",
    "importlib.import_module('weightcast_lab.data')",
    "load('weightcast_lab:main')",
])  # fmt: skip
def test_an_import_is_found(snippet):
    assert finds(names("weightcast_lab"), snippet)


def test_a_docstring_may_name_a_package():
    assert not finds(names("weightcast_lab"), '"""weightcast_lab."""')
    assert not finds(names("weightcast_lab"), "import weightcast_labels")


# Tests mirror the tree

UNITS = Path(__file__).parents[1] / "unit"

TESTED_ELSEWHERE = {
    "cli/": "tests/integration runs the commands",
    "dictionaries/work.py": "tests/contract/test_work.py compares it with what building does",
    "layers/attention.py": "a row of tests/contract/table.py, as the next ones",
    "layers/bilinear.py": "a row",
    "layers/convolution.py": "a row for each number of axes",
    "layers/embedding.py": "a row",
    "layers/experts.py": "a row",
    "layers/linear.py": "a row",
    "layers/parameter.py": "a row",
    "layers/recurrent.py": "a row for each kind",
    "layers/transposed.py": "a row for each number of axes",
    "least_squares/": "tests/unit/test_least_squares.py, by what the package offers",
    "storage/export.py": "tests/integration/test_export.py runs what is exported",
    "testing/": "tests/unit/testing breaks what each check must catch",
    "transform/distil/": "tests/unit/transform/test_distil.py, by its one public function",
    "transform/pretrain/": "tests/unit/transform/test_pretrain.py, by its one public function",
}


def untested(files: Iterable[str], tests: set[str]) -> list[str]:
    """Modules without a test file of their own name in their own place."""
    return [
        name
        for name in files
        if not name.startswith(tuple(TESTED_ELSEWHERE))
        and Path(name).stem not in ("__init__", "__main__")
        and Path(name).with_name(f"test_{Path(name).name}").as_posix() not in tests
    ]


def test_every_module_has_a_test_file_of_its_name():
    tests = {path.relative_to(UNITS).as_posix() for path in UNITS.rglob("test_*.py")}
    check(untested((name.removeprefix("weightcast/") for name in LIBRARY), tests))


def test_a_module_without_a_test_file_is_found():
    files = ["grid.py", "plan/plan.py", "plan/sites.py", "plan/__init__.py", "cli/main.py"]
    tests = {"test_grid.py", "test_plan.py", "plan/test_sites.py"}
    assert untested(files, tests) == ["plan/plan.py"]


# Counts


def test_the_library_has_few_names():
    assert len(weightcast.__all__) <= 48


def test_the_library_has_few_entries():
    entries = [
        path.name for path in (house.SOURCE / "weightcast").iterdir() if path.name != "__pycache__"
    ]
    assert len(entries) <= 20, sorted(entries)


def test_the_library_is_small():
    n_lines = {name: len(path.read_text("utf-8").splitlines()) for name, path in LIBRARY.items()}
    assert sum(n_lines.values()) <= 21_180


def test_functions_are_short():
    check(broken(partial(house.long_functions, most=45), LIBRARY))


def test_a_long_function_is_found_and_a_long_docstring_is_none():
    body, text = "\n".join(["    x = 1"] * 45), '    """Say."""\n'
    assert finds(partial(house.long_functions, most=45), f"def f():\n{text}{body}")
    text = '    """Say.\n' + "more\n" * 50 + '    """\n'
    assert not finds(partial(house.long_functions, most=46), f"def f():\n{text}{body}")


def test_layers_say_what_they_take():
    files = [path for name, path in LIBRARY.items() if name.startswith("weightcast/layers/")]
    assert sum(house.count_any(house.parse(path)) for path in files) < 40


def test_every_any_is_counted():
    tree = ast.parse("from typing import Any\ndef f(x: Any, *y: list[typing.Any]) -> Any: ...")
    assert house.count_any(tree) == 3
