"""Golden folders: one saved model per dictionary, which every later version must load.

    python -m tests.golden.make

writes those of the schema at hand that are not there yet, with their outputs. What is there is
never written again: a version that cannot load it is a version that loses what people saved.
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

import weightcast as wc
from tests.contract.table import DICTIONARIES, make_dictionary
from tests.saved_folders import save_quietly
from weightcast.storage.manifest import SCHEMA

HERE = Path(__file__).parent
CONVOLUTIONS = {"Conv1d": nn.Conv1d, "Conv2d": nn.Conv2d, "Conv3d": nn.Conv3d}
STORED = "Kernel-stored"


def make_dense(name: str) -> nn.Module:
    """The dense model of a folder."""
    if name in CONVOLUTIONS:
        return CONVOLUTIONS[name](4, 6, 2, groups=2, padding=1)
    return nn.Sequential(nn.Linear(24, 7), nn.Tanh(), nn.Linear(7, 2))


def make_input(name: str) -> Tensor:
    """What the model of a folder is applied to."""
    axes = {"Conv1d": 1, "Conv2d": 2, "Conv3d": 3}.get(name)
    shape = (5, 24) if axes is None else (2, 4, *[3] * axes)
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


def make_model(name: str) -> nn.Module:
    """The model of a folder, with V and biases as if trained."""
    if name in CONVOLUTIONS:
        dense, rules = make_dense(name), {"": wc.Rule(make_dictionary("DCT", 24), 0.5, 3)}
    else:
        dictionary = make_dictionary(name.removesuffix("-stored"), 24)
        dense, rules = make_dense(name), {"0": wc.Rule(dictionary, 0.25, 3, (4, 6))}
    inputs = torch.randn(80, 24, generator=torch.Generator().manual_seed(2))
    model = wc.convert(dense, rules, inputs=inputs)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return model


def main() -> None:
    for name in (*DICTIONARIES, *CONVOLUTIONS, STORED):
        folder = HERE / f"schema_{SCHEMA}" / name.replace("/", "_")
        if folder.exists():
            continue
        folder.mkdir(parents=True)
        model = make_model(name).eval()
        save_quietly(model, folder / "model", bases="store" if name == STORED else "rebuild")
        with torch.no_grad():
            outputs = model(make_input(name))
        save_file({"input": make_input(name), "output": outputs}, folder / "outputs.safetensors")
        print(f"wrote {folder}")


if __name__ == "__main__":
    main()
