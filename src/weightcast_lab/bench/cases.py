"""Cases: the layers and the networks that are measured, each with inputs and a loss of its own."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor, nn

from weightcast.grid import Grid
from weightcast.serialization import nearest

MakeNetwork = Callable[[float], nn.Module]
"""From a factor of the widths to a network; 1 gives the case itself."""

_ANYWHERE = ("dct-folded", "dct", "grouped", "gaussian", "covariance")
_ON_GRID = ("se", "dct", "grouped", "gaussian")


@dataclass(frozen=True)
class Case:
    """A dense network, or a single layer as a network of one layer.

    Args:
        name: on the command line, in rows and in tables.
        make_width: the network, its hidden layers (or its only one) made wider by a factor.
        input_shape: of one example.
        grids: the layers that are predicted, by name, and the coordinates of their inputs.
        dictionaries: names of recipes that suit it, the most telling first.
        inner: whether other layers lie below, so that the gradient of its inputs is wanted.
        n_classes: of a network that is trained by cross-entropy; None is the mean square of the
            outputs.
        batches: that presets measure, examples per step.
        sequence: tokens that belong together, at most; the batch counts tokens then.
    """

    name: str
    make_width: MakeNetwork
    input_shape: tuple[int, ...]
    grids: Mapping[str, Grid | None]
    dictionaries: tuple[str, ...]
    inner: bool = True
    n_classes: int | None = None
    batches: tuple[int, ...] = (1, 32, 256)
    sequence: int | None = None

    def make(self, seed: int = 0, width: float = 1.0) -> nn.Module:
        """The dense network, with weights drawn from ``seed`` whatever the global random state.

        Args:
            seed: of the weights.
            width: factor of the hidden layers' units.
        """
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return self.make_width(width)

    def shapes(self) -> dict[str, tuple[int, int]]:
        """(n_visible, n_units) of every layer that is predicted; nothing is allocated."""
        with torch.device("meta"):
            model = self.make_width(1.0)
        weights = {name: getattr(model.get_submodule(name), "weight") for name in self.grids}  # noqa: B009
        return {name: (w[0].numel(), w.shape[0]) for name, w in weights.items()}

    @property
    def only_linear(self) -> bool:
        """Whether all layers that are predicted are linear."""
        with torch.device("meta"):
            model = self.make_width(1.0)
        return all(type(model.get_submodule(name)) is nn.Linear for name in self.grids)

    def inputs(self, batch: int, device: torch.device | str = "cpu", seed: int = 0) -> Tensor:
        """(batch, *input_shape) noise; it takes a gradient where layers lie below.

        Of sequences (batch / length, length, *input_shape).

        Args:
            batch: number of examples.
            device: where the inputs are wanted.
            seed: of the noise.

        Raises:
            ValueError: tokens that are no whole number of sequences.
        """
        generator = torch.Generator().manual_seed(seed)
        length = min(batch, self.sequence or 1)
        if batch % length:
            raise ValueError(
                f"{batch} tokens are no whole number of sequences of {length}: take a multiple"
            )
        several = () if self.sequence is None else (length,)
        shape = (batch // length, *several, *self.input_shape)
        x = torch.randn(shape, generator=generator).to(device)
        return x.requires_grad_(self.inner)

    def loss(self, y: Tensor) -> Tensor:
        """Cross-entropy against labels in turn, or the mean of the squared outputs."""
        if self.n_classes is None:
            return y.square().mean()
        labels = torch.arange(len(y), device=y.device) % self.n_classes
        return nn.functional.cross_entropy(y, labels)


@cache
def cases() -> Mapping[str, Case]:
    """The cases with names of their own, small ones first."""
    return {
        case.name: case
        for case in (
            _linear(784, 500, Grid((28, 28)), inner=False),
            _linear(1024, 1024),
            _linear(4096, 4096),
            _linear(25088, 4096, Grid((7, 7), channels=512)),
            _convolution(64, 64, 5, side=16),
            _convolution(256, 256, 3, side=14),
            _mlp(),
            _convnet(),
        )
    }


def find_case(name: str) -> Case:
    """The case of this name.

    ``N-M`` is a linear layer of N inputs, without a grid, and M units; ``llama-N`` two blocks of
    width N, of which 2048 is that of the Llama with a billion weights.

    Raises:
        ValueError: there is none; the message has the nearest one.
    """
    known = cases()
    if name in known:
        return known[name]
    if found := re.fullmatch(r"([1-9]\d*)-([1-9]\d*)", name):
        return _linear(int(found[1]), int(found[2]))
    if found := re.fullmatch(r"llama-([1-9]\d*)", name):
        return _llama(int(found[1]))
    raise ValueError(
        f"there is no layer {name!r}{nearest(name, known)}; N-M is a linear layer of N inputs and "
        "M units, llama-N are two blocks of width N"
    )


def _linear(n_visible: int, n_units: int, grid: Grid | None = None, *, inner: bool = True) -> Case:
    if grid is None:
        dictionaries = _ANYWHERE
    else:  # a covariance of 25,088 inputs takes 5 GB: only for those who ask for it
        dictionaries = _ON_GRID if n_visible <= 4096 else ("se", "grouped")
    return Case(
        f"{n_visible}-{n_units}",
        lambda width: nn.Sequential(nn.Linear(n_visible, _units(n_units, width))),
        (n_visible,),
        {"0": grid},
        dictionaries,
        inner,
    )


def _convolution(n_channels: int, n_units: int, size: int, side: int) -> Case:
    return Case(
        f"conv{size}x{size}-{n_channels}-{n_units}",
        lambda width: nn.Sequential(
            nn.Conv2d(n_channels, _units(n_units, width), size, padding=size // 2)
        ),
        (n_channels, side, side),
        {"0": Grid((size, size), n_channels)},
        _ON_GRID,
    )


def _mlp() -> Case:
    def make(width: float) -> nn.Module:
        from weightcast_lab.training import mlp  # takes seconds: not for those who time one layer

        return mlp(hidden=(_units(500, width), _units(500, width)))

    return Case(
        "mlp",
        make,
        (1, 28, 28),
        {"hidden1": Grid((28, 28)), "hidden2": None},
        ("local", "se", "dct", "grouped", "gaussian", "covariance"),
        inner=False,
        n_classes=10,
        batches=(1, 32, 100, 256),
    )


def _convnet() -> Case:
    def make(width: float) -> nn.Module:
        from weightcast_lab.training import convnet

        return convnet(hidden=tuple(_units(n, width) for n in (48, 64, 64, 500)))

    grids = {"conv1": Grid((8, 8), 3), "conv2": Grid((5, 5), 48), "conv3": Grid((5, 5), 64)}
    return Case(
        "convnet",
        make,
        (3, 32, 32),
        {**grids, "hidden": None},
        ("se", "dct", "grouped", "gaussian", "covariance"),
        inner=False,
        n_classes=10,
    )


def _llama(width: int) -> Case:
    """Heads of 64, four to a key, and four times as many hidden units, as the billion's."""
    if width % 256:
        raise ValueError(
            f"a Llama of width {width}: it has 4 heads of 64 to a key, so N of llama-N must be a "
            "multiple of 256"
        )

    def make(factor: float) -> nn.Module:
        from weightcast_lab.networks.llama import LlamaBlocks

        return LlamaBlocks(width, _units(width // 256, factor), _units(4 * width, factor))

    with torch.device("meta"):
        names = [n for n, layer in make(1.0).named_modules() if isinstance(layer, nn.Linear)]
    grids = dict.fromkeys(names)
    return Case(f"llama-{width}", make, (width,), grids, _ANYWHERE, sequence=2048)


def _units(n_units: int, width: float) -> int:
    return max(1, math.floor(width * n_units + 0.5))
