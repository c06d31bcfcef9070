"""Progress: a bar on a terminal, lines in a log, nothing where nothing is wanted."""

from __future__ import annotations

import builtins
import sys

import pytest

from weightcast.inputs.progress import Progress


def work(show: bool = True) -> None:
    with Progress("fitting", 3, show=show) as shown:
        for name in ("a", "b", "c"):
            shown.step(1.4)  # shares are rounded: in all more than there is
            shown.say(f"layer {name}")


def test_a_log_gets_a_line_for_each_step(capsys):
    work()
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == ["fitting layer a", "fitting layer b", "fitting layer c"]


def test_nothing_is_shown_where_nothing_is_wanted(capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    work(show=False)
    assert capsys.readouterr() == ("", "")


def test_a_terminal_gets_one_bar_that_ends_full(capsys, monkeypatch):
    pytest.importorskip("tqdm")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    work()
    last = capsys.readouterr().err.rstrip().rpartition("\r")[2]
    assert last.startswith("fitting 100%")
    assert last.endswith("layer c")


def test_a_terminal_without_tqdm_gets_lines(capsys, monkeypatch):
    importing = builtins.__import__

    def without(name, *arguments, **options):
        if name == "tqdm":
            raise ImportError(name)
        return importing(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    work()
    assert capsys.readouterr().err.splitlines()[0] == "fitting layer a"


def test_the_bar_is_closed_when_work_fails(capsys, monkeypatch):
    pytest.importorskip("tqdm")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    shown = Progress("fitting", 3, show=True)
    with pytest.raises(RuntimeError), shown:
        raise RuntimeError
    assert shown.bar.disable
