"""SmolLM2-135M learns Shakespeare's language: nats after equal steps, with few learned weights.

    python -m weightcast_lab.studies.evidence --minutes 60 --data tinyshakespeare=PLAYS
    python -m weightcast_lab.studies.adapting.on_plays --table

All 210 linear layers of the 30 blocks are adapted, and nothing else learns. The last tenth of the
text tests, as much of it before that chooses rates, each by windows that lie as far apart as they
can. 60 steps of two windows of 96 tokens, drawn at random. The network is the instruction-tuned
one, whose published weights here have 4 bits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

import weightcast as wc
from weightcast_lab.data.images import Split
from weightcast_lab.data.text import read_source, windows_of
from weightcast_lab.networks.pretrained.language import smollm2
from weightcast_lab.studies.adapting.methods import (
    LORA,
    OURS,
    OURS_WIDE,
    RANDOM,
    RELATIVE,
    WHITENED,
    Method,
    lora_fa,
    pefts,
    rules,
)
from weightcast_lab.studies.adapting.trained import (
    Batch,
    RunConfig,
    Task,
    print_table,
    runs_task,
)
from weightcast_lab.studies.sources import find_source
from weightcast_lab.sweeps.trial import Place

LENGTH, BATCH = 96, 2
N_INPUTS, N_ASIDE, N_VALIDATION, N_TEST = 24, 320, 32, 64
"""Windows: that U is made from, that are set aside, that choose of these, that test."""

LAYERS = r"model\.layers\.\d+\.(self_attn|mlp)\.\w+_proj"
KEYS_AND_VALUES = r"model\.layers\.\d+\.self_attn\.[kv]_proj"
"""They have 192 units to 576 inputs: of a quarter fewer atoms ours learns exactly as many weights
as LoRA of half as large a rank."""

SIZES = (610_560, 1_221_120)
_RANKS: dict[int | None, Any] = {size: {"r": r} for size, r in zip(SIZES, (2, 4), strict=True)}
_ATOMS: dict[int | None, Any] = dict(zip(SIZES, (4, 8), strict=True))
_RATES = (0.0005, 0.001, 0.002, 0.004)
_OUR_RATES = (*_RATES[1:], 0.008)


def _ours(dictionary: Any, columns: int, **more: Any) -> Callable[..., nn.Module]:
    def adapt(model: nn.Module, n_atoms: int, inputs: list[Tensor], seed: int) -> nn.Module:
        plan = rules(model, LAYERS, dictionary, n_atoms, columns, **more)
        plan |= rules(model, KEYS_AND_VALUES, dictionary, 3 * n_atoms // 4, columns, **more)
        return wc.adapt(model, plan, inputs=inputs, seed=seed)

    return adapt


def _loras(**options: Any) -> Callable[..., nn.Module]:
    return pefts("LoraConfig", target_modules=LAYERS, **options)


METHODS: dict[str, Method] = {
    OURS: Method(_ATOMS, _OUR_RATES, _ours(WHITENED, 16)),
    OURS_WIDE: Method(_ATOMS, _OUR_RATES, _ours(WHITENED, 32)),
    RELATIVE: Method(_ATOMS, _OUR_RATES, _ours(wc.dictionaries.DCT(), 1, relative=True)),
    RANDOM: Method(_ATOMS, _OUR_RATES, _ours(wc.dictionaries.RandomGaussian(), 16)),
    LORA: Method(_RANKS, _RATES, _loras()),
    "rsLoRA": Method(_RANKS, _RATES, _loras(use_rslora=True)),
    "LoRA-FA": Method({size: {"r": r} for size, r in _ATOMS.items()}, _RATES, _loras(), lora_fa),
}
"""By the name in tables; LoRA-FA, of one rank in all layers, learns 1.9 % more than the others."""


@dataclass(frozen=True)
class PlaysConfig(RunConfig):
    """One run: ``steps`` of two windows, ``seed`` of draws and of windows."""

    methods: ClassVar[Mapping[str, Method]] = METHODS
    n_seeds: ClassVar[int] = 3
    method: str = LORA
    learned: int | None = SIZES[0]
    steps: int = 60
    data: str = "tinyshakespeare"


class NextTokens(nn.Module):
    """A language model, whose logits of all places are one batch."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits (n * length, tokens) of what follows each of (n, length) tokens."""
        return self.encoder(tokens, use_cache=False).logits.flatten(0, 1)


@runs_task("adapt-plays", PlaysConfig)
def task(config: PlaysConfig, place: Place, *, validation: bool = False) -> Task:
    """The windows of a run."""
    network, tokenizer = smollm2()
    source = find_source(place.data, config.data)
    _, text, end = read_source(source)
    train, aside, test = windows_of(
        source, text, end, lambda part: tokenizer(part)["input_ids"], LENGTH, N_ASIDE, "tokens"
    )
    assert aside is not None
    generator = torch.Generator().manual_seed(config.seed)
    order = torch.randperm(len(train[0]), generator=generator)
    taken = order[: BATCH * config.steps]
    return Task(
        dataset="tinyshakespeare, SmolLM2's tokens",
        encoder=network,
        classify=NextTokens,
        examples=list(train[0][order[-N_INPUTS:]].split(BATCH)),
        batches=in_order((train[0][taken], train[1][taken])),
        measured=in_order(apart(aside, N_VALIDATION) if validation else apart(test, N_TEST)),
    )


def apart(split: Split, n: int) -> Split:
    """Windows as far apart as so many of them can lie."""
    places = torch.arange(n) * len(split[0]) // n
    return split[0][places], split[1][places]


def in_order(split: Split) -> Iterator[Batch]:
    """Two windows at a time, and the tokens that follow, as one batch."""
    for x, y in zip(*(part.split(BATCH) for part in split), strict=True):
        yield (x,), y.flatten()


def main() -> None:
    """Print the rows as a table."""
    print_table(__doc__, METHODS, "results/evidence_adapt_plays.ndjson", "test_loss")


if __name__ == "__main__":
    main()
