"""A run that chooses a rate: adapted as any other, measured on validation glosses alone."""

from __future__ import annotations

from weightcast_lab.studies.adapting.on_glosses import AdaptConfig, _run
from weightcast_lab.sweeps.rows import Row
from weightcast_lab.sweeps.trial import Place, runs_trials


@runs_trials("adapt-choice", AdaptConfig)
def run(config: AdaptConfig, place: Place) -> Row:
    """Train, and measure on what was set aside to choose by."""
    return _run(config, place, validation=True)
