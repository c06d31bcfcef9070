"""What in a source could execute what a file holds, found in its syntax tree."""

from __future__ import annotations

import ast
from collections.abc import Iterator

MODULES = {
    "cloudpickle", "dill", "joblib", "jsonpickle", "marshal", "pickle", "runpy", "shelve",
}  # fmt: skip
"""Modules that execute what they read; with an underscore before their names, too."""

BUILTINS = {"__builtins__", "__import__", "compile", "eval", "exec"}

LOADERS = {
    "numpy.load": ("allow_pickle", "False", True),
    "torch.load": ("weights_only", "True", False),
    "torch.serialization.load": ("weights_only", "True", False),
}
"""Functions to be called with one option: its name, its value, whether that is the default."""

FORBIDDEN = {
    "load_from_checkpoint", "read_pickle", "torch.hub.load", "torch.jit.load", "yaml.full_load",
    "yaml.load_all", "yaml.unsafe_load",
}  # fmt: skip

HOLDERS = {"builtins", "numpy", "torch", "torch.serialization", "yaml"}
"""Modules whose attributes are to be named in the source."""

INDEXED = {"sys.modules", *(f"{holder}.__dict__" for holder in HOLDERS)}


def offences(tree: ast.AST) -> Iterator[str]:
    """Whatever in a syntax tree could execute what a file holds."""
    names = _Names(tree)
    called = {id(node.func): node for node in ast.walk(tree) if isinstance(node, ast.Call)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield from _of_import(node)
        elif isinstance(node, ast.Name | ast.Attribute):
            yield from _of_name(names.of(node), called.get(id(node)), names)
        elif isinstance(node, ast.Call):
            yield from _of_call(node, names)
        elif isinstance(node, ast.Subscript) and names.of(node.value) in INDEXED:
            yield f"looks up a name in {names.of(node.value)}"


class _Names:
    """Full names, whatever the source calls what it imports."""

    def __init__(self, tree: ast.AST) -> None:
        self._full = {"np": "numpy"}
        self.safe_loaders = {"yaml.SafeLoader", "yaml.CSafeLoader"}
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                self._full |= {alias.asname: alias.name for alias in node.names if alias.asname}
            elif isinstance(node, ast.ImportFrom):
                module = node.module or ""
                self._full |= {a.asname or a.name: f"{module}.{a.name}" for a in node.names}
        for node in ast.walk(tree):  # what is derived from PyYAML's safe loader
            if isinstance(node, ast.ClassDef) and "yaml.SafeLoader" in map(self.of, node.bases):
                self.safe_loaders.add(node.name)

    def of(self, node: ast.AST) -> str:
        """The full name of what a name or an attribute stands for."""
        if isinstance(node, ast.Attribute):
            return f"{self.of(node.value)}.{node.attr}"
        text = ast.unparse(node)
        return self._full.get(text, text)


def _of_import(node: ast.Import | ast.ImportFrom) -> Iterator[str]:
    if isinstance(node, ast.Import):
        imported = {alias.name for alias in node.names}
    else:
        module = node.module or ""
        imported = {module, *(f"{module}.{alias.name}" for alias in node.names)}
    yield from (f"imports {name}" for name in imported if _is_forbidden(name))
    yield from (f"imports {name} by itself" for name in imported & LOADERS.keys())
    yield from (f"imports all of {name}" for name in imported if name.endswith(".*"))


def _is_forbidden(name: str) -> bool:
    """Whether a name is, or is in, something that executes what it reads."""
    return (
        name.split(".")[0].lstrip("_") in MODULES
        or name.removeprefix("builtins.") in BUILTINS
        or name in FORBIDDEN
        or name.rpartition(".")[2] in FORBIDDEN
    )


def _of_name(name: str, call: ast.Call | None, names: _Names) -> Iterator[str]:
    """A name that is read, or called."""
    if _is_forbidden(name):
        yield name
    options = {} if call is None else {o.arg: ast.unparse(o.value) for o in call.keywords}
    if name in LOADERS:
        option, value, is_default = LOADERS[name]
        if call is None or options.get(option, value if is_default else "") != value:
            yield f"{name} without {option}={value}"
    if name == "yaml.load":
        second = "" if call is None or len(call.args) < 2 else names.of(call.args[1])
        if (second or options.get("Loader")) not in names.safe_loaders:
            yield "yaml.load without a safe loader"


def _of_call(node: ast.Call, names: _Names) -> Iterator[str]:
    """Names that are put together when the source runs."""
    called = names.of(node.func)
    given = [*node.args, *(option.value for option in node.keywords)]
    constants = [one.value if isinstance(one, ast.Constant) else None for one in given]
    if called.rpartition(".")[2] == "import_module":
        module = constants[0] if constants else None
        if not isinstance(module, str) or _is_forbidden(module):
            yield f"imports {module or 'a module by a name that the source does not tell'}"
    if called in ("getattr", "operator.attrgetter", "vars"):
        holder = names.of(node.args[0]) if node.args else ""
        attribute = constants[1] if len(constants) > 1 else None
        if holder in HOLDERS or _is_forbidden(f"{holder}.{attribute}"):
            yield f"{called} of {holder}"
