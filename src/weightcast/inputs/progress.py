"""Progress of long work, on stderr: a bar on a terminal, lines in a log."""

from __future__ import annotations

import sys
from typing import Any, Self


class Progress:
    """Shows on stderr how many of ``total`` steps of some work are done, unless ``show`` is False.

    The bar needs tqdm; without it a terminal gets the log's lines.
    """

    def __init__(self, title: str, total: float, *, show: bool) -> None:
        self.title, self.total, self.show = title, total, show
        self.bar: Any = None

    def __enter__(self) -> Self:
        if self.show and sys.stderr.isatty():
            self.bar = _make_bar(self.title, self.total)
        return self

    def __exit__(self, *_: object) -> None:
        if self.bar is not None:
            self.bar.close()

    def step(self, share: float = 1.0) -> None:
        """Move the bar by some steps."""
        if self.bar is not None:
            self.bar.update(min(share, self.bar.total - self.bar.n))  # shares are rounded

    def say(self, text: str) -> None:
        """Show a text beside the bar, or print it."""
        if self.bar is not None:
            self.bar.set_postfix_str(text)
        elif self.show:
            print(f"{self.title} {text}", file=sys.stderr, flush=True)


def _make_bar(title: str, total: float) -> Any:
    try:
        from tqdm import tqdm
    except Exception:  # missing, or broken: the work goes on without a bar
        return None
    layout = "{desc} {percentage:3.0f}% |{bar}| {elapsed}, {remaining} left{postfix}"
    return tqdm(desc=title, total=total, bar_format=layout)
