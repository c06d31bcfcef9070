"""Cells: which rates are tried, and when the runs are known."""

import pytest

from tests.lab.backlogs import config
from weightcast_lab.studies.evidence import make_choice, make_runs
from weightcast_lab.sweeps.cells import Cell

CHOICES, FURTHER = (0.25, 0.5, 1.0), (0.0625, 0.125, 2.0, 4.0)


def make_cell(choices=CHOICES, further=FURTHER) -> Cell:
    tried, more = ({r: make_choice(config(r, 0, 1)) for r in some} for some in (choices, further))
    return Cell(
        "pair",
        "Why?",
        "pair.jsonl",
        lambda rate: make_runs(lambda r, seed: config(r, seed, 1), rate),
        tried,
        more,
    )


def rows_of(cell, rates, best):
    """The farther from the best, the larger the error."""
    return {
        cell.offered[rate].key: {"metrics": {"validation_error": abs(rate - best)}}
        for rate in rates
    }


@pytest.mark.parametrize(
    ("best", "tried"),
    [
        (0.5, [0.25, 0.5, 1.0]),
        (0.25, [0.125, 0.25, 0.5, 1.0]),
        (0.375, [0.125, 0.25, 0.5, 1.0]),  # 0.25 and 0.5 are equal
        (0.75, [0.25, 0.5, 1.0, 2.0]),
        (1.0, [0.25, 0.5, 1.0, 2.0]),
        (2.0, [0.25, 0.5, 1.0, 2.0, 4.0]),
        (9.0, [0.25, 0.5, 1.0, 2.0, 4.0]),
        (0.0, [0.0625, 0.125, 0.25, 0.5, 1.0]),
    ],
)
def test_rates_are_tried_beyond_an_end_while_none_is_better(best, tried):
    cell = make_cell()
    assert cell.tried({}) == [*CHOICES]
    done = [*CHOICES]
    while len(known := cell.tried(rows_of(cell, done, best))) > len(done):
        rows = rows_of(cell, done, best)
        [new] = {*known} - {*done}
        assert cell.rate(rows) is None
        assert [t.config.training.learning_rate for t in cell.trials(rows)] == known
        assert cell.n_trials(rows) == len(known) + 3
        done.append(new)
    rows = rows_of(cell, done, best)
    assert known == tried
    assert cell.rate(rows) == min(tried, key=lambda rate: abs(rate - best))
    assert [t.kind for t in cell.trials(rows)] == ["choice"] * len(tried) + ["train"] * 3


def test_rows_of_rates_beyond_that_are_not_asked_for_choose_nothing():
    cell = make_cell()
    rows = rows_of(cell, CHOICES, 0.5) | rows_of(cell, (4.0,), 4.0)
    assert cell.rate(rows) == 0.5


def test_with_nothing_to_choose_the_runs_are_known_at_once():
    cell = Cell("pair", "Why?", "pair.jsonl", lambda _: make_cell().trials({}), {})
    assert cell.rate({}) is None
    assert cell.trials({}) == make_cell().trials({})
