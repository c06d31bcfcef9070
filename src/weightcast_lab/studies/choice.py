"""A trial that chooses: trained as any other, measured on what was set aside for validation alone.

The test split takes no part, so rows of choices may decide the configs of later trials.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from weightcast_lab.studies.train import freeze, read_place, run_on
from weightcast_lab.sweeps.rows import Row
from weightcast_lab.sweeps.trial import Place, runs_trials
from weightcast_lab.training import Images, Text, TrainConfig


@runs_trials("choice", TrainConfig, freeze=freeze)
def run(config: TrainConfig, place: Place) -> Row:
    """Train one network; its row has nothing of the test split.

    Args:
        config: the run, which sets examples aside.
        place: where the data lies, what to compute on, and whether to keep checkpoints.

    Raises:
        ValueError: nothing set aside, bad data, a plan that does not fit, or a loss that is no
            number.
    """
    return on_validation(read_place(config, place), lambda data: run_on(data, config, place))


def on_validation(data: Images | Text, train: Callable[[Images | Text], Row]) -> Row:
    """The row of a run that is measured on what was set aside, without anything of the test split.

    Raises:
        ValueError: nothing was set aside.
    """
    if data.validation is None:
        raise ValueError("n_validation is 0: set examples aside to choose by")
    row = train(replace(data, test=data.validation))
    row["metrics"] = {name: v for name, v in row["metrics"].items() if "test" not in name}
    return row
