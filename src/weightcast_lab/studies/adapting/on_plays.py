"""SmolLM2-135M learns Shakespeare's language: nats after equal steps, with few learned weights.

    python -m weightcast_lab.studies.evidence --minutes 60 --data tinyshakespeare=PLAYS
    python -m weightcast_lab.studies.adapting.on_plays --table

All 210 linear layers of the 30 blocks are adapted, and nothing else learns. The last tenth of the
text tests, as much of it before that chooses rates, each by windows that lie as far apart as they
can. 60 steps of two windows of 96 tokens, drawn at random; rates rise and fall as those of
``on_glosses``. The network is the instruction-tuned one, whose published weights here have 4 bits.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import weightcast as wc
from weightcast_lab.bench.scripts import make_parser
from weightcast_lab.data.images import Split
from weightcast_lab.data.text import read_source, windows_of
from weightcast_lab.networks.pretrained.language import smollm2
from weightcast_lab.studies.adapting.methods import (
    OURS,
    OURS_WIDE,
    RANDOM,
    WHITENED,
    Method,
    by_peft,
    lora_fa,
    ours,
)
from weightcast_lab.studies.adapting.on_glosses import (
    AdaptConfig,
    learning_groups,
    n_weights,
    row_of,
    table,
    take_steps,
)
from weightcast_lab.studies.sources import find_source
from weightcast_lab.sweeps.rows import Row, read_rows
from weightcast_lab.sweeps.trial import Place, runs_trials

LENGTH, BATCH = 96, 2
N_INPUTS, N_ASIDE, N_VALIDATION, N_TEST = 24, 320, 32, 64
"""Windows: that U is made from, that are set aside, that choose of these, that test."""

LAYERS = r"model\.layers\.\d+\.(self_attn|mlp)\.\w+_proj"
SHARES = {LAYERS: 1.0, r"model\.layers\.\d+\.self_attn\.[kv]_proj": 0.75}
"""Keys and values have 192 units to 576 inputs: a quarter fewer atoms, and ours learns exactly as
many weights as LoRA of half as large a rank."""

SIZES = (610_560, 1_221_120)
_RANKS: dict[int | None, Any] = {size: {"r": r} for size, r in zip(SIZES, (2, 4), strict=True)}
_ATOMS: dict[int | None, Any] = dict(zip(SIZES, (4, 8), strict=True))
_RATES = (0.001, 0.002, 0.004)
_LORA = {"target_modules": LAYERS}

METHODS: dict[str, Method] = {
    OURS: Method(_ATOMS, _RATES, ours(WHITENED, 16, SHARES)),
    OURS_WIDE: Method(_ATOMS, _RATES, ours(WHITENED, 32, SHARES)),
    RANDOM: Method(_ATOMS, _RATES, ours(wc.dictionaries.RandomGaussian(), 16, SHARES)),
    "LoRA": Method(_RANKS, _RATES, by_peft("LoraConfig", **_LORA)),
    "rsLoRA": Method(_RANKS, _RATES, by_peft("LoraConfig", use_rslora=True, **_LORA)),
    "LoRA-FA": Method(
        {size: {"r": r} for size, r in _ATOMS.items()},
        _RATES,
        by_peft("LoraConfig", **_LORA),
        lora_fa,
    ),
}
"""By the name in tables; LoRA-FA, of one rank in all layers, learns 1.9 % more than the others."""


@dataclass(frozen=True)
class PlaysConfig(AdaptConfig):
    """One run: of :data:`METHODS`, ``steps`` of two windows, ``seed`` of draws and of windows."""

    method: str = "LoRA"
    learned: int | None = SIZES[0]
    steps: int = 60
    data: str = "tinyshakespeare"
    experiment: str = "adapt-plays"

    methods: ClassVar[Mapping[str, Method]] = METHODS
    sizes: ClassVar[Sequence[int]] = SIZES


@runs_trials("adapt-plays", PlaysConfig)
def run(config: PlaysConfig, place: Place) -> Row:
    """Train, and measure on the end of the text once."""
    return _run(config, place, validation=False)


@runs_trials("adapt-plays-choice", PlaysConfig)
def choose(config: PlaysConfig, place: Place) -> Row:
    """Train, and measure on what was set aside to choose by, and on nothing of the test."""
    return _run(config, place, validation=True)


def _run(config: PlaysConfig, place: Place, *, validation: bool) -> Row:
    network, tokenizer = smollm2()
    source = find_source(place.data, config.data)
    _, text, end = read_source(source)
    train, aside, test = windows_of(
        source, text, end, lambda part: tokenizer(part)["input_ids"], LENGTH, N_ASIDE, "tokens"
    )
    assert aside is not None
    measured = _apart(aside, N_VALIDATION) if validation else _apart(test, N_TEST)
    generator = torch.Generator().manual_seed(config.seed)
    order = torch.randperm(len(train[0]), generator=generator)
    examples = list(train[0][order[-N_INPUTS:]].split(BATCH))
    counts = {"dense": n_weights(network)}
    started = time.perf_counter()
    model = config.chosen.adapt(network, config.setting, examples, config.seed)
    ready = time.perf_counter() - started
    optimiser = config.chosen.optimiser(model, learning_groups(model, config.rate), config.setting)
    counts["learned"] = n_weights(model, learned=True)
    taken = order[: BATCH * config.steps].split(BATCH)
    batches = [(train[0][places], train[1][places]) for places in taken]
    seconds = take_steps(optimiser, lambda x, y: _nats(model, x, y), batches)
    split = "validation" if validation else "test"
    metrics = {f"{split}_loss": _measure(model, measured)}
    metrics |= {"step_seconds": seconds, "preparing_seconds": ready}
    return row_of(config, "tinyshakespeare, SmolLM2's tokens", counts, metrics)


def _apart(split: Split, n: int) -> Split:
    """Windows as far apart as so many of them can lie."""
    places = torch.arange(n) * len(split[0]) // n
    return split[0][places], split[1][places]


def _nats(model: Any, x: Tensor, y: Tensor) -> Tensor:
    """Mean nats of the tokens y (n, length) that follow x."""
    return F.cross_entropy(model(x, use_cache=False).logits.flatten(0, 1), y.flatten())


@torch.no_grad()
def _measure(model: nn.Module, split: Split) -> float:
    """Mean nats of all windows, which are of one length."""
    pairs = list(zip(*(part.split(BATCH) for part in split), strict=True))
    return sum(float(_nats(model, *pair)) for pair in pairs) / len(pairs)


def main() -> None:
    """Print the rows as a table."""
    parser = make_parser(__doc__)
    parser.add_argument("--rows", type=Path, default=Path("results/evidence_adapt_plays.jsonl"))
    parser.add_argument("--table", action="store_true", help="print the table, the only thing done")
    options = parser.parse_args()
    print(table(read_rows(options.rows), "test_loss", PlaysConfig, digits=3))


if __name__ == "__main__":
    main()
