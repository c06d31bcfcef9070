"""weightcast reproduce: the trials behind a figure of the paper, then its table and its page."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

SUMMARY = "Run the trials behind a figure of the paper; print its table, write its page."
HELP = """NAME is fig1 (filters and their prediction), fig4 (MNIST, test error against the
share of weights that is learned), fig5 (the same for the convnet on CIFAR-10), speech or rica
(reconstruction ICA); or a modern network with ever fewer weights learned: resnet20, vit or gpt
(of a text: --data NAME=FILE). Each trial runs in a process of its own; stopped in any way, the same
command goes on where it was."""


def add_options(parser: ArgumentParser) -> None:
    """Add the command's options."""
    parser.add_argument(
        "name", metavar="NAME", help="fig1, fig4, fig5, speech, rica, resnet20, vit, gpt"
    )
    parser.add_argument(
        "--preset",
        default="cpu",
        help="smoke (a minute or less), cpu (at most 40 minutes on 2 cores), or full (the whole "
        "grid)",
    )
    parser.add_argument("--seeds", type=int, default=3, help="runs of each point")
    parser.add_argument(
        "--data",
        help="a local folder or a Hub name; NAME=PLACE says what to call it, and fig1 takes "
        "mnist=PLACE,cifar10=PLACE",
    )
    parser.add_argument("--output", help="folder for trials and page; runs/NAME-PRESET by default")
    parser.add_argument("--jobs", type=int, help="trials at a time; one per core by default")
    parser.add_argument("--executor", default="local", help="local or ray")
    parser.add_argument("--address", default="auto", help="of the Ray cluster, HOST:PORT")
    parser.add_argument("--accelerator", default="auto", help="cpu, gpu or auto")


def run(options: Namespace) -> int:
    """Run what is missing of a figure's trials, print its table and write its page.

    Returns:
        1 where trials failed.
    """
    from weightcast_lab.cli.reproduction import reproduce

    failed = reproduce(
        options.name,
        options.preset,
        options.seeds,
        options.data,
        options.output,
        options.jobs,
        options.executor,
        options.address,
        options.accelerator,
    )
    return 1 if failed else 0
