"""Rows -> tables, for a terminal or in Markdown, and a check of the cost model."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from weightcast.serialization import aligned
from weightcast_lab.bench import scripts
from weightcast_lab.bench.contenders import PREDICTED
from weightcast_lab.sweeps.rows import Row

Table = list[list[str]]

TOLERANCE = 1.1
"""``auto`` is wrong where the better path is more than a tenth faster."""

_SHARED = ("layer", "batch", "device", "threads", "fused", "bf16", "compiled")
_MORE = ("fused AdamW", "bfloat16", "compiled")


@dataclass
class PathComparison:
    """A predicted network in one setting: the rows of its paths.

    Args:
        names: dictionary, fraction and columns.
        rows: by path.
    """

    names: tuple[str, ...]
    rows: dict[str, Row] = field(default_factory=dict)

    @property
    def faster(self) -> str | None:
        """The path that was measured faster in training; None unless both were forced."""
        forced = {p: _metric(self.rows[p], "ratio_median") for p in _FORCED if p in self.rows}
        known = {path: ratio for path, ratio in forced.items() if ratio is not None}
        return min(known, key=lambda path: known[path]) if len(known) == len(_FORCED) else None

    @property
    def loss(self) -> float | None:
        """Time of ``auto`` over that of the faster path; None where one was not measured."""
        if "auto" not in self.rows or self.faster is None:
            return None
        auto = _metric(self.rows["auto"], "ratio_median")
        best = _metric(self.rows[self.faster], "ratio_median")
        return None if auto is None or not best else auto / best


_FORCED = ("factored", "materialised")


def render(rows: Sequence[Row], markdown: bool = False) -> str:
    """All tables of some rows, one group for each layer, batch and machine setting.

    Args:
        rows: as ``run`` returns them.
        markdown: pipes and dashes in place of aligned cells.

    Returns:
        Text; times are medians over rounds, with the smallest and the largest.
    """
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(row["config"].get(name) for name in _SHARED), []).append(row)
    draw = scripts.markdown if markdown else partial(aligned, n_names=3)
    parts = []
    for (layer, batch, device, threads, *more), group in groups.items():
        where = (
            device if device != "cpu" else f"{threads} {'thread' if threads == 1 else 'threads'}"
        )
        extra = "".join(f", {what}" for what, on in zip(_MORE, more, strict=True) if on)
        parts.append(f"{layer}, batch {batch}, {where}{extra}")
        found = settings(group)
        rivals = [row for row in group if row["config"]["kind"] != PREDICTED]
        parts += [draw(table) for table in (steps(found), others(found), peers(rivals)) if table]
    return "\n\n".join([*parts, agreement(settings(rows))])


def settings(rows: Iterable[Row]) -> list[PathComparison]:
    """Rows of predicted networks, those of the same setting together, in their order."""
    found: dict[str, PathComparison] = {}
    for row in rows:
        config = row["config"]
        if config["kind"] != PREDICTED:
            continue
        key = str({name: value for name, value in config.items() if name != "path"})
        names = (config["dictionary"], _percent(config["fraction"]), str(config["columns"]))
        found.setdefault(key, PathComparison(names)).rows[config["path"]] = row
    return list(found.values())


def steps(found: Sequence[PathComparison]) -> Table:
    """Training steps over the dense one, counted and measured, along each path."""
    if not found:
        return []
    head = ["dictionary", "learned", "columns", "step / dense", "factored", "materialised"]
    kernel = any("fused" in one.rows for one in found)
    head += [*(["fused"] if kernel else []), "counted: factored", "counted: materialised"]
    head += ["auto chose", "faster was"]
    timed = (*_FORCED, *(["fused"] if kernel else []))
    return [
        head,
        *(
            [
                *one.names,
                _range(one.rows.get("auto"), ""),
                *(_range(one.rows.get(path), "") for path in timed),
                *(_counted(one.rows.get(path)) for path in _FORCED),
                str(one.rows.get("auto", {}).get("chosen", "")),
                (one.faster or "") + (" (!)" if (one.loss or 0) > TOLERANCE else ""),
            ]
            for one in found
        ),
    ]


def others(found: Sequence[PathComparison]) -> Table:
    """Inference, memory, state, disk and building; all but the last over the dense network's."""
    rows = [(one, one.rows["auto"]) for one in found if "auto" in one.rows]
    if not rows:
        return []
    head = ["dictionary", "learned", "columns", "inference / dense", "factored", "merged"]
    head += ["peak memory, MiB (dense)", "optimiser state", "checkpoint", "built in, s"]
    return [
        head,
        *(
            [
                *one.names,
                _range(row, "inference_"),
                _range(one.rows.get("factored"), "inference_"),
                _range(row, "merged_"),
                _memory(row),
                _share(row, "optimiser_bytes"),
                _share(row, "checkpoint_bytes"),
                _number(row, "build_seconds", "{:.2f}"),
            ]
            for one, row in rows
        ),
    ]


def peers(rows: Sequence[Row]) -> Table:
    """Peers at about the same number of learned weights."""
    if not rows:
        return []
    head = ["peer", "matches", "learned weights", "step / dense", "step / predicted"]
    head += ["inference / dense", "peak memory, MiB (dense)", "predicted"]
    return [
        head,
        *(
            [
                row["config"]["kind"],
                _percent(row["config"]["fraction"]),
                f"{row['counts']['learned']:,}",
                _range(row, ""),
                _range(row, "rival_"),
                _range(row, "inference_"),
                _memory(row),
                row["config"].get("rival", ""),
            ]
            for row in rows
        ),
    ]


def agreement(found: Sequence[PathComparison]) -> str:
    """How often ``auto`` took a path that the other beat by more than a tenth, in a sentence."""
    losses = [one.loss for one in found if one.loss is not None]
    if not losses:
        return "The cost model was not checked: no setting was measured along both paths."
    wrong = sum(loss > TOLERANCE for loss in losses)
    return (
        f"The cost model: in {wrong} of {len(losses)} settings another path than auto was faster "
        f"by more than {TOLERANCE - 1:.0%}; auto took at most {max(losses):.2f} times the faster "
        "path's time."
    )


def _range(row: Row | None, prefix: str) -> str:
    """Median (smallest-largest) of a ratio."""
    values = [_metric(row, f"{prefix}ratio_{end}") for end in ("median", "min", "max")]
    if row is None or None in values:
        return ""
    return "{:.2f} ({:.2f}-{:.2f})".format(*values)


def _counted(row: Row | None) -> str:
    if row is None or "multiply_adds" not in row["counts"]:
        return ""
    return f"{row['counts']['multiply_adds'] / row['counts']['dense_multiply_adds']:.2f}"


def _memory(row: Row) -> str:
    peak, dense = _metric(row, "peak_mebibytes"), _metric(row, "dense_peak_mebibytes")
    return "" if peak is None or dense is None else f"{peak:.1f} ({dense:.1f})"


def _share(row: Row, name: str) -> str:
    value, dense = _metric(row, name), _metric(row, f"dense_{name}")
    return "" if value is None or not dense else f"{value / dense:.1%}"


def _number(row: Row, name: str, style: str) -> str:
    value = _metric(row, name)
    return "" if value is None else style.format(value)


def _metric(row: Row | None, name: str) -> float | None:
    return None if row is None else row["metrics"].get(name)


def _percent(fraction: float) -> str:
    return f"{100 * fraction:g} %"
