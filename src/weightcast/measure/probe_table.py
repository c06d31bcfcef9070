"""Probe: what ``probe`` measured, as rows, as JSON data, and as a table."""

from __future__ import annotations

import statistics
from dataclasses import asdict, dataclass
from typing import Any

from weightcast.serialization import aligned

FLOOR, CEILING = "floor", "ceiling"


@dataclass(frozen=True)
class ProbeRow:
    """One layer's weights, predicted from one share of them by one dictionary.

    Args:
        layer: its name.
        dictionary: its name; ``ceiling`` and ``floor`` are those of as many atoms.
        fraction: share of the weights that is known.
        n_atoms: known weights of each filter; 0 where the fraction is less than one.
        r2: share of the weights' variance that is predicted, 1 at best; None where the dictionary
            cannot be built for this layer.
        output_r2: share of the variance of the layer's output that is kept where V is fitted to
            it; None without inputs.
        reason: why there is no r2; empty where there is one.
    """

    layer: str
    dictionary: str
    fraction: float
    n_atoms: int
    r2: float | None
    output_r2: float | None = None
    reason: str = ""


@dataclass(frozen=True)
class Probe:
    """All rows, layer by layer; printed as a table.

    Args:
        rows: of every layer the floor first, then the dictionaries, then the ceiling.
        seed: of the known positions.
    """

    rows: tuple[ProbeRow, ...]
    seed: int = 0

    def to_dict(self) -> dict[str, Any]:
        """JSON data: ``rows``, a list, and ``seed``."""
        return {"rows": [asdict(row) for row in self.rows], "seed": self.seed}

    def best(self, layer: str, fraction: float) -> ProbeRow:
        """The row of the dictionary that predicts a layer best; ValueError where there is none."""
        found = [
            row
            for row in self.rows
            if row.layer == layer and row.fraction == fraction and row.r2 is not None
            if row.dictionary not in (FLOOR, CEILING)
        ]
        if not found:
            raise ValueError(
                f"no dictionary was measured on layer {layer!r} at fraction {fraction}: it has "
                f"{sorted({(row.layer, row.fraction) for row in self.rows})}"
            )
        return max(found, key=lambda row: row.r2 or 0.0)

    def mean(self, dictionary: str, fraction: float) -> float | None:
        """Mean r2 over the layers for which this dictionary can be built; None for no layer."""
        found = [
            row.r2
            for row in self.rows
            if (row.dictionary, row.fraction) == (dictionary, fraction) and row.r2 is not None
        ]
        return statistics.fmean(found) if found else None

    def __str__(self) -> str:
        fractions = sorted({row.fraction for row in self.rows})
        with_outputs = any(row.output_r2 is not None for row in self.rows)
        heads = [f"r2 at {fraction:g}" for fraction in fractions]
        heads += [f"output at {fraction:g}" for fraction in fractions if with_outputs]
        cells: dict[tuple[str, str], dict[str, str]] = {}
        for row in self.rows:
            line = cells.setdefault((row.layer, row.dictionary), {})
            for head, value in (("r2", row.r2), ("output", row.output_r2)):
                line[f"{head} at {row.fraction:g}"] = "-" if value is None else f"{value:.3f}"
        lines = [(*names, *(line.get(h, "") for h in heads)) for names, line in cells.items()]
        table = aligned([("layer", "dictionary", *heads), *lines], n_names=2)
        reasons = dict.fromkeys(
            f"{row.layer}, {row.dictionary}: {row.reason}" for row in self.rows if row.reason
        )
        return "\n".join([table, *(["", *reasons] if reasons else [])])
