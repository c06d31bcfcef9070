"""One row for every exported dictionary, kernel, base and layer; the tests walk the table."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from sklearn import cluster, decomposition, pipeline, preprocessing
from sklearn.gaussian_process import kernels as sk
from torch import Tensor, nn

import weightcast as wc
from weightcast import dictionaries as d
from weightcast import kernels as k
from weightcast.layers import DenseParameter
from weightcast.testing import example_rows, example_statistics

try:  # not needed by anything but a row of the table
    from transformers import pytorch_utils
except ImportError:
    pytorch_utils = None


@dataclass(frozen=True)
class DictionaryRow:
    """How to make a dictionary, and what it promises.

    Args:
        make: rows (n_rows, n_visible) of example inputs to a dictionary.
        full_rank: all its atoms together span every filter.
        orthonormal: U_j^T U_j = I.
        has_json: it can be written as text.
        grids_in_3d: it knows what to do with a three-dimensional grid.
    """

    make: Callable[[np.ndarray], d.Dictionary]
    full_rank: bool = True
    orthonormal: bool = False
    has_json: bool = True
    grids_in_3d: bool = True


def _fixed(dictionary: d.Dictionary, **facts: Any) -> DictionaryRow:
    return DictionaryRow(lambda rows: dictionary, **facts)


def _estimator(make: Callable[[int], Any], **facts: Any) -> DictionaryRow:
    def fitted(rows: np.ndarray) -> d.Dictionary:
        options = {key: value for key, value in facts.items() if key in ("mixing", "selection")}
        return d.FromEstimator(make(rows.shape[1]).fit(rows), **options)

    row = {key: value for key, value in facts.items() if key not in ("mixing", "selection")}
    return DictionaryRow(fitted, has_json=False, **row)


SE = k.SquaredExponential(length_scale=1.0)

DICTIONARIES: dict[str, DictionaryRow] = {
    "Kernel": _fixed(d.Kernel(SE)),
    "Kernel-raw": _fixed(d.Kernel(SE, mixing="raw")),
    "Kernel-orthonormal": _fixed(d.Kernel(SE, mixing="orthonormal"), orthonormal=True),
    "Kernel-shared": _fixed(d.Kernel(SE, positions="shared")),
    "Kernel-pivoted": _fixed(d.Kernel(SE, selection="pivoted")),
    "Kernel-leading": _fixed(d.Kernel(SE, selection="leading")),
    "Kernel-leading-raw": _fixed(d.Kernel(SE, selection="leading", mixing="raw")),
    "Kernel-leading-orthonormal": _fixed(
        d.Kernel(SE, selection="leading", mixing="orthonormal"), orthonormal=True
    ),
    # On a square grid its eigenvalues come in pairs, whose eigenvectors are anyone's choice.
    "Kernel-leading-exponential": _fixed(
        d.Kernel(k.Exponential(1.5), selection="leading", mixing="orthonormal"), orthonormal=True
    ),
    "Kernel-exponential": _fixed(d.Kernel(k.Exponential(1.5))),
    "Kernel-matern-3/2": _fixed(
        d.Kernel(k.Matern(1.5, 1.5), mixing="orthonormal"), orthonormal=True
    ),
    "Kernel-matern-5/2": _fixed(d.Kernel(k.Matern(2.5, 1.5), selection="pivoted")),
    "Kernel-scikit-learn": _fixed(d.Kernel(2.0 * sk.RationalQuadratic(1.5) + sk.WhiteKernel(0.3))),
    "Covariance": _fixed(d.Covariance()),
    "Covariance-raw": _fixed(d.Covariance(mixing="raw")),
    "Covariance-orthonormal": _fixed(d.Covariance(mixing="orthonormal"), orthonormal=True),
    "Covariance-pivoted": _fixed(d.Covariance(selection="pivoted")),
    "Covariance-leading": _fixed(d.Covariance(selection="leading")),
    "Covariance-leading-raw": _fixed(d.Covariance(selection="leading", mixing="raw")),
    "SquaredCovariance": _fixed(d.SquaredCovariance()),
    "SquaredCovariance-leading": _fixed(
        d.SquaredCovariance(selection="leading", mixing="orthonormal"), orthonormal=True
    ),
    "ChannelCovariance": _fixed(d.ChannelCovariance(SE), orthonormal=True),
    "ChannelCovariance-random": _fixed(d.ChannelCovariance(SE, mixing="ridge", selection="random")),
    "ChannelCovariance-raw": _fixed(d.ChannelCovariance(SE, mixing="raw")),
    "SingularVectors": _fixed(d.SingularVectors(), orthonormal=True),
    "SparseAtoms": _fixed(d.SparseAtoms(), orthonormal=True),
    "DCT": _fixed(d.DCT(), orthonormal=True),
    "DCT-leading": _fixed(d.DCT(selection="leading"), orthonormal=True),
    "DCT-shared": _fixed(d.DCT(positions="shared"), orthonormal=True),
    "Fourier": _fixed(d.Fourier(), orthonormal=True),
    "Fourier-leading": _fixed(d.Fourier(selection="leading"), orthonormal=True),
    "Wavelet": _fixed(d.Wavelet("haar"), grids_in_3d=False),
    "Wavelet-level": _fixed(d.Wavelet("haar", level=1), grids_in_3d=False),
    "Wavelet-leading": _fixed(d.Wavelet("haar", selection="leading"), grids_in_3d=False),
    "Autoencoder": _fixed(d.Autoencoder(epochs=2, batch_size=20)),
    "Autoencoder-orthonormal": _fixed(
        d.Autoencoder(n_features=40, epochs=2, batch_size=20, mixing="orthonormal"),
        orthonormal=True,
    ),
    "PCA": _fixed(d.PCA(), orthonormal=True),
    "PCA-whitened": _fixed(d.PCA(whiten=True)),
    # The centres of centred rows, weighted by the clusters' sizes, sum to zero.
    "KMeans": _fixed(d.KMeans(), full_rank=False),
    "KMeans-orthonormal": _fixed(d.KMeans(n_features=30, mixing="orthonormal"), orthonormal=True),
    "FromEstimator-PCA": _estimator(lambda n: decomposition.PCA(), selection="leading"),
    "FromEstimator-KMeans": _estimator(
        lambda n: cluster.KMeans(n, n_init=1, random_state=0),
        mixing="orthonormal",
        orthonormal=True,
    ),
    "FromEstimator-pipeline": _estimator(
        lambda n: pipeline.make_pipeline(preprocessing.StandardScaler(), decomposition.PCA())
    ),
    "RandomGaussian": _fixed(d.RandomGaussian()),
    "RandomGaussian-orthonormal": _fixed(d.RandomGaussian(mixing="orthonormal"), orthonormal=True),
    "RandomConnections": _fixed(d.RandomConnections(), orthonormal=True),
    "RandomConnections-grouped": _fixed(d.RandomConnections(selection="grouped"), orthonormal=True),
    "LocalKernel": _fixed(d.LocalKernel()),
    "LocalKernel-orthonormal": _fixed(d.LocalKernel(SE, power=0.0, margin=0.5), orthonormal=True),
    "LowRank": _fixed(d.LowRank()),
}
"""Every concrete dictionary in each of its ways of selecting and mixing."""

NOT_BUILT = {"StoredAtoms"}
"""Stands for a recipe that is not known; refusing to build is all it does."""

KERNELS: dict[str, k.CoordinateKernel] = {
    "SquaredExponential": k.SquaredExponential(1.3),
    "Exponential": k.Exponential(1.3),
    "Matern-3/2": k.Matern(1.5, 1.3),
    "Matern-5/2": k.Matern(2.5, 1.3),
    "ScikitLearnKernel": k.ScikitLearnKernel(1.7 * sk.RBF(1.3) + sk.Matern(0.9, nu=0.5)),
}

_FACTORS = [torch.arange(6.0).reshape(2, 3).double(), 2, torch.eye(4, 3).double() + 0.5]

BASES: dict[str, tuple[d.Base, Tensor]] = {
    "DenseBase": (
        d.DenseBase(torch.arange(12.0).reshape(3, 4).double()),
        torch.arange(12.0).reshape(3, 4).t().double(),
    ),
    "IdentityBase": (d.IdentityBase(5), torch.eye(5).double()),
    "KroneckerBase": (
        d.KroneckerBase(_FACTORS),
        torch.kron(torch.kron(_FACTORS[0], torch.eye(2).double()), _FACTORS[2]),
    ),
}
"""Base operators beside the matrix B that they stand for."""


@dataclass(frozen=True)
class LayerRow:
    """A layer class, its torch arguments and an input.

    Args:
        predicted: the predicted class.
        dense: torch's class.
        arguments: what both constructors take.
        input_shape: of one batch.
        grid: of the inputs, where the layer does not know it.
        n_visible: inputs of one unit.
        second_shape: of a second input.
        tokens: the input is this many different whole numbers.
        make: the dense layer, where its constructor takes other arguments.
    """

    predicted: type[wc.PredictedLayer]
    dense: type[nn.Module]
    arguments: Mapping[str, Any]
    input_shape: tuple[int, ...]
    n_visible: int
    grid: tuple[int, ...] | None = None
    second_shape: tuple[int, ...] | None = None
    tokens: int | None = None
    make: Callable[..., nn.Module] | None = None

    @property
    def n_units(self) -> int:
        names = ("out_features", "out_channels", "num_embeddings", "nf")
        found = [self.arguments[name] for name in names if name in self.arguments]
        if found:
            return found[0]
        return int(np.prod(self.arguments["shape"])) // self.n_visible

    def rule(self, name: str = "DCT", fraction: float = 0.5, **options: Any) -> wc.Rule:
        """A rule with a dictionary of the table, fitted to example rows where it wants them."""
        dictionary = make_dictionary(name, self.n_visible)
        return wc.Rule(dictionary, fraction, grid=self.grid, **options)

    def build(self, name: str = "DCT", fraction: float = 0.5, **options: Any) -> Any:
        """The predicted layer in float64 with a dictionary of the table."""
        return self.predicted(
            **{
                **self.arguments,
                "dictionary": make_dictionary(name, self.n_visible),
                "fraction": fraction,
                "grid": self.grid,
                "statistics": example_statistics(self.n_visible),
                "dtype": torch.float64,
                **options,
            },
        )

    def build_dense(self, **options: Any) -> Any:
        """The dense layer."""
        return (self.make or self.dense)(**{**self.arguments, **options})

    def example(self, dtype: torch.dtype = torch.float64) -> Tensor:
        """One batch of inputs, the first of them where there are two."""
        return self.inputs(dtype)[0]

    def inputs(self, dtype: torch.dtype = torch.float64) -> tuple[Tensor, ...]:
        """All that the layer is called with."""
        generator = torch.Generator().manual_seed(7)
        if self.tokens is not None:
            return (torch.randint(self.tokens, self.input_shape, generator=generator),)
        shapes = [self.input_shape, self.second_shape]
        return tuple(
            torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)
            for shape in shapes
            if shape is not None
        )


def _transformers_conv1d(
    nf: int, nx: int, dtype: torch.dtype | None = None, device: str | None = None
) -> nn.Module:
    return pytorch_utils.Conv1D(nf, nx).to(device=device, dtype=dtype)


def _dense_parameter(
    shape: tuple[int, ...],
    transposed: bool = False,
    dtype: torch.dtype | None = None,
    device: str | None = None,
) -> DenseParameter:
    weight = torch.randn(shape, dtype=dtype, device=device)
    n_visible = shape[-2] if transposed else shape[-1]
    return DenseParameter(nn.Parameter(weight * (3 * n_visible) ** -0.5), transposed)


def _conv2d(**changes: Any) -> LayerRow:
    arguments = {"in_channels": 4, "out_channels": 8, "kernel_size": (3, 2), **changes}
    n_visible = 4 // arguments.get("groups", 1) * 6
    return LayerRow(wc.PredictedConv2d, nn.Conv2d, arguments, (2, 4, 7, 6), n_visible)


def _transposed2d(**changes: Any) -> LayerRow:
    arguments = {"in_channels": 4, "out_channels": 8, "kernel_size": (3, 2), **changes}
    n_visible = 4 // arguments.get("groups", 1) * 6
    dense, shape = nn.ConvTranspose2d, (2, 4, 5, 3)
    return LayerRow(wc.PredictedConvTranspose2d, dense, arguments, shape, n_visible)


def _embedding(
    predicted: type[wc.PredictedLayer] = wc.PredictedEmbedding,
    dense: type[nn.Module] = nn.Embedding,
    **changes: Any,
) -> LayerRow:
    arguments = {"num_embeddings": 10, "embedding_dim": 24, **changes}
    return LayerRow(predicted, dense, arguments, (3, 4), 24, (4, 6), tokens=10)


LAYERS: dict[str, LayerRow] = {
    # 7 units: not divisible by 3 columns.
    "Linear": LayerRow(
        wc.PredictedLinear, nn.Linear, {"in_features": 24, "out_features": 7}, (5, 24), 24, (4, 6)
    ),
    "Linear-3d-input": LayerRow(
        wc.PredictedLinear,
        nn.Linear,
        {"in_features": 24, "out_features": 7, "bias": False},
        (2, 3, 24),
        24,
        (4, 6),
    ),
    "Conv1d": LayerRow(
        wc.PredictedConv1d,
        nn.Conv1d,
        {"in_channels": 4, "out_channels": 7, "kernel_size": 5, "padding": 2, "stride": 2},
        (3, 4, 11),
        20,
    ),
    "Conv2d": _conv2d(),
    "Conv2d-stride": _conv2d(stride=(2, 1), padding=(1, 2)),
    "Conv2d-dilation": _conv2d(dilation=(1, 2), bias=False),
    "Conv2d-same": _conv2d(padding="same", dilation=(1, 2)),
    "Conv2d-same-circular": _conv2d(padding="same", padding_mode="circular"),
    "Conv2d-reflect": _conv2d(padding=(2, 1), padding_mode="reflect", stride=2),
    # 8 units in 2 groups and 3 columns of 3, 3, 2: the middle column lies in both groups.
    "Conv2d-groups": _conv2d(groups=2),
    "Conv2d-all": _conv2d(groups=2, stride=(2, 1), dilation=(1, 2), padding=(1, 2)),
    "Conv3d": LayerRow(
        wc.PredictedConv3d,
        nn.Conv3d,
        {"in_channels": 2, "out_channels": 5, "kernel_size": (2, 3, 2), "padding": 1},
        (2, 2, 4, 5, 3),
        24,
    ),
    "ConvTranspose1d": LayerRow(
        wc.PredictedConvTranspose1d,
        nn.ConvTranspose1d,
        {"in_channels": 4, "out_channels": 7, "kernel_size": 5, "padding": 2, "stride": 2},
        (3, 4, 6),
        20,
    ),
    "ConvTranspose2d": _transposed2d(),
    "ConvTranspose2d-all": _transposed2d(
        groups=2, stride=(2, 3), dilation=(1, 2), padding=(3, 1), output_padding=(1, 2)
    ),
    "ConvTranspose3d": LayerRow(
        wc.PredictedConvTranspose3d,
        nn.ConvTranspose3d,
        {"in_channels": 2, "out_channels": 5, "kernel_size": (2, 3, 2), "bias": False},
        (2, 2, 3, 2, 3),
        24,
    ),
    "Embedding": _embedding(),
    "Embedding-padding": _embedding(padding_idx=2, scale_grad_by_freq=True),
    "EmbeddingBag": _embedding(wc.PredictedEmbeddingBag, nn.EmbeddingBag),
    "EmbeddingBag-padding": _embedding(
        wc.PredictedEmbeddingBag, nn.EmbeddingBag, mode="max", padding_idx=2
    ),
    "Bilinear": LayerRow(
        wc.PredictedBilinear,
        nn.Bilinear,
        {"in1_features": 4, "in2_features": 6, "out_features": 7},
        (5, 4),
        24,
        (4, 6),
        second_shape=(5, 6),
    ),
    "Parameter": LayerRow(
        wc.PredictedParameter, DenseParameter, {"shape": (7, 24)}, (5, 24), 24, (4, 6),
        make=_dense_parameter,
    ),
    "Parameter-experts": LayerRow(
        wc.PredictedParameter, DenseParameter, {"shape": (3, 24, 4), "transposed": True}, (5, 24),
        24, (4, 6), make=_dense_parameter,
    ),
}  # fmt: skip
if pytorch_utils is not None:
    LAYERS["TransposedLinear"] = LayerRow(
        wc.PredictedTransposedLinear,
        pytorch_utils.Conv1D,
        {"nf": 7, "nx": 24},
        (2, 3, 24),
        24,
        (4, 6),
        make=_transformers_conv1d,
    )
"""Every layer class, in each of the ways in which a convolution can move."""


def make_dictionary(name: str, n_visible: int) -> d.Dictionary:
    """A dictionary of the table, fitted to the example inputs where it has to be."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # those of the estimators are not ours
        return DICTIONARIES[name].make(example_rows(n_visible))


def make_atoms(name: str, n_atoms: int = 12, columns: int = 1, **options: Any) -> d.Atoms:
    """Atoms of a dictionary of the table on a (4, 6) grid."""
    return make_dictionary(name, 24).atoms(
        24, n_atoms, columns=columns, grid=(4, 6), statistics=example_statistics(24), **options
    )
