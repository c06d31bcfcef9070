"""What was tried for the dictionary of adapters, by validation glosses alone.

    python -m weightcast_lab.studies.evidence --minutes 60 --data wordnet=WORDNET
    python -m weightcast_lab.studies.adapting.ideas --table

All learn 82,944 weights of MiniLM, 4 for each unit, in 16 columns where they are added to W0, as
:mod:`on_glosses` says. A rate for each is chosen with seed 0, by the loss; ``BEST`` and the default
run with seeds 1 and 2 too.
"""

from __future__ import annotations

import re
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import weightcast as wc
from weightcast_lab.bench.scripts import make_parser, markdown
from weightcast_lab.studies.adapting import directions
from weightcast_lab.studies.adapting.methods import LAYERS, SIZES, WHITENED, Method, ours
from weightcast_lab.studies.adapting.on_glosses import AdaptConfig, Classifier, task
from weightcast_lab.studies.adapting.trained import adapt_and_measure
from weightcast_lab.sweeps.rows import Row, read_rows
from weightcast_lab.sweeps.trial import Place, runs_trials

LEARNED, N_ATOMS, COLUMNS = SIZES[2], 4, 16
RATES, MIDDLE_RATES = (0.005, 0.01, 0.02), (0.0025, 0.005, 0.01)
LOW_RATES = (0.0005, 0.001, 0.0025)
DEFAULT = "whitened leading directions"
BEST = (
    "shares of W0, by cosines",
    "shares of W0, by random signs",
    "columns by clusters of units",
)
"""The three of least validation loss with seed 0, but for the default."""

N_GRADIENTS, HEAD_PASSES = 8, 3
Examples = list[tuple[Tensor, Tensor]]
"""Batches of tokens (n, length), and their labels (n,)."""

Loss = Callable[[Tensor, Tensor], Tensor]
"""Of tokens (n, length) and labels (n,), summed."""


@dataclass(frozen=True)
class Idea(Method):
    """A way to adapt, and what one could expect of it, in a sentence."""

    expected: str = ""


def _rule(dictionary: Any) -> wc.Rule:
    return wc.Rule(dictionary, n_atoms=N_ATOMS, columns=COLUMNS)


def _shares(dictionary: Any) -> Callable[..., nn.Module]:
    """Shares of each entry of W0, with atoms that all units have in common."""
    return ours(dictionary, 1, relative=True)


def _parts(model: nn.Module, _: Any, inputs: Examples, seed: int) -> nn.Module:
    """Queries, keys and values take a third each of three times as many directions."""
    plan = {f"re:{LAYERS}": _rule(WHITENED)}
    for part, name in enumerate(("query", "key", "value")):
        plan[f"re:.*attention.self.{name}"] = _rule(directions.Part(part=part))
    return wc.adapt(model, plan, inputs=inputs, seed=seed)


def _like_lora(dictionary: Any) -> Callable[..., nn.Module]:
    """As many weights in each layer as LoRA's: more atoms where inputs outnumber units."""

    def adapt(model: nn.Module, _: Any, inputs: Examples, seed: int) -> nn.Module:
        few, many = (wc.Rule(dictionary, n_atoms=n, columns=COLUMNS) for n in (2, 12))
        plan = {
            f"re:{LAYERS}": _rule(dictionary),
            r"re:.*\.intermediate\.dense": few,
            r"re:encoder\.layer\.\d+\.output\.dense": many,
        }
        return wc.adapt(model, plan, inputs=inputs, seed=seed)

    return adapt


def _gradients(dictionary: Any) -> Callable[..., nn.Module]:
    """A dictionary for each layer, of its own gradients."""

    def adapt(model: nn.Module, _: Any, inputs: Examples, seed: int) -> nn.Module:
        found = loss_gradients(model, inputs, trained_head(model, inputs, seed))
        plan = {name: _rule(dictionary(gradients=G)) for name, G in found.items()}
        return wc.adapt(model, plan, inputs=inputs, seed=seed)

    return adapt


def trained_head(encoder: nn.Module, inputs: Examples, seed: int) -> Loss:
    """Train a head on the frozen encoder for three passes; what the loss of a batch is then."""
    model = Classifier(encoder.requires_grad_(False), seed)
    optimiser = torch.optim.Adam(model.head.parameters(), AdaptConfig.head_rate)

    def loss(tokens: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(model(tokens, torch.ones_like(tokens)), labels, reduction="sum")

    for tokens, labels in HEAD_PASSES * inputs:
        optimiser.zero_grad()
        (loss(tokens, labels) / len(labels)).backward()
        optimiser.step()
    return loss


def loss_gradients(encoder: nn.Module, inputs: Examples, loss: Loss) -> dict[str, Tensor]:
    """Gradients of the loss by W0 on each eighth of the examples.

    Returns:
        By layer's name (8, n_visible, n_units).
    """
    names = [name for name, _ in encoder.named_modules() if re.fullmatch(LAYERS, name)]
    weights = [encoder.get_parameter(f"{name}.weight").requires_grad_() for name in names]
    found = []
    for part in range(N_GRADIENTS):
        for tokens, labels in inputs[part::N_GRADIENTS]:
            loss(tokens, labels).backward()
        found.append([torch.zeros_like(w) if w.grad is None else w.grad for w in weights])
        encoder.zero_grad()
    return {
        name: torch.stack(own).mT for name, own in zip(names, zip(*found, strict=True), strict=True)
    }


def _renew(model: nn.Module, inputs: Examples, optimiser: torch.optim.Optimizer) -> None:
    """Merge what was learned so far, make U anew, and go on from V = 0."""
    fresh = ours(WHITENED, COLUMNS)(wc.merge(model), N_ATOMS, inputs, 0)
    model.load_state_dict(fresh.state_dict())
    for p in model.parameters():
        optimiser.state.pop(p, None)


def _idea(expected: str, adapt: Any, rates: tuple[float, ...] = RATES, **more: Any) -> Idea:
    adapt = ours(adapt, COLUMNS) if isinstance(adapt, wc.dictionaries.Dictionary) else adapt
    return Idea({LEARNED: N_ATOMS}, rates, adapt, expected=expected, **more)


IDEAS: Mapping[str, Idea] = {
    DEFAULT: _idea(
        "What inputs vary along most, at a rate that suits all of them.", WHITENED
    ),
    "not centred": _idea(
        "The mean takes one atom, and does what a bias would.", directions.AboutZero()
    ),
    "no ridge": _idea("The default's 0.001 is too small to matter.", directions.Whitened(0.0)),
    "ridge 0.01": _idea("Directions of little variance weigh less.", directions.Whitened(0.01)),
    "ridge 0.1": _idea("As above, and more so.", directions.Whitened(0.1)),
    "half whitened": _idea(
        "Scaled by variance^(-1/4): between whitened and as they are.",
        directions.Whitened(power=0.25),
    ),
    "steepest directions": _idea(
        "What the task wants to change, from the gradients of a head's loss.",
        _gradients(directions.OfGradients),
        LOW_RATES,
    ),
    "steepest directions of each column": _idea(
        "Each column sees what its own units want.",
        _gradients(directions.OfOwnGradients),
        LOW_RATES,
    ),
    "W0's singular vectors": _idea("What W0 listens to matters.", directions.OfWeights()),
    "W0's singular vectors in the inputs' metric": _idea(
        "What the outputs depend on; orthonormal, as compression has them.",
        wc.dictionaries.SingularVectors(),
    ),
    "the same, whitened": _idea("The same space, at one rate.", directions.OfOutputs()),
    "minor directions": _idea("What W0 does not use is free for a new task.", directions.Minor()),
    "random, whitened": _idea(
        "Is it the directions, or the whitening alone?", directions.Turned()
    ),
    "single inputs": _idea(
        "Sparse: those of most variance, at no cost to project on.", directions.SingleInputs()
    ),
    "mixed at random": _idea(
        "No column has only minor ones: each has a part of all 64.", directions.Mixed()
    ),
    "the first quarter, mixed at random": _idea(
        "The same of 16: columns may see alike, and all see much.", directions.Mixed(times=4)
    ),
    "as many in each layer as LoRA": _idea(
        "Layers with more inputs than units need more atoms.", _like_lora(WHITENED), MIDDLE_RATES
    ),
    "the same, mixed at random": _idea(
        "Both gain, in different ways.", _like_lora(directions.Mixed()), MIDDLE_RATES
    ),
    "one column": _idea("All units see the four that vary most.", ours(WHITENED, 1)),
    "columns by clusters of units": _idea(
        "Units with like outputs want like directions.", directions.ByClusters()
    ),
    "dealt in blocks": _idea(
        "Dealing in turn gives each column leading ones; blocks do not.", directions.InBlocks()
    ),
    "queries, keys, values apart": _idea(
        "By default they share U; apart they see 192 directions, not 64.", _parts
    ),
    "U made anew after a tenth of the steps": _idea(
        "The inputs have moved by then.", WHITENED, renew=_renew
    ),
    "shares of W0, by cosines": _idea(
        "Where W0 is small nothing changes; each unit has directions of its own.",
        _shares(wc.dictionaries.DCT()),
    ),
    "shares of W0, by random signs": _idea(
        "Cosines are small at some inputs; signs are so at none.", _shares(directions.Signs())
    ),
    "shares of W0, by blocks of inputs": _idea(
        "One factor for each quarter of a unit's inputs: nothing simpler.",
        _shares(directions.Blocks()),
    ),
}  # fmt: skip
"""By the name in tables. Kernels on patches are not among them: hidden units lie on no grid."""


@dataclass(frozen=True)
class IdeaConfig(AdaptConfig):
    """One run; ``method`` is of ``IDEAS``."""

    methods: ClassVar[Mapping[str, Method]] = IDEAS
    method: str = DEFAULT
    learned: int | None = LEARNED


@runs_trials("adapt-idea", IdeaConfig)
def run(config: IdeaConfig, place: Place) -> Row:
    """Train, and measure on what was set aside to choose by, and on nothing of the test."""
    return adapt_and_measure(config, task(config, place, validation=True), "validation")


def table(rows: Sequence[Row]) -> str:
    """By idea the best rate with seed 0, its error and loss, and three seeds where there are."""
    lines = [["idea", "expected", "rate", "error, %", "nats", "3 seeds: error, %", "nats"]]
    default = _seeds(rows, DEFAULT)[1]
    for name, idea in IDEAS.items():
        rate, found = _seeds(rows, name)
        if not found:
            continue
        cells = [f"{found[0][key]:.{digits}f}" for key, digits in _METRICS]
        for key, digits in _METRICS if len(found) > 1 else ():
            mean = statistics.fmean(own[key] for own in found.values())
            pairs = [own[key] - default[seed][key] for seed, own in found.items()]
            paired = f" ({statistics.fmean(pairs):+.{digits}f})" if name != DEFAULT else ""
            cells.append(f"{mean:.{digits}f}{paired}")
        n_tried = sum(row["seed"] == 0 and row["labels"]["idea"] == name for row in rows)
        tried = f"{rate:g}" + f" of {n_tried} tried" * (n_tried < len(idea.rates))
        lines.append([name, idea.expected, tried, *cells, *[""] * (4 - len(cells))])
    return markdown(lines)


_METRICS = (("validation_error", 2), ("validation_loss", 3))


def _seeds(rows: Sequence[Row], name: str) -> tuple[float, dict[int, dict[str, float]]]:
    """The rate of least loss with seed 0, and the metrics of all seeds at it."""
    own = [row for row in rows if row["labels"]["idea"] == name]
    first = [row for row in own if row["seed"] == 0]
    if not first:
        return 0.0, {}
    best = min(first, key=lambda row: row["metrics"]["validation_loss"])["labels"]["rate"]
    return best, {row["seed"]: row["metrics"] for row in own if row["labels"]["rate"] == best}


def main() -> None:
    """Print the rows as a table."""
    parser = make_parser(__doc__)
    parser.add_argument("--rows", type=Path, default=Path("results/evidence_adapt_ideas.ndjson"))
    parser.add_argument("--table", action="store_true", help="print the table, the only thing done")
    options = parser.parse_args()
    print(table(read_rows(options.rows)))


if __name__ == "__main__":
    main()
