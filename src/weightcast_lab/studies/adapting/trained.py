"""What all studies of adapting share: a run's config, its training, its row, and the table.

A network's features go to a linear head, whose rate is the same for all methods, if the task has
one. The rate rises for a tenth of the steps, and falls to nothing in a straight line.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from weightcast.optim import parameter_groups
from weightcast.serialization import Configuration
from weightcast_lab.bench.scripts import make_parser, markdown, mean_and_spread
from weightcast_lab.studies.adapting.methods import HEAD, LORA, Method
from weightcast_lab.sweeps.rows import Row, make_row, read_rows
from weightcast_lab.sweeps.trial import Place, runs_trials

BATCH, RISE = 32, 0.1

Batch = tuple[tuple[Tensor, ...], Tensor]
"""What a classifier is called with, and labels (n,)."""


@dataclass(frozen=True)
class RunConfig(Configuration):
    """One run.

    Args:
        method: of ``methods``.
        learned: the size, of those the method has; None for methods without.
        rate: the largest learning rate.
        steps: of a batch each.
        data: the data's name.
        seed: of the head, of draws, of the order of examples.
        experiment: which experiment the row belongs to.
        variant: what tells the row from the others.
        labels: what tables sort the row by.
    """

    methods: ClassVar[Mapping[str, Method]]
    head_rate: ClassVar[float] = 0.005
    n_seeds: ClassVar[int] = 5

    method: str = HEAD
    learned: int | None = None
    rate: float = 0.005
    steps: int = 120
    data: str = ""
    seed: int = 0
    experiment: str = "adapt"
    variant: str | None = None
    labels: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        found = self.methods.get(self.method)
        if found is None or self.learned not in found.settings:
            raise ValueError(f"no method {self.method!r} with {self.learned} learned weights")
        if not self.rate > 0 or self.steps < 1:
            raise ValueError(f"rate is {self.rate} and steps {self.steps}: take more than 0")


class Classifier(nn.Module):
    """What a network makes of its inputs, (n, n_features), and a linear head."""

    def __init__(self, encoder: nn.Module, n_features: int, n_classes: int, seed: int) -> None:
        super().__init__()
        self.encoder, self.head = encoder, nn.Linear(n_features, n_classes)
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            self.head.weight.copy_(torch.randn(n_classes, n_features, generator=generator) * 0.02)
            self.head.bias.zero_()

    def forward(self, *inputs: Tensor) -> Tensor:
        """Logits (n, n_classes)."""
        return self.head(self.features(*inputs))

    def features(self, *inputs: Tensor) -> Tensor:
        """(n, n_features)."""
        return self.encoder(*inputs)


MakesTask = Callable[..., "Task"]
"""Of a config and a place; with ``validation``, to measure what chooses."""


@dataclass(frozen=True)
class Task:
    """What a network is adapted to.

    Args:
        dataset: as rows name it.
        encoder: the network that others trained.
        classify: an encoder with the head, or what else gives logits; it holds it as ``encoder``.
        examples: batches for the methods that look at inputs.
        batches: to train on, one a step.
        measured: validation or test batches.
    """

    dataset: str
    encoder: nn.Module
    classify: Callable[[nn.Module], nn.Module]
    examples: list[Any]
    batches: Iterable[Batch]
    measured: Iterable[Batch]


def drawn(x: Tensor, labels: Tensor, config: RunConfig) -> Iterator[Batch]:
    """Batches to train on, one a step: all examples in a random order, then all in another."""
    generator, waiting = torch.Generator().manual_seed(1_000 + config.seed), torch.tensor([]).long()
    for _ in range(config.steps):
        while len(waiting) < BATCH:
            waiting = torch.cat([waiting, torch.randperm(len(x), generator=generator)])
        taken, waiting = waiting[:BATCH], waiting[BATCH:]
        yield (x[taken],), labels[taken]


def whole(x: Tensor, labels: Tensor, size: int = 100) -> Iterator[Batch]:
    """All examples, in batches of a size."""
    for part, own in zip(x.split(size), labels.split(size), strict=True):
        yield (part,), own


def adapt_and_measure(config: RunConfig, task: Task, split: str) -> Row:
    """Train, and measure once on what the split is called."""
    method = config.methods[config.method]
    n_dense = sum(p.numel() for p in task.encoder.parameters())  # PEFT adds to the encoder itself
    started = time.perf_counter()
    setting = method.settings[config.learned]
    adapted = method.adapt(task.encoder, setting, task.examples, config.seed)
    ready = time.perf_counter() - started
    model = task.classify(adapted)
    seconds = train(model, method, config, task.batches, task.examples)
    n_learned = sum(p.numel() for p in adapted.parameters() if p.requires_grad)
    error, nats = measure(model, task.measured)
    row = make_row(
        experiment=config.experiment,
        variant=config.variant or config.method,
        dataset=task.dataset,
        seed=config.seed,
        config=config.to_dict(),
        counts={"dense": n_dense, "learned": n_learned},
        metrics={
            f"{split}_error": error, f"{split}_loss": nats,
            "step_seconds": seconds, "preparing_seconds": ready,
        },
    )  # fmt: skip
    return row | {"labels": config.labels}


def runs_task(kind: str, config: type[RunConfig]) -> Callable[[MakesTask], MakesTask]:
    """Register a function that makes a study's tasks: it runs two kinds of trials.

    Those of ``kind`` train, and measure on the test data once. Those of ``kind-choice`` measure on
    what was set aside to choose by, and on nothing of the test.
    """

    def register(task: MakesTask) -> MakesTask:
        def run(config: RunConfig, place: Place) -> Row:
            return adapt_and_measure(config, task(config, place, validation=False), "test")

        def choose(config: RunConfig, place: Place) -> Row:
            return adapt_and_measure(config, task(config, place, validation=True), "validation")

        for name, function in ((kind, run), (f"{kind}-choice", choose)):
            function.__module__ = task.__module__
            runs_trials(name, config)(function)
        return task

    return register


def train(
    model: Any,
    method: Method,
    config: RunConfig,
    batches: Iterable[Batch],
    examples: list[Any],
) -> float:
    """Train in evaluation mode (no dropout, as with all methods); the median seconds of a step."""
    groups = parameter_groups(model.encoder, config.rate)
    groups = [group for group in groups if group["params"]]
    if hasattr(model, "head"):
        groups.append({"params": list(model.head.parameters()), "lr": config.head_rate})
    optimiser = method.optimiser(model, groups, method.settings[config.learned])
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: _shape(step, config.steps))
    taken = []
    for step, (inputs, labels) in enumerate(batches, start=1):
        started = time.perf_counter()
        F.cross_entropy(model(*inputs), labels).backward()
        optimiser.step()
        optimiser.zero_grad()
        taken.append(time.perf_counter() - started)
        schedule.step()
        if step == _rise(config.steps):
            method.renew(model.encoder, examples, optimiser)
    return statistics.median(taken)


def _rise(steps: int) -> int:
    return max(1, round(RISE * steps))


def _shape(step: int, steps: int) -> float:
    rise = _rise(steps)
    return min((step + 1) / rise, (steps - step) / max(1, steps - rise), 1.0)


@torch.no_grad()
def measure(model: nn.Module, batches: Iterable[Batch]) -> tuple[float, float]:
    """Error in percent, and nats."""
    n, wrong, nats = 0, 0, 0.0
    for inputs, labels in batches:
        logits = model(*inputs)
        wrong += int((logits.argmax(1) != labels).sum())
        nats += float(F.cross_entropy(logits, labels, reduction="sum"))
        n += len(labels)
    return 100 * wrong / n, nats / n


def table(
    rows: Sequence[Row],
    methods: Mapping[str, Method],
    metric: str = "test_error",
) -> str:
    """Mean and spread over seeds by method and size, and the mean paired difference to LoRA's."""
    found: dict[tuple[str, int | None], dict[int, float]] = {}
    for row in rows:
        key = row["labels"]["method"], row["labels"]["learned"]
        found.setdefault(key, {})[row["seed"]] = row["metrics"][metric]
    digits = 3 if metric.endswith("loss") else 2
    columns = sorted({size for _, size in found if size is not None})
    columns += [None] if any(size is None for _, size in found) else []
    heads = ["no size" if size is None else f"{size:,}" for size in columns]
    lines = [[f"{metric}, by learned weights", *heads]]
    for method in methods:
        cells = []
        for size in columns:
            own, lora = found.get((method, size), {}), found.get((LORA, size), {})
            paired = [own[seed] - lora[seed] for seed in own if seed in lora]
            shown = mean_and_spread(list(own.values()), digits)
            if paired and method != LORA:
                shown += f" ({statistics.fmean(paired):+.{digits}f})"
            cells.append(shown)
        if any(cells):
            lines.append([method, *cells])
    return markdown(lines)


def print_table(
    about: str | None,
    methods: Mapping[str, Method],
    rows: str,
    metric: str = "test_error",
) -> None:
    """A study's command: its rows as a table."""
    parser = make_parser(about)
    parser.add_argument("--rows", type=Path, default=Path(rows))
    parser.add_argument("--table", action="store_true", help="print the table, the only thing done")
    parser.add_argument("--metric", default=metric)
    options = parser.parse_args()
    print(table(read_rows(options.rows), methods, options.metric))
