"""torchvision's and timm's families: a quarter of every network learns, and nothing is silent.

Neither imports beside a CPU-only torch that torchvision was not built for: then these tests are
skipped, and say so.
"""

from __future__ import annotations

import importlib
from typing import Any

import pytest
import torch
from torch import nn

import weightcast as wc

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default")]

TORCHVISION = (
    "resnet18", "resnext50_32x4d", "densenet121", "mobilenet_v3_small", "efficientnet_b0",
    "regnet_y_400mf", "shufflenet_v2_x0_5", "squeezenet1_1", "vgg11", "alexnet", "googlenet",
    "mnasnet0_5", "convnext_tiny", "swin_t", "vit_b_32", "maxvit_t",
)  # fmt: skip
TIMM = (
    "resnet18", "resnetv2_50", "vit_tiny_patch16_224", "deit_tiny_patch16_224", "mixer_s32_224",
    "convnext_atto", "efficientnet_lite0", "mobilenetv3_small_050", "swin_tiny_patch4_window7_224",
    "gmlp_s16_224", "poolformer_s12", "regnetx_002", "xcit_nano_12_p16_224", "edgenext_xx_small",
)  # fmt: skip
QUARTER = wc.Rule(wc.dictionaries.RandomGaussian("orthonormal"), 0.25)


def imported(package: str, module: str) -> Any:
    """The module; skips the test where its package is missing or fails to import."""
    try:
        return importlib.import_module(module)
    except Exception as error:  # torchvision raises RuntimeError for a torch it was not built for
        pytest.skip(f"{package} does not import here: {type(error).__name__}: {error}")


def check(model: nn.Module) -> None:
    """Convert by a quarter; all else has its reason; V learns; merged it computes the same."""
    model = model.eval()
    explained = wc.Plan({"*": QUARTER}).explain(model)
    assert explained.predicted
    assert all(row.reason for row in explained.dense)
    small = wc.convert(model, wc.Plan({"*": QUARTER}), seed=0)
    x = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    wc.verify(small, x)
    with torch.no_grad():
        expected = small(x)
        assert torch.allclose(
            wc.merge(small)(x), expected, rtol=0, atol=1e-3 * float(expected.abs().max())
        )


@pytest.mark.parametrize("name", TORCHVISION)
def test_torchvision(name):
    models = imported("torchvision", "torchvision.models")
    torch.manual_seed(0)
    check(models.get_model(name, weights=None))


@pytest.mark.parametrize("name", TIMM)
def test_timm(name):
    timm = imported("timm", "timm")
    torch.manual_seed(0)
    check(timm.create_model(name, pretrained=False))
