"""Presets: sensible lists of layers, fractions, columns, batches, dictionaries and peers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, get_args

from weightcast.dictionaries import check_fraction
from weightcast.serialization import nearest
from weightcast.weight import ExecutionPath
from weightcast_lab.bench.block import BenchBlock, Say
from weightcast_lab.bench.cases import Case, cases, find_case
from weightcast_lab.bench.contenders import PREDICTED, BenchPath, Contender, no_kernel
from weightcast_lab.bench.peers import find_peer, peers
from weightcast_lab.bench.recipes import check, find_recipe
from weightcast_lab.sweeps.presets import Preset

PATHS: tuple[BenchPath, ...] = ("auto", "factored", "materialised")

BenchPreset = Preset | Literal["gpu"]
NO_PEERS = ("none",)


@dataclass(frozen=True)
class BenchGrid:
    """What is measured: all combinations that can be built.

    Args:
        layers: names of cases, or ``N-M``.
        fractions: shares of weights that are learned.
        columns: groups of units.
        peers: names; ``none`` alone leaves all out.
        batches: examples per step; None takes each case's own.
        dictionaries: names of recipes; None takes each case's own.
        n_dictionaries: how many of a case's own.
        paths: along which predicted networks are timed; ``fused`` where its kernel can run.

    Raises:
        ValueError: an unknown name, an empty list, a number out of range.
    """

    layers: tuple[str, ...]
    fractions: tuple[float, ...]
    columns: tuple[int, ...]
    peers: tuple[str, ...] = NO_PEERS
    batches: tuple[int, ...] | None = None
    dictionaries: tuple[str, ...] | None = None
    n_dictionaries: int = 99
    paths: tuple[BenchPath, ...] = PATHS

    def __post_init__(self) -> None:
        for name in ("layers", "fractions", "columns", "batches", "dictionaries", "peers", "paths"):
            if getattr(self, name) is not None and not getattr(self, name):
                raise ValueError(f"{name} is empty: name at least one, or leave the option out")
        for layer in self.layers:
            find_case(layer)
        for fraction in self.fractions:
            check_fraction(fraction)
        for name in ("columns", "batches"):
            for number in getattr(self, name) or ():
                if number < 1:
                    raise ValueError(f"{name} has {number}: each must be at least 1")
        for recipe in self.dictionaries or ():
            find_recipe(recipe)
        for path in self.paths:
            if path not in (known := (*get_args(ExecutionPath), "fused")):
                raise ValueError(f"there is no path {path!r}{nearest(path, known)}")
        for peer in self.peers:
            if self.peers != NO_PEERS:
                find_peer(peer)

    def blocks(self, say: Say = lambda _: None, device: str = "cpu") -> Iterator[BenchBlock]:
        """What is to be measured, in turn; what cannot be built is said and left out.

        Args:
            say: what to do with a message to the user.
            device: ``cpu`` or ``cuda``.
        """
        for case in map(find_case, self.layers):
            known = self._known_peers(case, say)
            paths: tuple[BenchPath, ...] = self.paths
            if "fused" in paths and (obstacle := no_kernel(case, device)):
                say(f"left out: {obstacle}")
                paths = tuple(path for path in self.paths if path != "fused")
            for fraction in self.fractions:
                found = list(self._predicted(case, fraction, paths, say))
                for batch in self.batches or case.batches:
                    for contenders in found:
                        yield BenchBlock(case, batch, contenders)
                    if known:
                        rivals = tuple(Contender(name, fraction) for name in known)
                        yield BenchBlock(case, batch, rivals, found[0][0] if found else None)

    def _predicted(
        self, case: Case, fraction: float, paths: tuple[BenchPath, ...], say: Say
    ) -> Iterator[tuple[Contender, ...]]:
        own = case.dictionaries[: self.n_dictionaries]
        for dictionary in self.dictionaries or own:
            for columns in self.columns:
                try:
                    check(case, dictionary, fraction, columns)
                except ValueError as error:
                    say(f"left out: {case.name}, {dictionary}, {fraction:g}: {error}")
                    continue
                yield tuple(
                    Contender(PREDICTED, fraction, dictionary, columns, path) for path in paths
                )

    def _known_peers(self, case: Case, say: Say) -> list[str]:
        known = []
        for name in () if self.peers == NO_PEERS else self.peers:
            obstacle = find_peer(name).obstacle(case)
            if obstacle is None:
                known.append(name)
            else:
                say(f"left out: {obstacle}")
        return known


_LAYERS = tuple(cases())

PRESETS: dict[BenchPreset, BenchGrid] = {
    "smoke": BenchGrid(("784-500",), (0.05,), (10,), ("narrow",), (32,), ("se",)),
    "cpu": BenchGrid(
        tuple(name for name in _LAYERS if name != "25088-4096"),
        (0.05, 0.25),
        (1, 10),
        ("narrow", "low-rank", "cp", "tucker", "tt", "lora", "fourierft"),
        n_dictionaries=1,
    ),
    "full": BenchGrid(_LAYERS, (0.01, 0.02, 0.05, 0.1, 0.25), (1, 10, 20), tuple(peers())),
    "gpu": BenchGrid(
        ("1024-1024", "4096-4096", "8192-8192", "llama-2048"),
        (0.05, 0.1),
        (1, 10),
        ("low-rank", "cp", "tucker", "tt"),
        (16384,),
        ("dct-folded", "grouped"),
        paths=(*PATHS, "fused"),
    ),
}

ROUNDS: dict[BenchPreset, int] = {"smoke": 3, "cpu": 11, "full": 11, "gpu": 11}
"""Of each preset, unless the user says otherwise."""


def check_preset(name: str) -> BenchPreset:
    """The preset, if there is one of this name.

    Raises:
        ValueError: there is none.
    """
    if name not in PRESETS:
        raise ValueError(f"there is no preset {name!r}{nearest(name, PRESETS)}")
    return name
