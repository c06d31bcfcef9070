"""The rules of the house, each a function from a file's syntax to what breaks the rule there."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator
from pathlib import Path

import weightcast.dictionaries as dictionaries

SOURCE = Path(__file__).parents[2] / "src"

Found = tuple[int, str]
"""A line, and what is wrong there."""

Function = ast.FunctionDef | ast.AsyncFunctionDef


def files(package: str) -> dict[str, Path]:
    """The Python files of a package by their paths, such as ``weightcast/layers/view.py``."""
    paths = sorted((SOURCE / package).rglob("*.py"))
    return {path.relative_to(SOURCE).as_posix(): path for path in paths}


def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


# Rule 2: a module in another's place.

CHANGES = {"update", "pop", "popitem", "clear", "setdefault", "__setitem__", "__delitem__"}
PLACES = {"set_submodule", "add_module", "register_module"}
SETS = {"setattr", "delattr"}
HOLDERS = {"ModuleDict", "ModuleList", "Sequential"}
NO_MODULE = {"Parameter", "Buffer", "UninitializedParameter"}


def replaced_modules(tree: ast.Module) -> Iterator[Found]:
    """Changes of the parts of a module that is neither ``self`` nor made in the same function.

    ``_modules``, ``setattr``, ``add_module`` and the like; entries of a ``ModuleDict`` and its
    kind; an attribute that becomes a new module; a deep copy whose memo tells the replacements.
    """
    for scope in _scopes(tree):
        nodes = list(_within(scope))
        own = {"self"} | {name for name, value in _bindings(nodes) if _makes_object(value)}
        aliases = {name for name, value in _bindings(nodes) if _is_table(value, set())}
        holders = {name for name, value in _bindings(nodes) if _called(value) in HOLDERS}
        holders |= _annotated(scope, HOLDERS)
        for node in nodes:
            if _replaces(node, own, aliases, holders):
                yield node.lineno, ast.unparse(node)


def _replaces(node: ast.AST, own: set[str], aliases: set[str], holders: set[str]) -> bool:
    if isinstance(node, ast.Assign | ast.AugAssign | ast.AnnAssign | ast.Delete):
        return any(_replaces_at(target, node, own, aliases, holders) for target in _targets(node))
    if not isinstance(node, ast.Call):
        return False
    called, whole = _called(node), ast.unparse(node.func)
    if whole in ("copy.deepcopy", "deepcopy"):
        memo = [*node.args[1:], *(keyword.value for keyword in node.keywords)]
        return bool(memo) and not _keeps(memo[0])
    if called in SETS and whole == called:
        return not _is_own(node.args[0], own)
    if not isinstance(node.func, ast.Attribute):
        return False
    if called in ("__setattr__", "__delattr__"):
        # Of a class with the object as its first argument, or of the object itself.
        by_class = len(node.args) == 3 - (called == "__delattr__")
        return not _is_own(node.args[0] if by_class else node.func.value, own)
    if called in PLACES:
        return not _is_own(node.func.value, own)
    table = _is_table(node.func.value, aliases) and not _is_own(node.func.value, own)
    return called in CHANGES and table


def _replaces_at(
    target: ast.expr, node: ast.AST, own: set[str], aliases: set[str], holders: set[str]
) -> bool:
    if isinstance(target, ast.Subscript):
        held = isinstance(target.value, ast.Name) and target.value.id in holders
        return held or (_is_table(target.value, aliases) and not _is_own(target.value, own))
    if not isinstance(target, ast.Attribute) or _is_own(target.value, own):
        return False
    return target.attr == "_modules" or _makes_module(getattr(node, "value", None))


def _is_table(node: ast.AST | None, aliases: set[str]) -> bool:
    """Whether an expression is the ``_modules`` of something."""
    if isinstance(node, ast.Subscript):  # vars(module)["_modules"]
        return isinstance(node.slice, ast.Constant) and node.slice.value == "_modules"
    if isinstance(node, ast.Name):
        return node.id in aliases
    return isinstance(node, ast.Attribute) and node.attr == "_modules"


def _is_own(node: ast.expr, own: set[str]) -> bool:
    """Whether it is an object of the function's own making, ``super()``, or the table of one."""
    if isinstance(node, ast.Attribute) and node.attr == "_modules":
        node = node.value
    if isinstance(node, ast.Name):
        return node.id in own
    return _called(node) == "super"


def _keeps(memo: ast.expr) -> bool:
    """Whether a deep copy's memo says of objects that they stay themselves: {id(x): x for ...}."""
    if not isinstance(memo, ast.DictComp):
        return False
    return ast.unparse(memo.key) == f"id({ast.unparse(memo.value)})"


def _makes_object(node: ast.AST | None) -> bool:
    """Whether it calls a class, or copies one object without its parts."""
    if not isinstance(node, ast.Call):
        return False
    name = _called(node)
    return name == "cls" or name[:1].isupper() or ast.unparse(node.func) == "copy.copy"


def _makes_module(node: ast.AST | None) -> bool:
    """Whether it calls a class of ``torch.nn``."""
    if not isinstance(node, ast.Call) or not ast.unparse(node.func).startswith(("nn.", "torch.nn")):
        return False
    name = _called(node)
    return name[:1].isupper() and name not in NO_MODULE


# Rule 3: one concrete dictionary or base.


def concrete_classes() -> set[str]:
    """Names of all dictionaries and bases that are no mere families of others."""
    left, found = [dictionaries.Dictionary, dictionaries.Base], set()
    while left:
        kinds = left.pop().__subclasses__()
        left += kinds
        found |= {
            kind.__name__
            for kind in kinds
            if kind.__module__.startswith("weightcast.") and not inspect.isabstract(kind)
        }
    return found


def told_apart(tree: ast.Module, classes: set[str]) -> Iterator[Found]:
    """Decisions on the class of one dictionary or base.

    By ``isinstance``, ``issubclass``, ``type(...) is``, a class's ``__name__``, a pattern of
    ``match``, or a table whose keys are classes.
    """
    ours = _imported(tree, "weightcast")

    def names_one(node: ast.AST) -> bool:
        for part in ast.walk(node):
            name = part.attr if isinstance(part, ast.Attribute) else getattr(part, "id", None)
            root = part
            while isinstance(root, ast.Attribute):
                root = root.value
            if name in classes and isinstance(root, ast.Name) and root.id in ours:
                return True
        return False

    for node in ast.walk(tree):
        found = False
        if isinstance(node, ast.Call) and _called(node) in ("isinstance", "issubclass"):
            found = names_one(node.args[1])
        elif isinstance(node, ast.Compare):
            sides = [node.left, *node.comparators]
            kinds = any(_called(part) == "type" or _ends(part, "__class__") for part in sides)
            found = kinds and any(map(names_one, sides))
            named = any(_ends(part, "__name__") for part in sides)
            found |= named and any(_strings(part) & classes for part in sides)
        elif isinstance(node, ast.MatchClass):
            found = names_one(node.cls)
        elif isinstance(node, ast.Dict):
            found = any(key is not None and _is_name(key) and names_one(key) for key in node.keys)
        if found:
            yield node.lineno, ast.unparse(node)  # pyright: ignore[reportAttributeAccessIssue]


# Rule 4: the words of a message.

WORDS = {"reason", "why", "message", "msg", "hint", "remedy", "refusal", "advice"}
ASKS = {"startswith", "endswith", "find", "rfind", "index", "count", "isupper", "islower"}
PARTS = {"split", "rsplit", "partition", "rpartition", "splitlines", "removeprefix", "lower"}
MATCHES = {"search", "match", "fullmatch", "findall", "finditer"}


def words_read(tree: ast.Module) -> Iterator[Found]:
    """Decisions that are taken from what a message says."""
    errors = {
        node.name for node in ast.walk(tree) if isinstance(node, ast.ExceptHandler) and node.name
    } | {"error", "exception"}
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            found = _asks_words(node, errors)
        elif isinstance(node, ast.Compare):
            found = _compares_words(node, errors)
        elif isinstance(node, ast.If | ast.IfExp | ast.While):
            found = _takes_words_apart(node.test, errors)
        else:
            continue
        if found:
            line = node.test if isinstance(node, ast.If | ast.While) else node
            yield node.lineno, ast.unparse(line)


def _asks_words(node: ast.Call, errors: set[str]) -> bool:
    if not isinstance(node.func, ast.Attribute):
        return False
    of_re = ast.unparse(node.func.value) == "re" and node.func.attr in MATCHES
    if of_re or node.func.attr in MATCHES:
        return any(_says(argument, errors) for argument in node.args)
    return node.func.attr in ASKS and _says(node.func.value, errors)


def _compares_words(node: ast.Compare, errors: set[str]) -> bool:
    left = node.left
    for operator, right in zip(node.ops, node.comparators, strict=True):
        if isinstance(operator, ast.In | ast.NotIn):
            if _says(right, errors) or (_says(left, errors) and _strings(right)):
                return True
        elif isinstance(operator, ast.Eq | ast.NotEq):
            spoken = _says(left, errors) or _says(right, errors)
            if spoken and (_strings(left) | _strings(right)) - {""}:
                return True
        left = right
    return False


def _takes_words_apart(test: ast.expr, errors: set[str]) -> bool:
    return any(
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in PARTS
        and _says(node.func.value, errors)
        for node in ast.walk(test)
    )


def _says(node: ast.AST, errors: set[str]) -> bool:
    """Whether an expression is the text of a message, or a part of it."""
    if isinstance(node, ast.Name):
        return node.id in WORDS or node.id.rpartition("_")[2] in WORDS
    if isinstance(node, ast.Attribute):
        return node.attr in WORDS or (node.attr == "args" and _is_name_of(node.value, errors))
    if isinstance(node, ast.Subscript):
        return _says(node.value, errors)
    if isinstance(node, ast.JoinedStr):
        return any(
            isinstance(part, ast.FormattedValue) and _is_name_of(part.value, errors)
            for part in node.values
        )
    if isinstance(node, ast.Call):
        if _called(node) in ("str", "repr") and node.args:
            return _is_name_of(node.args[0], errors) or _says(node.args[0], errors)
        return isinstance(node.func, ast.Attribute) and _says(node.func.value, errors)
    return False


# Counts.


def long_functions(tree: ast.Module, most: int) -> Iterator[Found]:
    """Functions of more lines than that, their docstrings apart."""
    for node in ast.walk(tree):
        if isinstance(node, Function):
            first = node.body[0]
            text = first if ast.get_docstring(node, clean=False) is not None else None
            n_lines = _n_lines(node) - (_n_lines(text) if text else 0)
            if n_lines > most:
                yield node.lineno, f"{node.name} has {n_lines} lines"


def count_any(tree: ast.Module) -> int:
    """How often something is annotated as Any."""
    return sum(_is_name_of(node, {"Any"}) or _ends(node, "Any") for node in ast.walk(tree))


def named_modules(tree: ast.Module) -> Iterator[Found]:
    """Modules that are imported, or named by a string that is no docstring."""
    texts = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | Function)
        and ast.get_docstring(node) is not None
        and isinstance(node.body[0], ast.Expr)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            yield from ((node.lineno, f"{module}.{alias.name}") for alias in node.names)
        elif isinstance(node, ast.Constant) and id(node) not in texts:
            yield node.lineno, str(node.value)


# Syntax.


def _scopes(tree: ast.Module) -> Iterator[ast.AST]:
    yield tree
    yield from (node for node in ast.walk(tree) if isinstance(node, Function))


def _within(scope: ast.AST) -> Iterator[ast.AST]:
    """The nodes of a scope without those of the functions inside it."""
    for child in ast.iter_child_nodes(scope):
        if not isinstance(child, Function):
            yield child
            yield from _within(child)


def _bindings(nodes: list[ast.AST]) -> Iterator[tuple[str, ast.AST | None]]:
    for node in nodes:
        if isinstance(node, ast.Assign | ast.AnnAssign | ast.NamedExpr):
            for target in _targets(node):
                if isinstance(target, ast.Name):
                    yield target.id, node.value


def _targets(node: ast.AST) -> Iterator[ast.expr]:
    targets = getattr(node, "targets", None) or [node.target]  # pyright: ignore[reportAttributeAccessIssue]
    for target in targets:
        yield from target.elts if isinstance(target, ast.Tuple | ast.List) else [target]


def _annotated(scope: ast.AST, names: set[str]) -> set[str]:
    arguments = scope.args.args + scope.args.kwonlyargs if isinstance(scope, Function) else []
    return {
        argument.arg
        for argument in arguments
        if argument.annotation is not None
        and ast.unparse(argument.annotation).rpartition(".")[2] in names
    }


def _imported(tree: ast.Module, package: str) -> set[str]:
    """Names that a file imports from a package."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (
            node.level or (node.module or "").split(".")[0] == package
        ):
            found |= {alias.asname or alias.name for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {
                alias.asname or package
                for alias in node.names
                if alias.name.split(".")[0] == package
            }
    return found


def _called(node: ast.AST | None) -> str:
    """The last name of what is called."""
    return ast.unparse(node.func).rpartition(".")[2] if isinstance(node, ast.Call) else ""


def _is_name(node: ast.AST) -> bool:
    return isinstance(node, ast.Name | ast.Attribute)


def _is_name_of(node: ast.AST, names: set[str]) -> bool:
    return isinstance(node, ast.Name) and node.id in names


def _ends(node: ast.AST, attribute: str) -> bool:
    return isinstance(node, ast.Attribute) and node.attr == attribute


def _strings(node: ast.AST) -> set[str]:
    """The strings that an expression lists; of names of constants, that they are some."""
    parts = node.elts if isinstance(node, ast.Tuple | ast.List | ast.Set) else [node]
    return {p.value for p in parts if isinstance(p, ast.Constant) and isinstance(p.value, str)}


def _n_lines(node: ast.AST) -> int:
    return node.end_lineno - node.lineno + 1  # pyright: ignore[reportAttributeAccessIssue]
