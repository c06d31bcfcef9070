"""Options of ``weightcast convert``, ``compress`` and ``probe``: a parser imports no network."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser

SOURCE = """SOURCE is a saved state dict (.safetensors, .pt, .pth), a folder from the Hub with
config.json and safetensors, or package.module:function with --allow-import, which makes the model
without arguments; a model may be named itself. Nothing is downloaded, and no file's code is run."""
CONVERT_SUMMARY = "Replace a model's layers by predicted ones, V drawn anew; save it to a folder."
COMPRESS_SUMMARY = "Replace a trained model's layers by predicted ones that come nearest to them."
PROBE_SUMMARY = "Hide most of each layer's weights, predict them, and say how well that goes."


def add_convert(parser: ArgumentParser) -> None:
    """Add the options of ``weightcast convert``."""
    _add_source(parser)
    _add_plan(parser)


def add_compress(parser: ArgumentParser) -> None:
    """Add the options of ``weightcast compress``."""
    _add_source(parser)
    _add_plan(parser)
    parser.add_argument(
        "--selection",
        default="fitted",
        help="fitted (each column takes the atoms that suit its units) or plan",
    )
    parser.add_argument("--ridge", type=float, default=1e-3, help="of the least squares on inputs")


def add_probe(parser: ArgumentParser) -> None:
    """Add the options of ``weightcast probe``."""
    _add_source(parser)
    parser.add_argument(
        "--fractions",
        type=float,
        nargs="+",
        metavar="NUMBER",
        default=[0.05, 0.25],
        help="shares of weights that are known",
    )
    parser.add_argument("--layers", nargs="+", metavar="NAME", help="all by default")
    parser.add_argument("--columns", type=int, default=1, help="groups of units")
    parser.add_argument("--output", help="folder for a page and a picture; none by default")


def _add_source(parser: ArgumentParser) -> None:
    parser.add_argument("source", metavar="SOURCE", help="the model, see above")
    parser.add_argument(
        "--factory", metavar="MODULE:FUNCTION", help="makes the model of a state dict"
    )
    parser.add_argument(
        "--inputs",
        metavar="FILE",
        help="example inputs: .safetensors or .pt with one tensor, or one per argument of the "
        "model, an example a row; or MODULE:FUNCTION, which returns batches",
    )
    parser.add_argument("--batch", type=int, default=100, help="examples per batch of a file")
    parser.add_argument(
        "--allow-import", action="store_true", help="import functions, which runs their code"
    )
    parser.add_argument("--seed", type=int, default=0, help="of all draws")
    parser.add_argument("--rows", metavar="FILE", help="append a result row (JSON lines)")


def _add_plan(parser: ArgumentParser) -> None:
    parser.add_argument("--output", required=True, help="folder for the saved model")
    parser.add_argument("--plan", metavar="FILE", help="which layer from which dictionary: YAML")
    parser.add_argument(
        "--fraction", type=float, help="suggest a plan in which layers learn this share; 0.05"
    )
    parser.add_argument(
        "--budget",
        type=int | float,  # as in Python, 1 is a number, and 1.0 would be a share
        metavar="NUMBER",
        help="suggest a plan in which the whole network learns this share (below 1), or this whole "
        "number",
    )
    parser.add_argument(
        "--count", help="what --budget counts: learned or stored (compress: stored)"
    )
    parser.add_argument("--columns", type=int, default=10, help="groups of units, if suggested")
