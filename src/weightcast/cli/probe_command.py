"""weightcast probe: how well each layer's weights are predicted from a few of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn

from weightcast.cli.convert_command import source_name
from weightcast.cli.sources import load_inputs, load_source
from weightcast.measure import probe
from weightcast_lab.report import write_report
from weightcast_lab.sweeps.rows import append_row, make_row


def run_probe(
    source: str,
    fractions: Sequence[float] = (0.05, 0.25),
    layers: Sequence[str] | None = None,
    columns: int = 1,
    output: str | Path | None = None,
    factory: str | None = None,
    inputs: str | None = None,
    batch: int = 100,
    allow_import: bool = False,
    seed: int = 0,
    rows: str | Path | None = None,
) -> None:
    """Probe a model or a state dict, print the table, draw the picture.

    Args:
        source: of the model; see :func:`weightcast.cli.sources.load_source`.
        fractions: shares of weights that are known.
        layers: names; None takes all.
        columns: groups of units.
        output: folder for a page and a picture; None draws nothing.
        factory: makes the model of a state dict.
        inputs: example inputs.
        batch: examples per batch of a file.
        allow_import: whether functions are imported.
        seed: of the known positions.
        rows: a file to append a row to.

    Raises:
        ValueError: what cannot be read or probed.
    """
    model = load_source(source, allow_import, factory)
    batches = None if inputs is None else load_inputs(inputs, allow_import, batch)
    found = probe(
        model, tuple(fractions), inputs=batches, layers=layers, columns=columns, seed=seed
    )
    print(found)
    tensors = model.parameters() if isinstance(model, nn.Module) else model.values()
    row: dict[str, Any] = make_row(
        experiment="probe",
        variant=source_name(source),
        dataset="none" if inputs is None else source_name(inputs),
        seed=seed,
        config={"fractions": list(fractions), "columns": columns},
        counts={"dense": sum(tensor.numel() for tensor in tensors)},
        metrics={},
    )
    row["probe"] = found.to_dict()
    if rows is not None:
        append_row(Path(rows).expanduser(), row)
    if output is not None:
        print(f"\nOpen {write_report([row], output)} in a browser.")
