"""The evidence queue: runs at full length, in order of worth, in the time that a machine is idle.

    make evidence MINUTES=60 DATA="mnist=MNIST,CIFAR-10 (JPEG copy)=CIFAR10,tinyshakespeare=PLAYS"
    make evidence ARGS=--list

or ``python -m weightcast_lab.studies.evidence --minutes 60 --data ...``. It runs at the lowest
priority, a trial per core, and stops in time; the next call goes on where it was. Rows go to
``results/evidence_*.jsonl``. docs/evidence.md says what is in it.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import starmap
from pathlib import Path

import torch

from weightcast_lab.bench.scripts import make_parser, say
from weightcast_lab.studies import figure4, figure5, modern
from weightcast_lab.studies.adapting.ideas import BEST, DEFAULT, IDEAS, IdeaConfig
from weightcast_lab.studies.adapting.methods import FULL, HEAD, METHODS, OURS, RELATIVE, SIZES
from weightcast_lab.studies.adapting.on_glosses import AdaptConfig
from weightcast_lab.studies.adapting.on_pictures import PicturesConfig
from weightcast_lab.studies.adapting.on_plays import PlaysConfig
from weightcast_lab.studies.adapting.on_voices import VoicesConfig
from weightcast_lab.studies.adapting.trained import RunConfig
from weightcast_lab.studies.deep.deep_trials import IDEAS_EXPERIMENT, DeepConfig
from weightcast_lab.studies.deep.ways import BEST_FOR_IMAGES, PEERS, ideas_for
from weightcast_lab.studies.deep.ways import IDEAS as DEEP_IDEAS
from weightcast_lab.studies.sources import full_path, parse_sources, prepare
from weightcast_lab.sweeps.backlog import Backlog, work
from weightcast_lab.sweeps.cells import CHOICE, Cell
from weightcast_lab.sweeps.curves import DENSE, NARROW
from weightcast_lab.sweeps.listing import listing
from weightcast_lab.sweeps.rows import OWN_RATE
from weightcast_lab.sweeps.sweep import divide
from weightcast_lab.sweeps.trial import Place, Trial
from weightcast_lab.training import PretrainingSettings, TrainConfig, TrainingSettings

MNIST, CIFAR10, PLAYS = "mnist", "CIFAR-10 (JPEG copy)", "tinyshakespeare"
IMAGES = (MNIST, CIFAR10)
"""What the rows call the data."""

SEEDS = range(3)
PAIRS = ("SE-AE", "SE-Emp", "Emp-Emp", "RandFixU-RandFixU", "LowRank", "RandCon-RandCon")
DEEP_SHARES, DEEP_RATES = (0.1, 0.2, 0.3), (2e-3, 4e-3, 8e-3, 16e-3, 32e-3)
MODERN_CURVES = {
    "resnet20": (modern.COSINES, modern.INFORMED, modern.RANDOM, NARROW, modern.SINGLE),
    "gpt": (modern.SINGLE, modern.INFORMED, modern.RANDOM, NARROW),
}
"""Of each network: those that its ideas speak for come first."""


def cells() -> list[Cell]:
    """All of the queue, what decides most first."""
    return [
        _figure4(DENSE, 1.0, "What every pair of figure 4 is compared with, seed by seed."),
        _figure4("SE-AE", 0.05, "Does the paper's best pair lose at most 0.1 points at 5 %?"),
        *(_figure4(name, 0.05, _AT_FIVE) for name in (*PAIRS[1:], "Local-Grouped")),
        *_at_a_quarter(),
        *(_deep_idea(network, name) for network in MODERN_CURVES for name in ideas_for(network)),
        _deep_peer(None, 1.0),
        *(_deep_peer(name, fraction) for fraction in DEEP_SHARES for name in PEERS),
        *_adapted(),
        *(_adapt(*point) for point in _adapted_elsewhere()),
        *_figure5(epochs=60, seeds=3, gpu=True),
        *_figure5(epochs=10, seeds=1, gpu=False),
        *(
            _figure4(name, fraction, f"Figure 4's curve at {100 * fraction:g} % learned.")
            for fraction in (0.02, 0.1, 0.25)
            for name in (*PAIRS, "Local-Grouped")
        ),
        *(_modern(name, curve, 0.5) for name, curves in MODERN_CURVES.items() for curve in curves),
    ]


_AT_FIVE = "Which pairs hold at 5 % learned, and do trained dictionaries beat random ones?"


def _figure4(name: str, fraction: float, why: str) -> Cell:
    """A pair at a share: its rate is chosen at 5 %, on 10,000 digits, with seed 0."""

    def config(share: float, rate: float, seed: int) -> TrainConfig:
        setting = figure4.MLPSetting(
            columns=10,
            activation="sigmoid",
            pretraining=PretrainingSettings(epochs=10),
            training=TrainingSettings(epochs=40, learning_rate=rate, label_smoothing=0.1),
        )
        made = figure4.make_config(name, share, setting, seed, MNIST)
        return replace(made, experiment="evidence-figure4")

    chosen_at = 1.0 if name == DENSE else 0.05
    return _chosen(
        f"figure 4, {name}, {100 * fraction:g} %",
        why,
        "evidence_figure4.jsonl",
        partial(make_runs, lambda rate, seed: config(fraction, rate, seed)),
        lambda rate: make_choice(replace(config(chosen_at, rate, 0), n_validation=10_000)),
        (1e-3, 2e-3, 4e-3, 8e-3),
        "validation_error",
    )


def _at_a_quarter() -> Iterator[Cell]:
    for network, curves in MODERN_CURVES.items():
        yield _modern(network, DENSE, 1.0)
        yield from (_modern(network, curve, 0.25) for curve in curves)


def _modern(network: str, curve: str, fraction: float) -> Cell:
    """A curve of ResNet-20 or the small GPT at a share, at a rate of its own."""
    base = modern.cpu_setting(network)
    images = network == "resnet20"

    def config(rate: float, seed: int) -> TrainConfig:
        training = replace(base.training, epochs=30 if images else 4, learning_rate=rate)
        setting = replace(base, training=training, n_train=10_000 if images else base.n_train)
        data = CIFAR10 if images else PLAYS
        made = modern.make_config(curve, fraction, setting, seed, data)
        return replace(made, experiment=f"evidence-{network}")

    return _chosen(
        f"{network}, {curve}, {100 * fraction:g} %",
        f"How far is {network} from dense when trained longer, each curve at its best rate?",
        f"evidence_{network}.jsonl",
        partial(make_runs, config),
        lambda rate: make_choice(config(rate, 0)),
        (32e-3, 64e-3, 128e-3) if images else (2e-3, 4e-3, 8e-3),
        # 30 epochs learn 10,000 images by heart: their loss tells how sure a network is of them.
        "validation_error" if images else "validation_loss",
    )


def _deep_trial(
    network: str,
    way: str | None,
    choices: str,
    share: float,
    rate: float | None,
    seed: int,
    *,
    kind: str,
) -> Trial:
    """The narrow network of the preset cpu, with its data and passes.

    ``choices`` is the experiment of what chooses a rate; its ending tells it from the runs'.
    """
    assert rate is not None
    base, runs = modern.cpu_setting(network), kind == "deep"
    config = DeepConfig(
        data=CIFAR10 if network == "resnet20" else PLAYS,
        model=base.model,
        training=replace(base.training, learning_rate=rate),
        seed=seed,
        n_validation=base.n_validation,
        n_train=base.n_train,
        n_inputs=base.n_inputs,
        context=base.context,
        experiment=choices.removesuffix("-validation") if runs else choices,
        variant=f"{way or DENSE}, {100 * share:g} %, rate {rate:g}",
        labels={"curve": way or DENSE, "fraction": share, **(OWN_RATE if runs else {})},
        way=way,
        fraction=share,
    )
    return Trial(kind, config)


def _deep_idea(network: str, way: str) -> Cell:
    """An idea against what is lost at a quarter: rates on validation data; runs of the best."""
    trial = partial(_deep_trial, network, way, IDEAS_EXPERIMENT.format(network), 0.25)
    seeds = SEEDS if network == "resnet20" and way in BEST_FOR_IMAGES else ()
    return _chosen(
        f"deep idea, {network}, {way}",
        DEEP_IDEAS[way].expected,
        "evidence_deep.jsonl",
        lambda rate: [trial(rate, seed, kind="deep") for seed in seeds],
        lambda rate: trial(rate, 0, kind="deep-choice"),
        (0.016, 0.032) if network == "resnet20" else (0.004, 0.008),
    )


def _deep_peer(way: str | None, fraction: float) -> Cell:
    """The small GPT after one pass, in a way of others' or in ours, at a rate of its own.

    It is chosen at a share between the others, and serves all.
    """
    trial = partial(_deep_trial, "gpt", way, "evidence-deep-peers-validation")
    chosen_at = 1.0 if way is None else DEEP_SHARES[1]
    return _chosen(
        f"deep peers, gpt, {way or DENSE}, {100 * fraction:g} %",
        "How do others' ways to train with few weights compare?",
        "evidence_deep.jsonl",
        lambda rate: [trial(fraction, rate, seed, kind="deep") for seed in SEEDS],
        lambda rate: trial(chosen_at, rate, 0, kind="deep-choice"),
        DEEP_RATES,
    )


def _figure5(*, epochs: int, seeds: int, gpu: bool) -> Iterator[Cell]:
    """All 50,000 images, at the rate of the figure's other rows."""
    names = (figure5.LEADING, "SE-Emp", "RandFixU-RandFixU", NARROW)
    for fraction, name in [(1.0, DENSE), *((f, name) for f in (0.25, 0.1) for name in names)]:
        columns = max(1, int(0.5 / fraction)) if name == figure5.LEADING else 4
        setting = figure5.ConvnetSetting(columns=min(4, columns), epochs=epochs)
        configs = (figure5.make_config(name, fraction, setting, s, CIFAR10) for s in range(seeds))
        experiment = f"evidence-figure5-{epochs}-epochs"
        trials = [Trial("train", replace(config, experiment=experiment)) for config in configs]
        yield Cell(
            f"figure 5, {name}, {100 * fraction:g} %, {epochs} epochs",
            "Does figure 5's order hold with all 50,000 images?",
            "evidence_figure5.jsonl",
            lambda _, trials=trials: trials,
            {},
            gpu=gpu,
        )


def _adapted() -> list[Cell]:
    """What is compared most often first, then what was tried for ours, then size by size."""
    most = [(name, size) for size in (82_944, *SIZES) for name in ("LoRA", OURS, RELATIVE)]
    first = dict.fromkeys([*most, (HEAD, None), (FULL, None)])
    rest = [(name, size) for size in SIZES for name in METHODS if size in METHODS[name].settings]
    later = [point for point in rest if point not in first]
    return [*starmap(_adapt, first), *map(_idea, IDEAS), *starmap(_adapt, later)]


def _adapted_elsewhere() -> Iterator[tuple[str, int | None, str]]:
    """The other tasks, and of each every method at every size that it has."""
    for kind in ("adapt-plays", "adapt-voices", "adapt-pictures"):
        for name, method in _ADAPTED[kind][0].methods.items():
            yield from ((name, size, kind) for size in method.settings)


_ADAPTED: dict[str, tuple[type[RunConfig], str]] = {
    "adapt": (AdaptConfig, "Do fewer learned weights adapt MiniLM to a task as well as LoRA's?"),
    "adapt-plays": (PlaysConfig, "Does a language model learn other text from as few weights?"),
    "adapt-voices": (VoicesConfig, "How far do few learned weights take another task's LSTM?"),
    "adapt-pictures": (PicturesConfig, "Do few learned weights adapt convolutions like LoRA's?"),
}


def _adapt(method: str, learned: int | None, kind: str = "adapt") -> Cell:
    """A way to adapt a network at a size: its rate is chosen on validation data, with seed 0."""
    make, why = _ADAPTED[kind]

    def trial(rate: float, seed: int, *, chooses: bool = False) -> Trial:
        name = method if learned is None else f"{method}, {learned:,}"
        config = make(
            method, learned, rate, seed=seed,
            experiment=f"evidence-{kind}{'-validation' * chooses}",
            variant=f"{name}, rate {rate:g}", labels={"method": method, "learned": learned},
        )  # fmt: skip
        return Trial(f"{kind}-choice" if chooses else kind, config)

    return _chosen(
        f"{kind}, {method}" + ("" if learned is None else f", {learned:,}"),
        why,
        f"evidence_{kind.replace('-', '_')}.ndjson",
        lambda rate: [trial(rate or make.head_rate, seed) for seed in range(make.n_seeds)],
        lambda rate: trial(rate, 0, chooses=True),
        make.methods[method].rates,
    )


def _idea(name: str) -> Cell:
    """An idea for the adapters' dictionary: its rates with seed 0; other seeds of the best."""

    def trial(rate: float | None, seed: int) -> Trial:
        assert rate is not None
        config = IdeaConfig(
            name, rate=rate, seed=seed, experiment="evidence-adapt-ideas",
            variant=f"{name}, rate {rate:g}", labels={"idea": name, "rate": rate},
        )  # fmt: skip
        return Trial("adapt-idea", config)

    return _chosen(
        f"idea, {name}",
        IDEAS[name].expected,
        "evidence_adapt_ideas.ndjson",
        lambda rate: [trial(rate, seed) for seed in (1, 2) if name in (DEFAULT, *BEST)],
        lambda rate: trial(rate, 0),
        IDEAS[name].rates,
    )


def _chosen(
    name: str,
    why: str,
    file: str,
    make: Callable[[float | None], list[Trial]],
    choose: Callable[[float], Trial],
    rates: Sequence[float],
    criterion: str = "validation_loss",
) -> Cell:
    """A cell whose rate is one of these or, while the best lies at an end, up to 8 times beyond."""
    beyond = [rate * factor for rate in rates[-1:] for factor in (2, 4, 8)]
    beyond += [rate / factor for rate in rates[:1] for factor in (2, 4, 8)]
    choices, further = ({rate: choose(rate) for rate in some} for some in (rates, beyond))
    return Cell(name, why, file, make, choices, further, criterion)


def make_runs(config: Callable[[float, int], TrainConfig], rate: float | None) -> list[Trial]:
    """The runs of all seeds at the rate that was chosen."""
    assert rate is not None
    made = (config(rate, seed) for seed in SEEDS)
    return [Trial("train", replace(one, labels={**one.labels, **OWN_RATE})) for one in made]


def make_choice(config: TrainConfig) -> Trial:
    """A run that helps to choose a rate: named by it, in an experiment of its own."""
    rate = config.training.learning_rate
    return Trial(
        CHOICE,
        replace(
            config,
            experiment=f"{config.experiment}-validation",
            variant=f"{config.variant}, rate {rate:g}",
            labels={**config.labels, "learning_rate": rate},
        ),
    )


def main() -> None:
    """Work off the queue for some minutes, or list it."""
    parser = make_parser(__doc__)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--data", default="", metavar="NAME=PLACE,NAME=PLACE")
    parser.add_argument("--jobs", type=int, help="trials at a time; default: one per core")
    parser.add_argument("--cells", default="", metavar="TEXT", help="only those whose name has it")
    parser.add_argument("--list", action="store_true", help="show what is done and what is missing")
    parser.add_argument("--root", type=Path, default=Path("runs/evidence"), help="trials' folders")
    parser.add_argument("--results", type=Path, default=Path("results"), help="files of rows")
    options = parser.parse_args()
    if not options.minutes > 0 or (options.jobs is not None and options.jobs < 1):
        parser.error(f"--minutes is {options.minutes} and --jobs {options.jobs}: take more than 0")
    try:
        if options.list:
            print(listing(Backlog(_asked(options.cells), options.root, options.results)))
        else:
            _work(options)
    except ValueError as error:
        parser.exit(2, f"evidence: {error}\n")
    except KeyboardInterrupt:
        parser.exit(130, "evidence: stopped; the same command goes on from here\n")


def _asked(text: str) -> list[Cell]:
    """The queue, or its cells whose names have ``text`` in them."""
    asked = [cell for cell in cells() if text in cell.name]
    if not asked:
        raise ValueError(f"no cell has {text!r} in its name: --list shows the names")
    return asked


def _work(options: argparse.Namespace) -> None:
    start = time.monotonic()
    _give_way()
    sources, asked = parse_sources(options.data), _asked(options.cells)
    chosen = [cell for cell in asked if cell.data in sources]
    if not chosen:
        names = ", ".join(dict.fromkeys(cell.data for cell in asked))
        raise ValueError(f"no data: say where they lie with --data NAME=PLACE, of {names}")
    for data in dict.fromkeys(cell.data for cell in asked if cell.data not in sources):
        say(f"without {data}: --data does not name it, so its cells wait")
    sources = {cell.data: full_path(sources[cell.data]) for cell in chosen}
    images = {n: prepare(n, where, options.root) for n, where in sources.items() if n in IMAGES}
    places = sources | images
    backlog = Backlog(chosen, options.root, options.results)
    seconds = 60 * options.minutes - (time.monotonic() - start)
    jobs = {False: options.jobs or divide(len(chosen))[0]}
    if torch.cuda.is_available():
        jobs[True] = 2 * torch.cuda.device_count()
    finished = work(backlog, Place(places), seconds=seconds, jobs=jobs, say=say)
    say("all is done that can be done here" if finished else "the time is up")


def _give_way() -> None:
    """Take what others leave; the trials' processes inherit it."""
    os.nice(19)
    ionice = shutil.which("ionice")
    if ionice is not None:
        subprocess.run([ionice, "-c", "3", "-p", str(os.getpid())], check=False)


if __name__ == "__main__":
    main()
