"""SpeechConfig: everything that decides a run of the speech experiment."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from weightcast.plan.plan import Plan
from weightcast.serialization import Configuration
from weightcast_lab.data.speech.features import FeatureSettings
from weightcast_lab.data.speech.timit import TestSet
from weightcast_lab.settings import PretrainingSettings, TrainingSettings


@dataclass(frozen=True)
class SpeechConfig(Configuration):
    """A network that classifies frames of speech: the same config gives the same row.

    Args:
        experiment: which experiment the row belongs to.
        variant: what tells the row from the others; None is speech.
        data: what the data is called; where it lies is told at run time.
        corpus: fsdd, spoken digits; or timit, a user's own copy.
        test_set: of TIMIT: core, full, or part; spoken digits have one test split.
        features: how recordings become frames.
        context: frames on each side that the network sees along with each frame.
        hidden: units of the hidden layers.
        activation: after each hidden layer.
        plan: which layers are predicted and how, as Plan.to_dict() writes it; None trains dense.
        training: how it is trained.
        pretraining: how the hidden layers are pre-trained as autoencoders before; None leaves it
            out.
        seed: of the initial weights, the atoms and the order of the frames.
        n_validation: what is set aside from training: of spoken digits, recordings of each speaker
            and digit; of TIMIT, speakers.
        max_recordings: of each split, for quick trials; None takes all.
        n_inputs: training frames from which data-driven dictionaries are made.
        change: of TIMIT, the decoder's score of changing the phone; None chooses it on validation
            recordings.
        labels: what figures sort the row by: curve, fraction, columns, activation, pretrained.

    Raises:
        ValueError: a bad value, or a plan that cannot be read.
    """

    experiment: str = "speech"
    variant: str | None = None
    data: str = "fsdd"
    corpus: Literal["fsdd", "timit"] = "fsdd"
    test_set: TestSet = "core"
    features: FeatureSettings = field(default_factory=FeatureSettings)
    context: int = 5
    hidden: tuple[int, ...] = (1024, 1024)
    activation: Literal["relu", "sigmoid"] = "relu"
    plan: dict[str, Any] | None = None
    training: TrainingSettings = field(default_factory=TrainingSettings)
    pretraining: PretrainingSettings | None = None
    seed: int = 0
    n_validation: int = 0
    max_recordings: int | None = None
    n_inputs: int = 5000
    change: float | None = None
    labels: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.plan is not None:
            Plan.from_dict(self.plan)  # its errors belong here, before any data is read
        if not 0 <= self.seed < 2**63:
            raise ValueError(f"seed is {self.seed}: it must lie between 0 and 2^63 - 1")
        for name, least in (("context", 0), ("n_validation", 0), ("n_inputs", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} is {getattr(self, name)}: it must be {least} or more")
        if self.max_recordings is not None and self.max_recordings < 1:
            raise ValueError(f"max_recordings is {self.max_recordings}: it must be 1 or more")
        if self.training.test_weights != "last":
            raise ValueError("test_weights is 'best', which needs checkpoints: take 'last'")
        if self.corpus == "timit" and self.change is None and self.n_validation < 1:
            raise ValueError(
                "change is None and n_validation is 0: the decoder's change is chosen on "
                "validation speakers, so set some aside (46, a tenth), or give change, such as -2"
            )
