"""The command ``weightcast``: a user's mistake is one line on stderr, and exit code 2."""

from __future__ import annotations

import argparse
import difflib
import re
import shlex
import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser, Namespace

FAILED, USER_ERROR, INTERRUPTED = 1, 2, 130
EXTRAS = "pip install 'weightcast[train,data,report,onnx]'"

DEMO_SUMMARY = "Train dense, predicted, narrow and low-rank networks side by side; write a page."
TRAIN_SUMMARY = "Train one network, dense or with predicted layers."
REPORT_SUMMARY = "Draw result rows: tables here, and one page with pictures."
TRAIN_HELP = """CONFIG.yaml holds the fields below; each is overridden by the option of its name,
and the plan's by dotted options such as --plan.rules.hidden1.fraction 0.02. Progress goes to
stderr, the table of learned weights and errors to stdout. Ctrl-C stops with a checkpoint."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        arguments: without the program's name; None takes the command line's.

    Returns:
        The exit code: 0, 1 where trials or checks failed, 2 for a user's mistake, 130 after Ctrl-C.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    try:
        if arguments[:1] == ["doctor"]:  # which must work without the command line's own extra
            return _doctor(arguments[1:])
        rest, plan_overrides = _split_plan_overrides(arguments)
        parsed = _parse(rest)
        match parsed.subcommand:
            case "train":
                _train(parsed.train, plan_overrides, arguments)
            case "convert" | "compress" | "probe" as command:
                _work_on_model(command, parsed[command])
            case "reproduce":
                return _reproduce(parsed.reproduce)
            case "bench":
                _bench(parsed.bench)
            case "report":
                _report(parsed.report)
            case "export":
                _export(parsed.export)
            case _:
                _demo(parsed.demo)
    except KeyboardInterrupt as interrupt:
        print(f"\nweightcast: {str(interrupt) or 'stopped'}", file=sys.stderr)
        return INTERRUPTED
    except ModuleNotFoundError as error:
        print(f"weightcast: error: this needs {error.name}: {EXTRAS}", file=sys.stderr)
        return USER_ERROR
    except (ValueError, OSError) as error:
        # On one line, whatever a library put into its message.
        print(f"weightcast: error: {' '.join(str(error).split())}", file=sys.stderr)
        return USER_ERROR
    return 0


def _parse(arguments: list[str]) -> Namespace:
    """The options that were given, and only those.

    Raises:
        ValueError: what the parser refuses, with the nearest option it knows.
    """
    parser, commands = _make_parsers(with_train="train" in arguments[:1])
    if not arguments:
        known = " or ".join(", ".join(commands).rsplit(", ", 1))
        raise ValueError(f"name a command: {known}; weightcast --help says more")
    try:
        return parser.parse_args(arguments, defaults=False)
    except argparse.ArgumentError as error:
        known = [*commands]
        if arguments[0] in commands:
            actions = commands[arguments[0]]._actions
            known = [option for action in actions for option in action.option_strings]
        raise ValueError(_explain(str(error), known)) from error


def _make_parsers(with_train: bool) -> tuple[ArgumentParser, dict[str, ArgumentParser]]:
    """The parser and those of the commands; train's fields only where they are wanted."""
    from jsonargparse import ArgumentParser

    from weightcast.cli import doctor_command as doctor
    from weightcast.cli import export_command, model_options
    from weightcast_lab.cli import bench_options, reproduce_options

    def make(text: str, **options: Any) -> ArgumentParser:
        return ArgumentParser(description=text, exit_on_error=False, allow_abbrev=False, **options)

    train = make(f"{TRAIN_SUMMARY} {TRAIN_HELP}")
    train.add_argument("config", metavar="CONFIG.yaml", help="the run, as a YAML file")
    train.add_argument("--rows", help="append the result row to this file (JSON lines)")
    train.add_argument("--resume", action="store_true", help="go on from the last checkpoint")
    train.add_argument("--workers", type=int, help="processes that put batches together; 0")
    train.add_argument("--processes", type=int, help="processes that train together; 1")
    if with_train:  # its import takes seconds
        from weightcast_lab.training import TrainConfig

        train.add_class_arguments(TrainConfig, as_group=False)
    demo = make(DEMO_SUMMARY)
    demo.add_argument("--data", default="digits", help="digits, a local folder, or a Hub name")
    demo.add_argument("--seeds", type=int, default=3, help="runs of each network")
    demo.add_argument("--epochs", type=int, help="passes over the training images")
    demo.add_argument("--output", default="weightcast-demo", help="folder for index.html")
    demo.add_argument("--rows", help="append the result rows to this file (JSON lines)")
    reproduce = make(f"{reproduce_options.SUMMARY} {reproduce_options.HELP}")
    reproduce_options.add(reproduce)
    convert = make(f"{model_options.CONVERT_SUMMARY} {model_options.SOURCE}")
    model_options.add_convert(convert)
    compress = make(f"{model_options.COMPRESS_SUMMARY} {model_options.SOURCE}")
    model_options.add_compress(compress)
    probe = make(f"{model_options.PROBE_SUMMARY} {model_options.SOURCE}")
    model_options.add_probe(probe)
    bench = make(f"{bench_options.SUMMARY} {bench_options.HELP}")
    bench_options.add(bench)
    doctor_command = make(f"{doctor.SUMMARY} {doctor.HELP}")
    doctor.add_options(doctor_command)
    report = make(REPORT_SUMMARY)
    report.add_argument("rows", nargs="+", metavar="ROWS.jsonl", help="files of result rows")
    report.add_argument("--output", default="weightcast-report", help="folder for index.html")
    report.add_argument("--images", type=bool, default=True, help="write SVG and PNG files too")
    export = make(f"{export_command.SUMMARY} {export_command.HELP}")
    export_command.add_options(export)
    commands = {
        "demo": (demo, DEMO_SUMMARY),
        "train": (train, TRAIN_SUMMARY),
        "convert": (convert, model_options.CONVERT_SUMMARY),
        "compress": (compress, model_options.COMPRESS_SUMMARY),
        "probe": (probe, model_options.PROBE_SUMMARY),
        "reproduce": (reproduce, reproduce_options.SUMMARY),
        "bench": (bench, bench_options.SUMMARY),
        "report": (report, REPORT_SUMMARY),
        "export": (export, export_command.SUMMARY),
        "doctor": (doctor_command, doctor.SUMMARY),
    }
    parser = make("Learn a few of a network's weights and predict the rest.", prog="weightcast")
    subcommands = parser.add_subcommands(required=True)
    for name, (command, summary) in commands.items():
        subcommands.add_subcommand(name, command, help=summary)
    return parser, {name: command for name, (command, _) in commands.items()}


def _explain(message: str, known: Iterable[str]) -> str:
    """The parser's message in a user's words, with the nearest word it would have understood."""
    value = re.fullmatch(
        r'Parser key "(?P<key>[^"]+)"(?: element \d+)?:\s+'
        r"Expected a (?P<kind>.+)\. Got value: (?P<value>.*)",
        message,
        re.DOTALL,
    )
    if value:
        kind = value["kind"].removeprefix("<class '").removesuffix("'>").removeprefix("typing.")
        return f"--{value['key']} is {value['value']!r}: expected {kind}"
    values = re.fullmatch(
        r'Parser key "(?P<key>[^"]+)":\s+Does not validate against any of the Union subtypes\s+'
        r"Subtypes: \[(?P<kinds>(?:<class '\w+'>(?:, )?)+)\].*Given value: (?P<value>.*)",
        message,
        re.DOTALL,
    )
    if values:
        kinds = " or ".join(re.findall(r"<class '(\w+)'>", values["kinds"]))
        kinds = kinds.replace("NoneType", "null")
        return f"--{values['key']} is {values['value']!r}: expected {kinds}"
    for word in re.findall(r"--[\w.]+|(?<=invalid choice: ')[^']+", message):
        close = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
        if close:
            return f"{message}; did you mean {close[0]!r}?"
    return message


def _split_plan_overrides(arguments: list[str]) -> tuple[list[str], dict[str, str]]:
    """Take out ``--plan.PATH VALUE`` and ``--plan.PATH=VALUE``: layers' names are no options.

    Raises:
        ValueError: an option without a value.
    """
    rest: list[str] = []
    overrides: dict[str, str] = {}
    words = iter(arguments)
    for word in words:
        if not word.startswith("--plan."):
            rest.append(word)
            continue
        name, equals, value = word.removeprefix("--").partition("=")
        if not equals:
            value = next(words, None)
            if value is None:
                raise ValueError(f"--{name} needs a value")
        overrides[name] = value
    return rest, overrides


def _train(options: Namespace, plan_overrides: dict[str, str], arguments: list[str]) -> None:
    from weightcast_lab.cli.train_command import run_train

    given = vars(options.as_flat())
    config = given.pop("config")
    names = ("rows", "resume", "workers", "processes")
    how = {name: given.pop(name) for name in names if name in given}
    again = shlex.join(["weightcast", *(word for word in arguments if word != "--resume")])
    run_train(config, given, plan_overrides, **how, resume_command=f"{again} --resume")


def _demo(options: Namespace) -> None:
    from weightcast_lab.cli.demo_command import run_demo

    run_demo(**vars(options))


def _work_on_model(command: str, options: Namespace) -> None:
    given = {name: value for name, value in vars(options).items() if value is not None}
    if command == "convert":
        from weightcast.cli.convert_command import run_convert

        run_convert(**given)
    elif command == "compress":
        from weightcast.cli.compress_command import run_compress

        run_compress(**given)
    else:
        from weightcast.cli.probe_command import run_probe

        run_probe(**given)


def _reproduce(options: Namespace) -> int:
    from weightcast_lab.cli.reproduce_command import run_reproduce

    return FAILED if run_reproduce(**vars(options)) else 0


def _bench(options: Namespace) -> None:
    from weightcast_lab.cli.bench_command import run_bench

    run_bench(**vars(options))


def _doctor(arguments: list[str]) -> int:
    from weightcast.cli.doctor_command import run_doctor

    return 0 if run_doctor(arguments) else FAILED


def _report(options: Namespace) -> None:
    from weightcast_lab.cli.report_command import run_report

    run_report(**vars(options))


def _export(options: Namespace) -> None:
    from weightcast.cli.export_command import run_export

    run_export(**vars(options))
