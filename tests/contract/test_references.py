"""Every Sphinx role in the library's docstrings names something that exists."""

import ast
import importlib
import inspect
import re
from pathlib import Path

import pytest

import weightcast

SOURCE = Path(weightcast.__file__).parent
ROLE = re.compile(r":(?:py:)?(?:attr|class|data|exc|func|meth|mod|obj):`~?([^`]*)`")


def references(text: str) -> list[tuple[str, str]]:
    """The role targets of a file's docstrings, each with the class that it is read in, or ""."""
    found: list[tuple[str, str]] = []

    def visit(node: ast.AST, owner: str) -> None:
        if isinstance(node, ast.ClassDef):
            owner = f"{owner}.{node.name}".lstrip(".")
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            found.extend((name, owner) for name in ROLE.findall(str(node.value.value)))
        for child in ast.iter_child_nodes(node):
            visit(child, owner)

    visit(ast.parse(text), "")
    return found


def has_path(thing: object, path: list[str]) -> bool:
    """Whether attributes lead on from a thing; a class's annotated fields are attributes too."""
    for place, name in enumerate(path):
        if inspect.isclass(thing) and not hasattr(thing, name):
            fields = {field for base in thing.__mro__ for field in inspect.get_annotations(base)}
            return name in fields and place == len(path) - 1
        if not hasattr(thing, name):
            return False
        thing = getattr(thing, name)
    return True


def exists(target: str, module_name: str, owner: str = "") -> bool:
    """Whether a target is found in the class, in the module, in ``weightcast``, or by import."""
    path = target.split(".")
    module = importlib.import_module(module_name)
    if owner and has_path(module, [*owner.split("."), *path]):
        return True
    if has_path(module, path) or has_path(weightcast, path):
        return True
    for length in range(len(path), 0, -1):
        try:
            found = importlib.import_module(".".join(path[:length]))
        except (ImportError, TypeError, ValueError):
            continue
        return has_path(found, path[length:])
    return False


def module_of(file: Path) -> str:
    parts = file.relative_to(SOURCE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def test_every_role_names_what_exists():
    stale, n_found = [], 0
    for file in sorted(SOURCE.rglob("*.py")):
        text = file.read_text(encoding="utf-8")
        found = references(text)
        assert len(found) == len(ROLE.findall(text)), f"{file}: a role outside a docstring"
        n_found += len(found)
        for target, owner in found:
            if not exists(target, module_of(file), owner):
                stale.append(f"{file.relative_to(SOURCE)}: {target}")
    assert stale == []
    assert n_found > 50


@pytest.mark.parametrize(
    "target", ["Site.requires", "weightcast.layers.splitting", "weightcast.conversion", "nothing"]
)
def test_a_made_up_target_is_not_found(target):
    text = f'class Dictionary:\n    def build(self):\n        """See :meth:`{target}`."""\n'
    assert references(text) == [(target, "Dictionary")]
    assert not exists(target, "weightcast.dictionaries.base", "Dictionary")


@pytest.mark.parametrize(
    "target", ["build", "Dictionary.build", "Site", "convert", "weightcast.layers.view.View.sizes"]
)
def test_what_is_there_is_found(target):
    assert exists(target, "weightcast.dictionaries.base", "Dictionary")
