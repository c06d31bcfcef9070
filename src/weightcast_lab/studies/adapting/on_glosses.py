"""MiniLM learns the 45 classes of WordNet's glosses, with a few learned weights.

    python -m weightcast_lab.studies.evidence --minutes 60 --data wordnet=WORDNET
    python -m weightcast_lab.studies.adapting.on_glosses --table --rows results/evidence_adapt.jsonl

The encoder's mean over tokens goes to a linear head, whose rate is the same for all methods.
Glosses are parted by word: none of a word that is tested or that chooses was trained on. 120 steps
of 32; the rate rises for 12 steps, and falls to nothing in a straight line.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from weightcast.optim import parameter_groups
from weightcast.serialization import Configuration
from weightcast_lab.bench.scripts import make_parser, markdown, mean_and_spread
from weightcast_lab.data.glosses import N_CLASSES, Gloss, draw_glosses, read_glosses, split_by_word
from weightcast_lab.networks.pretrained.language import minilm
from weightcast_lab.studies.adapting.methods import HEAD, METHODS, SIZES, Method
from weightcast_lab.studies.real.task import equal_lengths
from weightcast_lab.sweeps.rows import Row, make_row, read_rows
from weightcast_lab.sweeps.trial import Place, runs_trials

HEAD_RATE, RISE = 0.005, 0.1
N_INPUTS, N_VALIDATION, N_TEST = 512, 2_000, 4_000


@dataclass(frozen=True)
class AdaptConfig(Configuration):
    """One run.

    Args:
        method: of ``METHODS``.
        learned: the size, of those the method has; None for methods without.
        rate: the largest learning rate.
        steps: of 32 glosses.
        data: the data's name.
        seed: of the head, of draws, of the order of glosses.
        experiment: which experiment the row belongs to.
        variant: what tells the row from the others.
        labels: what tables sort the row by.
    """

    method: str = HEAD
    learned: int | None = None
    rate: float = 0.005
    steps: int = 120
    data: str = "wordnet"
    seed: int = 0
    experiment: str = "adapt"
    variant: str | None = None
    labels: dict[str, Any] = field(default_factory=dict)

    methods: ClassVar[Mapping[str, Method]] = METHODS
    sizes: ClassVar[Sequence[int]] = SIZES

    def __post_init__(self) -> None:
        if self.method not in self.methods or self.learned not in self.chosen.settings:
            raise ValueError(f"no method {self.method!r} with {self.learned} learned weights")
        if not self.rate > 0 or self.steps < 1:
            raise ValueError(f"rate is {self.rate} and steps {self.steps}: take more than 0")

    @property
    def chosen(self) -> Method:
        """The method itself."""
        return self.methods[self.method]

    @property
    def setting(self) -> Any:
        """What it takes for this size."""
        return self.chosen.settings[self.learned]


class Classifier(nn.Module):
    """The mean of an encoder's states, and a linear head."""

    def __init__(self, encoder: nn.Module, seed: int) -> None:
        super().__init__()
        self.encoder, self.head = encoder, nn.Linear(384, N_CLASSES)
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            self.head.weight.copy_(torch.randn(N_CLASSES, 384, generator=generator) * 0.02)
            self.head.bias.zero_()

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """Logits (n, 45) of padded tokens (n, length)."""
        states = self.encoder(input_ids=tokens, attention_mask=mask).last_hidden_state
        kept = mask.unsqueeze(2).to(states.dtype)
        return self.head((states * kept).sum(1) / kept.sum(1))


@runs_trials("adapt", AdaptConfig)
def run(config: AdaptConfig, place: Place) -> Row:
    """Train, and measure on the test glosses once."""
    return _run(config, place, validation=False)


@runs_trials("adapt-choice", AdaptConfig)
def choose(config: AdaptConfig, place: Place) -> Row:
    """Train, and measure on what was set aside to choose by, and on nothing of the test."""
    return _run(config, place, validation=True)


def _run(config: AdaptConfig, place: Place, *, validation: bool) -> Row:
    data = place.data.get(config.data) if isinstance(place.data, dict) else place.data
    train, held, test = split_by_word(read_glosses(None if data is None else Path(data)))
    measured = draw_glosses(held, N_VALIDATION, 0) if validation else draw_glosses(test, N_TEST, 0)
    encoder, tokenizer = minilm()
    encode = Encoder(tokenizer)
    examples = [x for _, x in encode.batches(draw_glosses(train, N_INPUTS, config.seed))]
    started = time.perf_counter()
    adapted = config.chosen.adapt(encoder, config.setting, examples, config.seed)
    ready = time.perf_counter() - started
    model = Classifier(adapted, config.seed)
    seconds = _train(model, config, encode, train)
    counts = {"dense": n_weights(encoder), "learned": n_weights(adapted, learned=True)}
    error, nats = measure(model, encode, measured)
    split = "validation" if validation else "test"
    metrics = {f"{split}_error": error, f"{split}_loss": nats}
    metrics |= {"step_seconds": seconds, "preparing_seconds": ready}
    return row_of(config, "WordNet glosses, 45 classes, parted by word", counts, metrics)


def n_weights(model: nn.Module, *, learned: bool = False) -> int:
    """All of a model's weights, or those that learn."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad or not learned)


def row_of(
    config: AdaptConfig, dataset: str, counts: dict[str, int], metrics: dict[str, float]
) -> Row:
    """The row of a run."""
    row = make_row(
        experiment=config.experiment,
        variant=config.variant or config.method,
        dataset=dataset,
        seed=config.seed,
        config=config.to_dict(),
        counts=counts,
        metrics={**metrics},
    )
    return row | {"labels": config.labels}


class Encoder:
    """Glosses as tokens, at most ``length`` of them."""

    def __init__(self, tokenizer: Any, length: int = 64) -> None:
        self._tokenizer, self._length = tokenizer, length

    def padded(self, glosses: Sequence[Gloss]) -> tuple[Tensor, Tensor]:
        """Tokens and mask, (n, length)."""
        texts = [gloss.text for gloss in glosses]
        found = self._tokenizer(
            texts, truncation=True, max_length=self._length, padding=True, return_tensors="pt"
        )
        return found["input_ids"], found["attention_mask"]

    def batches(self, glosses: Sequence[Gloss]) -> list[tuple[list[int], Tensor]]:
        """Batches of one length each, without padding, and which glosses they hold."""
        texts = [gloss.text for gloss in glosses]
        tokens = self._tokenizer(texts, truncation=True, max_length=self._length)["input_ids"]
        return equal_lengths(tokens, 1_024)


def _train(model: Classifier, config: AdaptConfig, encode: Encoder, train: list[Gloss]) -> float:
    """Train in evaluation mode (no dropout, as with all methods); the median seconds of a step."""
    drawn = draw_glosses(train, 32 * config.steps, 1_000 + config.seed)
    parts = [drawn[start : start + 32] for start in range(0, len(drawn), 32)]
    batches = [
        (*encode.padded(part), torch.tensor([gloss.label for gloss in part])) for part in parts
    ]
    head = {"params": list(model.head.parameters()), "lr": HEAD_RATE}
    groups = [*learning_groups(model.encoder, config.rate), head]

    def loss(tokens: Tensor, mask: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(model(tokens, mask), labels)

    return take_steps(config.chosen.optimiser(model, groups, config.setting), loss, batches)


def learning_groups(model: nn.Module, rate: float) -> list[dict[str, Any]]:
    """What learns, with its rates; nothing for a model in which nothing does."""
    return [group for group in parameter_groups(model, rate) if group["params"]]


def take_steps(
    optimiser: torch.optim.Optimizer, loss: Callable[..., Tensor], batches: Sequence[Any]
) -> float:
    """A step on each batch, its rate as the module says; the median seconds of one."""
    n, taken = len(batches), []
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: _shape(step, n))
    for batch in batches:
        started = time.perf_counter()
        loss(*batch).backward()
        optimiser.step()
        optimiser.zero_grad()
        taken.append(time.perf_counter() - started)
        schedule.step()
    return statistics.median(taken)


def _shape(step: int, steps: int) -> float:
    rise = max(1, round(RISE * steps))
    return min((step + 1) / rise, (steps - step) / max(1, steps - rise), 1.0)


@torch.no_grad()
def measure(model: Classifier, encode: Encoder, glosses: list[Gloss]) -> tuple[float, float]:
    """Error in percent, and nats."""
    labels, wrong, nats = torch.tensor([gloss.label for gloss in glosses]), 0, 0.0
    for places, tokens in encode.batches(glosses):
        logits, own = model(tokens, torch.ones_like(tokens)), labels[places]
        wrong += int((logits.argmax(1) != own).sum())
        nats += float(F.cross_entropy(logits, own, reduction="sum"))
    return 100 * wrong / len(glosses), nats / len(glosses)


def table(
    rows: Sequence[Row], metric: str = "test_error", kind: type[AdaptConfig] = AdaptConfig,
    digits: int = 2,
) -> str:  # fmt: skip
    """Mean and spread over seeds by method and size, and the mean paired difference to LoRA's."""
    found: dict[tuple[str, int | None], dict[int, float]] = {}
    for row in rows:
        key = row["labels"]["method"], row["labels"]["learned"]
        found.setdefault(key, {})[row["seed"]] = row["metrics"][metric]
    columns = [size for size in (*kind.sizes, None) if any(key[1] == size for key in found)]
    heads = ["no size" if size is None else f"{size:,}" for size in columns]
    lines = [[f"{metric}, by learned weights", *heads]]
    for method in kind.methods:
        cells = []
        for size in columns:
            own, lora = found.get((method, size), {}), found.get(("LoRA", size), {})
            paired = [own[seed] - lora[seed] for seed in own if seed in lora]
            shown = mean_and_spread(list(own.values()), digits)
            if paired and method != "LoRA":
                shown += f" ({statistics.fmean(paired):+.{digits}f})"
            cells.append(shown)
        if any(cells):
            lines.append([method, *cells])
    return markdown(lines)


def main() -> None:
    """Print the rows as a table."""
    parser = make_parser(__doc__)
    parser.add_argument("--rows", type=Path, default=Path("results/evidence_adapt.jsonl"))
    parser.add_argument("--table", action="store_true", help="print the table, the only thing done")
    options = parser.parse_args()
    print(table(read_rows(options.rows)))


if __name__ == "__main__":
    main()
