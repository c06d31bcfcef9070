"""EfficientNet-Lite0's convolutions, trained on ImageNet's classes, learn those of CIFAR-10.

    python -m weightcast_lab.studies.evidence --minutes 60 --data "CIFAR-10 (JPEG copy)=CIFAR10"
    python -m weightcast_lab.studies.adapting.on_pictures --table

Images are blown up to 64 pixels. All methods adapt the 31 pointwise convolutions of the blocks; one
of ours the depthwise ones too, which PEFT takes at ranks that are multiples of their groups alone.
80 steps; 2,000 of the training images choose, the first 2,000 test images test. Batch normalisation
keeps its statistics, whatever learns. The mean over positions goes to the head.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import weightcast as wc
from weightcast_lab.data.image_sources import load_images
from weightcast_lab.networks.pretrained.efficientnet import EfficientNetLite0, efficientnet_lite0
from weightcast_lab.studies.adapting.methods import (
    FULL,
    HEAD,
    LORA,
    OURS,
    RANDOM,
    RATES,
    RELATIVE,
    WHITENED,
    Method,
    full,
    head,
    ours,
    pefts,
    rules,
)
from weightcast_lab.studies.adapting.trained import (
    Batch,
    Classifier,
    RunConfig,
    Task,
    drawn,
    print_table,
    runs_task,
    whole,
)
from weightcast_lab.studies.sources import find_source
from weightcast_lab.sweeps.trial import Place

N_INPUTS, N_VALIDATION, N_TEST, SIDE = 256, 2_000, 2_000, 64
SIZES = (21_184, 42_368)
"""LoRA's counts at ranks 1 and 2; ours, of 2 and 4 atoms, are 1.4 % above."""
DEEPER, ONE_COLUMN = "weightcast, depthwise too", "weightcast, 1 column"
POINTWISE = r"1\.(0\.layers\.3|[1-9]\d*\.layers\.[06])"
DEPTHWISE = r"1\.\d+\.layers\.[03]\.1"
"""Names in :func:`features_of` EfficientNet."""


def _deeper(model: nn.Module, n_atoms: int, inputs: list[Tensor], seed: int) -> nn.Module:
    """One atom for each depthwise filter, the others for the pointwise ones."""
    plan = rules(model, DEPTHWISE, WHITENED, 1, 16)
    plan |= rules(model, POINTWISE, WHITENED, n_atoms, 16)
    return wc.adapt(model, plan, inputs=inputs, seed=seed)


_ATOMS: dict[int | None, int] = dict(zip(SIZES, (2, 4), strict=True))

METHODS: dict[str, Method] = {
    OURS: Method(_ATOMS, RATES, ours(WHITENED, 16, POINTWISE)),
    ONE_COLUMN: Method(_ATOMS, RATES, ours(WHITENED, 1, POINTWISE)),
    DEEPER: Method(dict(zip(SIZES, (1, 3), strict=True)), RATES, _deeper),
    RELATIVE: Method(_ATOMS, RATES, ours(wc.dictionaries.DCT(), 1, POINTWISE, relative=True)),
    RANDOM: Method(_ATOMS, RATES, ours(wc.dictionaries.RandomGaussian(), 16, POINTWISE)),
    LORA: Method(
        dict(zip(SIZES, ({"r": 1}, {"r": 2}), strict=True)), RATES,
        pefts("LoraConfig", target_modules=POINTWISE),
    ),
    FULL: Method({None: None}, (0.0001, 0.0002, 0.0005, 0.001), full),
    HEAD: Method({None: None}, (), head),
}  # fmt: skip
"""LoRA-FA is missing: PEFT's optimiser of that name fails on convolutions."""


@dataclass(frozen=True)
class PicturesConfig(RunConfig):
    """One run, of 32 images a step."""

    methods: ClassVar[Mapping[str, Method]] = METHODS
    steps: int = 80
    data: str = "CIFAR-10 (JPEG copy)"


@runs_task("adapt-pictures", PicturesConfig)
def task(config: PicturesConfig, place: Place, *, validation: bool = False) -> Task:
    """The images of a run."""
    images = load_images(find_source(place.data, config.data), n_validation=N_VALIDATION)
    x, labels = images.train
    measured = images.validation if validation else images.test
    assert measured is not None
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(config.seed))
    return Task(
        dataset=config.data,
        encoder=features_of(efficientnet_lite0()),
        classify=lambda adapted: Classifier(adapted, 1280, 10, config.seed),
        examples=[enlarged(part) for part in x[order[:N_INPUTS]].split(32)],
        batches=map(_enlarged, drawn(x, labels, config)),
        measured=map(_enlarged, whole(measured[0][:N_TEST], measured[1][:N_TEST])),
    )


def features_of(network: EfficientNetLite0) -> nn.Module:
    """EfficientNet without its classifier: images to (n, 1280)."""
    parts = (network.stem, network.blocks, network.head)
    return nn.Sequential(*parts, nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()


def enlarged(x: Tensor) -> Tensor:
    """Images in [0, 1] as the network wants them: SIDE pixels a side, from -1 to 1."""
    return F.interpolate(2 * x - 1, size=(SIDE, SIDE), mode="bilinear")


def _enlarged(batch: Batch) -> Batch:
    (x,), labels = batch
    return (enlarged(x),), labels


def main() -> None:
    """Print the rows as a table."""
    print_table(__doc__, METHODS, "results/evidence_adapt_pictures.ndjson")


if __name__ == "__main__":
    main()
