"""AdapterConfig: a network from the Hub, data, and how it is adapted, as one YAML file.

Apart from the run, for the command says what settings are without transformers and Lightning.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from weightcast.plan.plan import Plan
from weightcast.serialization import Configuration
from weightcast.transform.adapt import Free
from weightcast_lab.data.examples import Task
from weightcast_lab.settings import TrainingSettings, drop_kinds


@dataclass(frozen=True)
class AdapterTraining(TrainingSettings):  # noqa: D101
    __doc__ = TrainingSettings.__doc__

    epochs: int = 3
    batch_size: int = 32
    learning_rate: float = 0.005


@dataclass(frozen=True)
class AdapterConfig(Configuration):
    """A frozen network learns a task: the same config and the same seed give the same row.

    Args:
        model: a folder from the Hub on this disk: config.json, safetensors, and its tokenizer or
            image processor. Nothing is downloaded.
        data: a folder, or a name on the Hub, with a column label (or labels) and one named text, or
            one of images; for text-generation a text file, or a folder with a column text.
        task: what is learned; heads for labels are new where the network has none for as many.
        learned: weights to share over the layers, heads not counted; a plan in its place says it by
            hand.
        plan: which layers learn how much, as Plan.to_dict() writes it; null suggests one.
        heads: modules that learn all of their weights; null is, of classifiers, the head.
        free: what learns too, some of bias and norm.
        dtype: of the frozen weights; what learns is float32.
        training: how it is trained.
        length: tokens of an example, at most; of text-generation exactly.
        n_validation: training examples set aside, the same ones for every seed.
        n_inputs: training examples from which dictionaries are made; with 0 what is learned is a
            share of each of the frozen weights, as ``suggest`` says.
        seed: of a new head, of draws, of the order of the examples.
        output: folder for checkpoints, logs and the adapter; null is runs/VARIANT-seed-SEED.
        experiment: which experiment the result row belongs to.
        variant: what tells the row from the others; null is the model's name, as in bert-adapted.
        accelerator: cpu, gpu, or auto: a GPU where there is one.
    """

    model: str
    data: str
    task: Task
    learned: int = 80_000
    plan: dict[str, Any] | None = None
    heads: tuple[str, ...] | None = None
    free: tuple[Free, ...] = ()
    dtype: Literal["float32", "bfloat16"] = "float32"
    training: AdapterTraining = field(default_factory=AdapterTraining)
    length: int = 128
    n_validation: int = 0
    n_inputs: int = 256
    seed: int = 0
    output: str | None = None
    experiment: str = "adapted"
    variant: str | None = None
    accelerator: Literal["auto", "cpu", "gpu"] = "auto"

    def __post_init__(self) -> None:
        if self.plan is not None and not any(Plan.from_dict(self.plan).rules.values()):
            raise ValueError("the plan has no rule: add one, or leave it out to have one suggested")
        if not 0 <= self.seed < 2**63:
            raise ValueError(f"seed is {self.seed}: it must lie between 0 and 2^63 - 1")
        for name, least in {"learned": 1, "length": 1, "n_inputs": 0, "n_validation": 0}.items():
            if getattr(self, name) < least:
                raise ValueError(f"{name} is {getattr(self, name)}: it must be {least} or more")
        if self.training.test_weights == "best" and not self.n_validation:
            raise ValueError("test_weights is 'best': set validation examples aside, n_validation")

    def to_dict(self) -> dict[str, Any]:
        """JSON data, without the names of classes."""
        return drop_kinds(self)
