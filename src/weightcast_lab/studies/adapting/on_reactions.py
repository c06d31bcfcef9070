"""How much of a fine-tune's true change U spans: RXNFP's BERT, and the two that its package has.

    python -m weightcast_lab.studies.adapting.on_reactions --rows results/adapt_rxnfp.ndjson
    python -m weightcast_lab.studies.adapting.on_reactions --table --rows results/adapt_rxnfp.ndjson

The change is W1 - W0 of the 72 linear layers in 12 blocks; V is fitted to it in closed form. The
share that is met is that of the weights' sum of squares, and that of the variance of x (W1 - W0)
over the tokens of the package's one text, a reaction in its description. The 200 reactions that
U is made from, about 10,000 tokens, are drawn by the pretrained network's own head for masked
tokens: they look like reactions, but whether they are possible was not checked.
"""

from __future__ import annotations

import re
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import weightcast as wc
from weightcast.dictionaries import InputStatistics
from weightcast.inputs.moments import Moments
from weightcast.layers import view
from weightcast.layers.rule import layer_seed
from weightcast.least_squares import Metric
from weightcast_lab.bench.scripts import make_parser, markdown, mean_and_spread, say
from weightcast_lab.networks.pretrained.language import rxnfp, rxnfp_for_masked_tokens
from weightcast_lab.studies.adapting.methods import WHITENED
from weightcast_lab.sweeps.rows import Row, append_row, make_row, read_rows

N_INPUTS, PER_BATCH, ROUNDS, SHORTEST, LONGEST = 200, 20, 8, 24, 80
SETTINGS = ((4, 1), (4, 16), (8, 16))
"""Atoms and columns."""

FINE_TUNES = ("ft", "ft_10k_25s")
TYPES = {
    "queries, keys, values": "attention.self",
    "attention's output": "attention.output",
    "first of the MLP": "intermediate",
    "second of the MLP": "output",
}
RANDOM, LARGEST = "random U", "most that any U can"
DICTIONARIES = {
    "directions of the inputs": WHITENED,
    "singular vectors of W0": wc.dictionaries.SingularVectors(),
    RANDOM: wc.dictionaries.RandomGaussian(),
}


def draw_reactions(network: Any, tokens: list[str], n: int, seed: int) -> Iterator[Tensor]:
    """Reactions as a network for masked tokens has them: places in random order, a share a round.

    Args:
        network: gives `logits` of tokens.
        tokens: in the order of their numbers; the arrow ``>>`` stands at three fifths.
        n: how many, in batches of ``PER_BATCH`` of one length.
        seed: of lengths, orders and tokens.

    Returns:
        Batches (``PER_BATCH``, length) int64.
    """
    first, last, mask, arrow = map(tokens.index, ("[CLS]", "[SEP]", "[MASK]", ">>"))
    special = {first, last, mask, arrow, tokens.index("[PAD]"), tokens.index("[UNK]")}
    forbidden = [n for n, token in enumerate(tokens) if n in special or "unused" in token]
    generator = torch.Generator().manual_seed(seed)
    for _ in range(n // PER_BATCH):
        length = int(torch.randint(SHORTEST, LONGEST + 1, (), generator=generator))
        x = torch.full((PER_BATCH, length), mask)
        x[:, 0], x[:, -1], x[:, 3 * length // 5] = first, last, arrow
        turn = torch.rand(x.shape, generator=generator).mul(ROUNDS).long()
        turn[x != mask] = -1
        for number in range(ROUNDS):
            with torch.no_grad():
                logits = network(input_ids=x).logits[turn == number]
            logits[:, forbidden] = -torch.inf
            x[turn == number] = torch.multinomial(
                logits.softmax(1), 1, generator=generator
            ).squeeze(1)
        yield x


def numbers(reaction: str, tokens: list[str]) -> Tensor:
    """A reaction's tokens by their numbers, the longest first, between both ends: (1, length)."""
    longest = sorted(map(re.escape, tokens), key=len, reverse=True)
    found = ["[CLS]", *re.findall("|".join(longest), reaction), "[SEP]"]
    return torch.tensor([[tokens.index(token) for token in found]])


@torch.no_grad()
def moments(
    model: nn.Module, names: Sequence[str], batches: Sequence[Tensor]
) -> dict[str, Moments]:
    """Those of the inputs of linear layers."""
    found = {name: Moments() for name in names}

    def take(own: Moments, _: nn.Module, inputs: tuple[Tensor]) -> None:
        own.update(inputs[0].flatten(0, -2))

    hooks = [
        model.get_submodule(name).register_forward_pre_hook(partial(take, own))
        for name, own in found.items()
    ]
    for batch in batches:
        model(input_ids=batch)
    for hook in hooks:
        hook.remove()
    return found


@dataclass(frozen=True)
class Change:
    """What a fine-tune changed in a layer.

    Args:
        name: of the layer.
        layer: as it was.
        filters: W1 - W0, (n_units, n_visible) float64.
        seen: of the inputs that U is made from.
        held: the metric of others, which fits V to the outputs.
    """

    name: str
    layer: nn.Linear
    filters: Tensor
    seen: Moments
    held: Metric

    def met(self, rule: wc.Rule, seed: int) -> dict[str, float]:
        """The shares of it that U V meets, V fitted to the weights, and to the outputs."""
        given = InputStatistics(self.seen.n_rows, covariance=self.seen.covariance())
        made: Any = view(self.layer).predict(
            rule, seed=layer_seed(seed, self.name), statistics=given
        )
        return {
            "weights": 1 - made.fit_filters(self.filters),
            "outputs": 1 - made.fit_filters(self.filters, self.held),
        }

    def most(self, n_atoms: int, columns: int) -> dict[str, float]:
        """The most that any U of so many atoms and columns can meet: singular values by column."""
        shares = {}
        for key, root in (("weights", None), ("outputs", self.held.roots[0])):
            change = self.filters.t() if root is None else root @ self.filters.t()
            values = [torch.linalg.svdvals(part) for part in change.tensor_split(columns, dim=1)]
            met = sum(float(own[:n_atoms].square().sum()) for own in values)
            shares[key] = met / float(change.square().sum())
        return shares


def changes(
    before: nn.Module, after: nn.Module, seen: Mapping[str, Moments], held: Mapping[str, Moments]
) -> list[Change]:
    """Those of all layers of which moments are known."""
    found = []
    for name, own in seen.items():
        old: Any = before.get_submodule(name)
        new: Any = after.get_submodule(name)
        filters = (new.weight - old.weight).detach().double()
        found.append(Change(name, old, filters, own, held[name].metric()))
    return found


def shares(found: Sequence[Change], dictionary: str, n_atoms: int, columns: int, seed: int) -> Row:
    """Means over the layers of each type, and over all."""
    by_type: dict[str, list[float]] = {}
    for change in found:
        if dictionary == LARGEST:
            met = change.most(n_atoms, columns)
        else:
            rule = wc.Rule(DICTIONARIES[dictionary], n_atoms=n_atoms, columns=columns)
            met = change.met(rule, seed)
        kind = next(name for name, part in TYPES.items() if f".{part}." in f"{change.name}.")
        for key, value in met.items():
            by_type.setdefault(f"{key}, {kind}", []).append(value)
            by_type.setdefault(f"{key}, all", []).append(value)
    return {name: statistics.fmean(values) for name, values in by_type.items()}


def run(path: Path) -> None:
    """All rows."""
    before = rxnfp()
    layers = before.named_modules()
    names = [name for name, m in layers if isinstance(m, nn.Linear) and "pooler" not in name]
    network, tokens, reaction = rxnfp_for_masked_tokens()
    drawn = list(draw_reactions(network, tokens, N_INPUTS, 0))
    seen, held = (moments(before, names, x) for x in (drawn, [numbers(reaction, tokens)]))
    for which in FINE_TUNES:
        found = changes(before, rxnfp(which), seen, held)
        for n_atoms, columns in SETTINGS:
            for name in (*DICTIONARIES, LARGEST):
                for seed in range(3 if name == RANDOM else 1):
                    metrics = shares(found, name, n_atoms, columns, seed)
                    config = {"fine_tune": which, "n_atoms": n_atoms, "columns": columns}
                    row = make_row(
                        experiment="adapt-rxnfp",
                        variant=f"{name}, {which}, {n_atoms} atoms, {columns} columns",
                        dataset=f"{N_INPUTS} reactions drawn by the network, and a real one",
                        seed=seed,
                        config=config,
                        counts={
                            "dense": sum(change.filters.numel() for change in found),
                            "learned": n_atoms * sum(len(change.filters) for change in found),
                        },
                        metrics=metrics,
                    )
                    append_row(path, row | {"labels": {"method": name} | config})
                    say(f"{which}, {name}, {n_atoms} atoms, {columns} columns: {metrics}")


def table(
    rows: Sequence[Row], kinds: Sequence[str], settings: Sequence[tuple[int, int]] = SETTINGS
) -> str:
    """Shares in percent, of the outputs and of the weights: layers by ways to make U."""
    lines = [["fine-tune, atoms, columns: layers", *DICTIONARIES, LARGEST]]
    for which, (n_atoms, columns), kind in product(FINE_TUNES, settings, kinds):
        config = {"fine_tune": which, "n_atoms": n_atoms, "columns": columns}
        cells = []
        for name in lines[0][1:]:
            labels = {"method": name} | config
            own = [row["metrics"] for row in rows if row["labels"] == labels]
            both = ([100 * one[f"{key}, {kind}"] for one in own] for key in ("outputs", "weights"))
            cells.append(" / ".join(mean_and_spread(values, digits=1) for values in both))
        lines.append([f"{which}, {n_atoms}, {columns}: {kind}", *cells])
    return markdown(lines)


def main() -> None:
    """Write all rows, or print them as tables."""
    parser = make_parser(__doc__)
    parser.add_argument("--rows", type=Path, required=True)
    parser.add_argument("--table", action="store_true", help="print the rows, and compute nothing")
    options = parser.parse_args()
    if not options.table:
        torch.set_num_threads(1)
        run(options.rows)
    rows = read_rows(options.rows)
    print(table(rows, ["all"]), table(rows, list(TYPES), [(4, 16)]), sep="\n\n")


if __name__ == "__main__":
    main()
