"""weightcast compress: a trained model with predicted layers that come nearest to it."""

from __future__ import annotations

from typing import Any

from weightcast.cli.convert_command import Job
from weightcast.measure import compression_report
from weightcast.transform.compress import compress


def run_compress(selection: Any = "fitted", ridge: float = 1e-3, **options: Any) -> None:
    """Compress a model, print what each layer lost, save it.

    Args:
        selection: ``fitted`` or ``plan``.
        ridge: of the least squares on inputs.
        options: as of :class:`weightcast.cli.convert_command.Job`; a budget counts what is stored.

    Raises:
        ValueError: what cannot be read, planned or compressed.
    """
    job = Job(**options, own_count="stored")
    model, plan, batches = job.prepare()
    small = compress(model, plan, batches, selection=selection, ridge=ridge, seed=job.seed)
    report = compression_report(model, small, batches)
    print(report)
    whole = report.rows[-1]
    errors = [row.weight_error for row in report.rows if row.weight_error is not None]
    metrics = {
        "output_error": whole.output_error,
        "mean_weight_error": sum(errors) / len(errors),
        **{f"weight_error of {row.layer}": row.weight_error for row in report.rows[:-1]},
        **{f"output_error of {row.layer}": row.output_error for row in report.rows[:-1]},
    }
    print(f"\n{job.finish(small, plan, 'compress', metrics)}")
