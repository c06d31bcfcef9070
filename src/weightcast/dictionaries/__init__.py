"""Dictionaries: fixed atoms U from which a layer's weights W = U V are predicted."""

from weightcast.dictionaries.analytic import DCT, Fourier, Wavelet
from weightcast.dictionaries.atoms import Atoms
from weightcast.dictionaries.base import Dictionary
from weightcast.dictionaries.baselines import LowRank, RandomConnections, RandomGaussian
from weightcast.dictionaries.covariance import ChannelCovariance, Covariance, SquaredCovariance
from weightcast.dictionaries.fraction import check_fraction, count_atoms
from weightcast.dictionaries.input_site import InputStatistics, SharedBases, Site
from weightcast.dictionaries.kernel import Kernel
from weightcast.dictionaries.kronecker import KroneckerBase
from weightcast.dictionaries.learned import PCA, Autoencoder, FromEstimator, KMeans
from weightcast.dictionaries.local import LocalKernel
from weightcast.dictionaries.operators import Base, DenseBase, IdentityBase
from weightcast.dictionaries.singular import SingularVectors
from weightcast.dictionaries.sparse import SparseAtoms
from weightcast.dictionaries.stored import StoredAtoms

__all__ = [
    "DCT", "PCA", "Atoms", "Autoencoder", "Base", "ChannelCovariance", "Covariance",
    "DenseBase", "Dictionary", "Fourier", "FromEstimator", "IdentityBase", "InputStatistics",
    "KMeans", "Kernel", "KroneckerBase", "LocalKernel", "LowRank", "RandomConnections",
    "RandomGaussian", "SharedBases", "SingularVectors", "Site", "SparseAtoms",
    "SquaredCovariance", "StoredAtoms", "Wavelet", "check_fraction", "count_atoms",
]  # fmt: skip
