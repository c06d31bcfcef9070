"""Kernels: the covariance of a filter's values at two coordinates, k(a, b).

Distances are Euclidean, in grid cells. References: Denil et al. 2013, section 3.1; Rasmussen and
Williams, *Gaussian Processes for Machine Learning*, chapter 4.
"""

from __future__ import annotations

import math
import random
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from typing_extensions import override

from weightcast.serialization import Plain, nearest


class CoordinateKernel(Plain, ABC):
    """A positive semi-definite function of two coordinates."""

    separable: ClassVar[bool] = False
    """Whether k factorises over the axes of a grid, so that K is a Kronecker product."""

    @property
    def n_evaluations(self) -> int:
        """The work of one evaluation, in evaluations of the squared exponential."""
        return 1

    @abstractmethod
    def __call__(self, a: Tensor, b: Tensor) -> Tensor:
        """k(a, b), (n_a, n_b), of coordinates in cells (n_a, n_axes) and (n_b, n_axes): float64."""


if TYPE_CHECKING:
    from sklearn.gaussian_process.kernels import Kernel as SklearnKernel
else:  # files name its kernels by a class of ours
    SklearnKernel = CoordinateKernel


class _Stationary(CoordinateKernel):
    """A kernel of |a - b| alone, with a length scale."""

    length_scale: float

    def __post_init__(self) -> None:
        if not (self.length_scale > 0 and math.isfinite(self.length_scale)):
            raise ValueError(
                f"length_scale is {self.length_scale}: it must be positive and finite, in grid "
                "cells (1 to 3 suits images of digits)"
            )

    @abstractmethod
    def _of(self, distance: Tensor) -> Tensor: ...

    @override
    def __call__(self, a: Tensor, b: Tensor) -> Tensor:
        return self._of(distances(a, b))


@dataclass(frozen=True)
class SquaredExponential(_Stationary):
    """``exp(-|a - b|^2 / (2 length_scale^2))``: smooth filters, the paper's SE kernel.

    Args:
        length_scale: in grid cells, positive; the paper uses 1 on MNIST, the authors' code 2.
    """

    length_scale: float = 1.0
    separable: ClassVar[bool] = True

    @override
    def _of(self, distance: Tensor) -> Tensor:
        return torch.exp(-0.5 * (distance / self.length_scale).square())


@dataclass(frozen=True)
class Exponential(_Stationary):
    """``exp(-|a - b| / length_scale)``, with the Euclidean distance: rough filters.

    Args:
        length_scale: in grid cells, positive.
    """

    length_scale: float = 1.0

    @override
    def _of(self, distance: Tensor) -> Tensor:
        return torch.exp(-distance / self.length_scale)


@dataclass(frozen=True)
class Matern(_Stationary):
    """(1 + t) exp(-t) for nu = 1.5, (1 + t + t^2/3) exp(-t) for nu = 2.5.

    ``t = sqrt(2 nu) |a - b| / length_scale``.
    Between the exponential (nu = 1/2) and the squared exponential (nu to infinity).

    Args:
        nu: 1.5 or 2.5.
        length_scale: in grid cells, positive.
    """

    nu: float = 1.5
    length_scale: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.nu not in (1.5, 2.5):
            raise ValueError(
                f"Matern has nu=1.5 or 2.5, got {self.nu}; Exponential is nu=0.5, any other nu is "
                "sklearn.gaussian_process.kernels.Matern"
            )

    @override
    def _of(self, distance: Tensor) -> Tensor:
        t = math.sqrt(2 * self.nu) * distance / self.length_scale
        polynomial = 1 + t if self.nu == 1.5 else 1 + t + t.square() / 3
        return polynomial * torch.exp(-t)


MOST_PARTS = 32
"""Kernels that one may be made of: each takes the time of a whole matrix, and a file names them."""


@dataclass(frozen=True)
class ScikitLearnKernel(CoordinateKernel):
    """Any kernel of ``sklearn.gaussian_process.kernels`` (sums and products too), as it is.

    Args:
        kernel: scikit-learn's, of 32 kernels at most; its noise terms are left out.
    """

    kernel: SklearnKernel

    def __post_init__(self) -> None:
        if (n := _n_kernels(self.kernel)) > MOST_PARTS:
            raise ValueError(f"a kernel of {n} kernels: at most {MOST_PARTS}")

    @override
    def __call__(self, a: Tensor, b: Tensor) -> Tensor:
        # Without Y, scikit-learn adds noise terms to the diagonal; kernel ridge has its own ridge.
        return torch.from_numpy(np.asarray(self.kernel(a.numpy(), b.numpy()), dtype=np.float64))

    @property
    @override
    def n_evaluations(self) -> int:
        return 4 * _n_kernels(self.kernel)

    def __hash__(self) -> int:
        return hash(repr(self.kernel))

    def to_json_data(self) -> dict[str, Any]:
        """JSON form: scikit-learn's class name and its parameters, nested kernels alike."""
        return {"kind": "ScikitLearnKernel", "kernel": _sklearn_to_data(self.kernel)}

    @classmethod
    def from_json_data(cls, data: dict[str, Any], where: str) -> ScikitLearnKernel:
        """Read the JSON form back; only kernels that scikit-learn itself defines are accepted."""
        if set(data) - {"kind"} != {"kernel"}:
            raise ValueError(f"{where}: a ScikitLearnKernel has one field, 'kernel'")
        return cls(_sklearn_from_data(data["kernel"], where))


def as_kernel(kernel: CoordinateKernel | SklearnKernel) -> CoordinateKernel:
    """Accept one of our kernels or one of scikit-learn's, and refuse all else by a ValueError.

    Args:
        kernel: of either kind.
    """
    if isinstance(kernel, CoordinateKernel):
        return kernel
    with importing_sklearn():
        from sklearn.gaussian_process.kernels import Kernel
    if isinstance(kernel, Kernel):
        return ScikitLearnKernel(kernel)
    raise ValueError(
        f"a kernel is one of weightcast.kernels or sklearn.gaussian_process.kernels, got {kernel!r}"
    )


def distances(a: Tensor, b: Tensor) -> Tensor:
    """``|a_i - b_j|``, Euclidean, exactly zero at equal coordinates: (n_a, n_b).

    Args:
        a: (n_a, n_axes) coordinates.
        b: (n_b, n_axes) coordinates.
    """
    return torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist")


@contextmanager
def importing_sklearn() -> Iterator[None]:
    """Within, scikit-learn is imported: where it is used, as it takes longer to import than torch.

    What it imports draws from Python's random numbers, which stay as they were.
    """
    state = random.getstate()
    try:
        yield
    finally:
        random.setstate(state)


def _sklearn_to_data(kernel: SklearnKernel) -> dict[str, Any]:
    with importing_sklearn():
        from sklearn.gaussian_process.kernels import Kernel

    def plain(value: Any) -> Any:
        if isinstance(value, Kernel):
            return _sklearn_to_data(value)
        return value.tolist() if isinstance(value, (np.ndarray, np.generic)) else value

    parameters = {key: plain(value) for key, value in kernel.get_params(deep=False).items()}
    return {"kind": type(kernel).__name__, **parameters}


def _n_kernels(kernel: Any) -> int:
    """Kernels of scikit-learn in one: itself, and those it is a sum, product or power of."""
    with importing_sklearn():
        from sklearn.gaussian_process.kernels import Kernel
    count, left = 0, [kernel]
    while left:
        parts = left.pop().get_params(deep=False).values()
        left += [part for part in parts if isinstance(part, Kernel)]
        count += 1
    return count


def _sklearn_from_data(data: Any, where: str) -> SklearnKernel:
    with importing_sklearn():
        from sklearn.gaussian_process import kernels as sklearn_kernels
    if not isinstance(data, dict) or not isinstance(data.get("kind"), str):
        raise ValueError(
            f"{where}: {data!r:.40} is no kernel of scikit-learn: write its class and parameters "
            "as an object, {'kind': 'RBF', 'length_scale': 2.0}"
        )
    known = {
        name: cls
        for name, cls in vars(sklearn_kernels).items()
        if isinstance(cls, type) and issubclass(cls, sklearn_kernels.Kernel)
    }
    name = data["kind"]
    if name not in known:
        raise ValueError(f"{where}: scikit-learn has no kernel {name!r}{nearest(name, known)}")
    parameters = {
        key: _sklearn_from_data(value, where) if isinstance(value, dict) else value
        for key, value in data.items()
        if key != "kind"
    }
    # Bounds are pairs; JSON only has lists.
    parameters = {k: tuple(v) if isinstance(v, list) else v for k, v in parameters.items()}
    try:
        return known[name](**parameters)
    except TypeError as error:
        raise ValueError(f"{where}: {name}: {error}") from error
