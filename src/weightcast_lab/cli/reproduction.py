"""Figures that are reproduced: the trials behind each, then its table and its page."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal, cast

import torch

from weightcast.files import check_place, user_path
from weightcast.serialization import nearest
from weightcast_lab.data.prepared import image_shape
from weightcast_lab.data.text import DESCRIPTIONS
from weightcast_lab.report import tables, write_report
from weightcast_lab.studies import figure4, figure5, filters, modern, rica, speech
from weightcast_lab.studies.sources import find_source, full_path, parse_sources, prepare
from weightcast_lab.sweeps.executors import RayExecutor
from weightcast_lab.sweeps.presets import check_preset
from weightcast_lab.sweeps.sweep import ROWS, SweepResult, sweep
from weightcast_lab.sweeps.trial import Place, Trial


@dataclass(frozen=True)
class Reproduction:
    """A figure that can be reproduced.

    Args:
        trials: the runs behind it, from preset, seeds and the data's names.
        data: the data it takes if the user names none, as NAME=PLACE; empty has none.
        channels: of each data set's images, in order; None is no images, 0 any.
        packaged: what the smoke preset takes instead; empty takes the same.
        missing: what to name where it has no data and none are named.
        notes: what the user should know of these data, a sentence each.
        check: refuses the sources, by a trial of them, before any trial is run.
    """

    trials: Callable[..., list[Trial]]
    data: str
    channels: tuple[int, ...] | None
    packaged: str = "digits"
    missing: str = ""
    notes: Callable[..., Sequence[str]] = lambda *_: ()
    check: Callable[[Trial, Mapping[str, str]], object] = lambda *_: None


FIGURES = {
    "fig1": Reproduction(
        filters.trials,
        "mnist=ylecun/mnist,cifar10=uoft-cs/cifar10",
        channels=(1, 3),
        notes=lambda data, colour=None: filters.left_out(data, colour),
    ),
    "fig4": Reproduction(figure4.trials, "mnist=ylecun/mnist", channels=(1,)),
    "fig5": Reproduction(figure5.trials, "cifar10=uoft-cs/cifar10", channels=(3,)),
    "speech": Reproduction(
        speech.trials,
        "",
        channels=None,
        packaged="",
        missing="the folder of your recordings with --data fsdd=FOLDER or --data timit=FOLDER",
        check=lambda trial, sources: _check_recordings(trial, sources),
    ),
    "rica": Reproduction(rica.trials, "cifar10=uoft-cs/cifar10", channels=(0,)),
    "resnet20": Reproduction(
        partial(modern.trials, "resnet20"), "cifar10=uoft-cs/cifar10", channels=(3,)
    ),
    "vit": Reproduction(partial(modern.trials, "vit"), "cifar10=uoft-cs/cifar10", channels=(3,)),
    "gpt": Reproduction(
        partial(modern.trials, "gpt"),
        "",
        channels=None,
        packaged=DESCRIPTIONS,
        missing="a text with --data NAME=FILE",
    ),
}


def reproduce(
    name: str,
    preset: str = "cpu",
    seeds: int = 3,
    data: str | None = None,
    output: str | Path | None = None,
    jobs: int | None = None,
    executor: str = "local",
    address: str = "auto",
    accelerator: str = "auto",
) -> int:
    """Run what is missing of a figure's trials, print its table and write its page.

    Args:
        name: of the figure: fig1, fig4, fig5, speech, rica, resnet20, vit or gpt.
        preset: ``smoke``, a minute or less on packaged data; ``cpu``, at most 40 minutes on two
            cores; ``full``, the whole grid.
        seeds: runs of each point.
        data: a local folder or a name on the Hub, or NAME=PLACE to say what rows and pages call
            it; fig1 takes two, NAME=PLACE,NAME=PLACE. None takes the figure's own data.
        output: folder for trials, rows and page; None is ``runs/NAME-PRESET``.
        jobs: trials at a time on this machine; None is one per core, or two per GPU.
        executor: ``local``, or ``ray``.
        address: of the Ray cluster.
        accelerator: cpu, gpu, or auto: a GPU where there is one.

    Returns:
        The number of trials that failed.

    Raises:
        ValueError: an unknown figure, preset, executor or accelerator, data that cannot be read
            or do not suit the figure.
        SweepInterrupted: Ctrl-C; the same command goes on.
    """
    figure = find_figure(name)
    check_preset(preset, seeds)
    _check_machine(executor, accelerator, jobs)
    folder = user_path(output or Path("runs") / f"{name}-{preset}")
    check_place(folder, folder=True)
    own = (preset == "smoke" and figure.packaged) or figure.data
    sources = find_sources(name, data or own)
    trials = figure.trials(preset, seeds, *sources)
    for note in figure.notes(*sources):
        print(f"weightcast: {note}", file=sys.stderr)
    if figure.channels:
        sources = {key: prepare(key, source, folder) for key, source in sources.items()}
        _check_channels(name, figure.channels, sources)
    figure.check(trials[0], sources)
    place = Place(sources, cast(Literal["auto", "cpu", "gpu"], accelerator))
    connected = RayExecutor(address, place) if executor == "ray" else nullcontext()
    with connected as pool:
        jobs = jobs or _jobs_per_gpu(executor, accelerator)
        result = sweep(trials, folder / "trials", place=place, executor=pool, jobs=jobs)
    return _present(result, folder, len(trials))


def find_figure(name: str) -> Reproduction:
    """The figure of this name.

    Raises:
        ValueError: there is none.
    """
    if name not in FIGURES:
        raise ValueError(f"there is no figure {name!r}{nearest(name, FIGURES)}")
    return FIGURES[name]


def find_sources(name: str, data: str) -> dict[str, str]:
    """Where a figure's data lie, by what they are called; local places by their full path.

    Args:
        name: of the figure.
        data: PLACE, or NAME=PLACE,NAME=PLACE.

    Raises:
        ValueError: no data, more than the figure takes, or an unreadable list.
    """
    if not data:
        raise ValueError(f"{name} has no data of its own: name {FIGURES[name].missing}")
    sources = parse_sources(data) or {_name(data, name): data}
    most = len(FIGURES[name].channels or (0,))
    if len(sources) > most:
        raise ValueError(f"--data names {len(sources)} data sets, and {name} takes {most}: {data}")
    return {key: full_path(source) for key, source in sources.items()}


def _present(result: SweepResult, folder: Path, n_trials: int) -> int:
    if result.rows:
        print(tables(result.rows))
        page = write_report(result.rows, folder)
        print(f"\nOpen {page} in a browser; the rows are in {folder / 'trials' / ROWS}.")
    if result.failures:
        print(
            f"weightcast: {len(result.failures)} of {n_trials} trials failed; the same command "
            "tries them again",
            file=sys.stderr,
        )
    return len(result.failures)


def _check_channels(name: str, expected: Sequence[int], sources: Mapping[str, str]) -> None:
    """Refuse images that the figure's networks are not made for, before any trial meets them."""
    for (key, source), channels in zip(sources.items(), expected, strict=False):
        if source == "digits" or not channels:  # the packaged ones stand in for any
            continue
        found = image_shape(source)[0]
        if found != channels:
            order = "grey images first, then colour" if len(expected) > 1 else f"{channels}"
            raise ValueError(
                f"the images of {key} have {found} channels, and {name} takes {order}: name other "
                "data with --data"
            )


def _check_recordings(trial: Trial, sources: Mapping[str, str]) -> None:
    """Read the recordings once: what every trial would refuse is refused before any is run."""
    speech.read_corpus(trial.config, find_source(dict(sources), trial.config.data))


def _check_machine(executor: str, accelerator: str, jobs: int | None) -> None:
    if executor not in ("local", "ray"):
        raise ValueError(f"executor is {executor!r}: take 'local' or 'ray'")
    if accelerator not in ("auto", "cpu", "gpu"):
        raise ValueError(f"accelerator is {accelerator!r}: take 'auto', 'cpu' or 'gpu'")
    if executor == "ray" and jobs is not None:
        raise ValueError(f"jobs is {jobs}, but Ray decides how many trials run at a time")
    if executor == "local" and accelerator == "gpu" and not torch.cuda.is_available():
        raise ValueError("accelerator is 'gpu', but torch finds none: take 'auto' or 'cpu'")


def _jobs_per_gpu(executor: str, accelerator: str) -> int | None:
    """Two trials share a GPU, which one of these small networks does not fill."""
    if executor == "ray" or accelerator == "cpu" or not torch.cuda.is_available():
        return None
    return 2 * torch.cuda.device_count()


def _name(source: str, figure: str) -> str:
    """A folder or a file by its own name: rows should not tell where on a machine it lay."""
    path = user_path(source)
    if figure == "speech" and path.is_dir():  # known by what it holds
        return "timit" if any(p.name.upper() == "TRAIN" for p in path.iterdir()) else "fsdd"
    return path.resolve().stem if path.exists() else source
