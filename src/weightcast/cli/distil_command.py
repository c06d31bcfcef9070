"""weightcast distil: a compressed model learns what the dense one says."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from weightcast.cli.job import SOURCE, add_output, add_source, check_places, finish, load_model
from weightcast.cli.sources import load_inputs
from weightcast.files import check_place
from weightcast.layers import predicted_layers
from weightcast.plan.plan import Plan
from weightcast.storage import load
from weightcast.transform.distil import distil

SUMMARY = "Train a compressed model's V on what the dense model says; labels are not needed."
HELP = SOURCE


def add_options(parser: ArgumentParser) -> None:
    """Add the command's options."""
    add_source(parser)
    parser.add_argument("--small", required=True, metavar="FOLDER", help="what compress saved")
    parser.add_argument("--steps", type=int, required=True, help="batches to learn from")
    add_output(parser)
    parser.add_argument("--learning-rate", type=float, help="the largest, as for a dense layer")
    parser.add_argument("--loss", help="kl or squared; by default what suits the model's output")
    parser.add_argument("--layerwise", action="store_true", help="each block for itself")
    parser.add_argument("--train", nargs="+", default=["V", "bias"], help="some of V, bias, norm")
    parser.add_argument("--state", metavar="FOLDER", help="to go on from, if interrupted")


def run(options: Namespace) -> None:
    """Distil a model, print its losses, save it."""
    check_places(options)
    check_place(options.state, folder=True)
    if options.inputs is None:
        raise ValueError("distil needs example inputs: --inputs FILE or MODULE:FUNCTION")
    teacher = load_model(options)
    small = load(options.small, teacher)
    record = distil(
        small, teacher, load_inputs(options.inputs, options.allow_import, options.batch),
        options.steps, learning_rate=options.learning_rate, loss=options.loss,
        layerwise=options.layerwise, train=options.train, seed=options.seed, folder=options.state,
    )  # fmt: skip
    print(record)
    plan = Plan({name: layer.rule for name, layer in predicted_layers(small).items()})
    metrics = {"first_loss": record.losses[0], "last_loss": record.losses[-1]}
    _, saved = finish(options, small, plan, metrics)
    print(f"\n{saved}")
