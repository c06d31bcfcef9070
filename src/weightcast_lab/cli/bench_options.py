"""Options of ``weightcast bench``, apart from what it does: a parser imports no network."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser

SUMMARY = "Measure predicted layers in turn with dense ones and their peers; print tables."
HELP = """Options name what is measured, all combinations; a preset says what they leave open:
smoke (one layer, half a minute), cpu (all but the largest layer), full (hours). Rows in FILE are
not measured again, so that a run that was stopped goes on and tables can be printed anew."""


def add(parser: ArgumentParser) -> None:
    """Add the options to the command's parser."""
    parser.add_argument("--preset", default="smoke", help="smoke, cpu or full")
    many: dict[str, Any] = {"nargs": "+", "metavar": "NAME"}
    parser.add_argument(
        "--layers",
        help="784-500, 1024-1024, 4096-4096, 25088-4096, conv5x5-64-64, conv3x3-256-256, mlp, "
        "convnet; any N-M is a linear layer without a grid",
        **many,
    )
    numbers: dict[str, Any] = {"nargs": "+", "metavar": "NUMBER"}
    parser.add_argument("--fractions", type=float, help="shares of weights learned", **numbers)
    parser.add_argument("--columns", type=int, help="groups of units", **numbers)
    parser.add_argument("--batches", type=int, help="examples per step", **numbers)
    parser.add_argument(
        "--dictionaries",
        help="se, local (both need inputs on a grid), dct, "
        "dct-folded, grouped, gaussian, covariance",
        **many,
    )
    parser.add_argument(
        "--peers",
        help="narrow, low-rank; cp, tucker, tt (each also as NAME-reconstructed), lora, vera, "
        "fourierft, which need pip install 'weightcast[bench]'; or none",
        **many,
    )
    parser.add_argument("--rounds", type=int, help="alternations; 11, and 3 for smoke, by default")
    parser.add_argument("--threads", type=int, help="of torch; its own number by default")
    parser.add_argument("--device", default="auto", help="cpu, cuda or auto")
    parser.add_argument("--fused", action="store_true", help="AdamW's fused kernel")
    parser.add_argument(
        "--memory", type=bool, default=True, help="peak memory, each in a process of its own"
    )
    parser.add_argument(
        "--min-seconds", type=float, default=0.1, help="of one timing; 0.02 is enough on a GPU"
    )
    parser.add_argument("--rows", metavar="FILE", help="append the rows (JSON lines)")
    parser.add_argument("--markdown", action="store_true", help="print the tables in Markdown")
