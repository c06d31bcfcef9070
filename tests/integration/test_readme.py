"""The Python blocks of README and documentation run, in order, each file in one namespace."""

from __future__ import annotations

import re
import sys
import types
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]
FILES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("**/*.md"))]

_BLOCK = re.compile(
    r"(?P<skip><!-- not run: [^>]+ -->\s*\n)?^(?P<indent> *)```python\n(?P<code>.*?)^ *```",
    re.MULTILINE | re.DOTALL,
)


def blocks(text: str) -> list[tuple[int, str]]:
    """(line, code) of every block that is to run."""
    found = []
    for match in _BLOCK.finditer(text):
        if match["skip"] is None:
            indent = len(match["indent"])
            lines = [line[indent:] for line in match["code"].splitlines()]
            found.append((text[: match.start("code")].count("\n") + 1, "\n".join(lines)))
    return found


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_python_blocks_run(file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    state = torch.get_rng_state()
    # A module that can be found by its name, for classes that are pickled.
    main = types.ModuleType("__main__")
    monkeypatch.setitem(sys.modules, "__main__", main)
    namespace = vars(main)
    try:
        for line, code in blocks(file.read_text(encoding="utf-8")):
            # Blank lines in front make tracebacks show the line of the file itself.
            exec(compile("\n" * (line - 1) + code, str(file), "exec"), namespace)
    finally:
        torch.set_rng_state(state)


def test_the_readme_shows_the_walk():
    code = "\n".join(code for _, code in blocks((ROOT / "README.md").read_text(encoding="utf-8")))
    for step in ("wc.convert(", "wc.ledger(", "wc.save(", "wc.load(", "wc.merge("):
        assert step in code, f"README.md does not show {step}...)"


def test_only_marked_blocks_are_left_out():
    text = """
```python
a = 1
```
<!-- not run: needs a GPU -->
```python
b = 1
```
<!-- another comment -->
```python
c = 1
```
```console
$ d
```
"""
    assert blocks(text) == [(3, "a = 1"), (11, "c = 1")]
