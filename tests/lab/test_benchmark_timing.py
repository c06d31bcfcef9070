"""Timing: alternation, repetition and ratios, against a clock that the test sets."""

import re
import statistics
import time

import pytest
import torch

from weightcast_lab.bench import timing
from weightcast_lab.bench.timing import Spread, alternate, ratios


@pytest.fixture
def clock(monkeypatch):
    """A clock that only actions move on."""
    now = [0.0]
    monkeypatch.setattr(timing.time, "perf_counter", lambda: now[0])
    return now


def test_ratios_are_formed_round_by_round():
    slow, dense = [2.0, 9.0, 4.0, 1.0], [1.0, 3.0, 8.0, 4.0]
    found = ratios(slow, dense)
    by_hand = [2.0, 3.0, 0.5, 0.25]
    assert found == Spread(4, statistics.median(by_hand), 0.25, 3.0)
    assert found.median != statistics.median(slow) / statistics.median(dense)


def test_a_slow_moment_that_meets_both_leaves_the_ratio_alone():
    assert ratios([1.0, 100.0, 1.0], [2.0, 200.0, 2.0]) == Spread(3, 0.5, 0.5, 0.5)


def test_the_median_of_an_even_number_lies_between_the_middle_two():
    assert Spread.of([4.0, 1.0, 2.0, 10.0]) == Spread(4, 3.0, 1.0, 10.0)


def test_actions_take_turns_and_warm_up_does_not_count(clock):
    order = []

    def action(name, seconds):
        def run():
            order.append(name)
            clock[0] += seconds if len(order) > 4 else 100 * seconds  # cold at first

        return run

    found = alternate({"a": action("a", 1.0), "b": action("b", 2.0)}, 3, min_seconds=0.5)
    assert order == ["a", "b", "b", "a", "a", "b", "b", "a", "a", "b"]
    assert found == {"a": [1.0] * 3, "b": [2.0] * 3}


def test_short_actions_are_repeated_until_a_timing_is_long_enough(clock):
    calls = []

    def short():
        calls.append(0)
        clock[0] += 0.003

    found = alternate({"short": short}, 2, min_seconds=0.02)
    assert len(calls) == 1 + 3 * 7  # once to learn its length, then 7 times per round
    assert found["short"] == pytest.approx([0.003, 0.003])


def test_a_slower_action_is_seen_as_slower():
    found = alternate(
        {"dense": lambda: time.sleep(0.001), "slow": lambda: time.sleep(0.004)},
        5,
        min_seconds=0.005,
    )
    assert ratios(found["slow"], found["dense"]).median > 1.5


def test_a_larger_product_is_seen_as_slower():
    small, large = torch.randn(100, 100), torch.randn(600, 600)
    found = alternate({"dense": lambda: small @ small, "slow": lambda: large @ large}, 5)
    assert ratios(found["slow"], found["dense"]).low > 2


@pytest.mark.parametrize(
    ("rounds", "seconds", "message"),
    [(0, 0.02, "rounds is 0"), (3, 0.0, "min_seconds is 0.0"), (3, float("nan"), "min_seconds is")],
)
def test_bad_arguments_are_refused(rounds, seconds, message):
    with pytest.raises(ValueError, match=message):
        alternate({"a": lambda: None}, rounds, min_seconds=seconds)


def test_rounds_that_do_not_pair_are_refused():
    with pytest.raises(ValueError, match=re.escape("2 rounds against 3")):
        ratios([1.0, 2.0], [1.0, 2.0, 3.0])
    with pytest.raises(ValueError, match="nothing to summarise"):
        Spread.of([])
