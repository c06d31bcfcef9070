"""Saved folders to damage: small models, and hostile edits with checksums that fit again."""

from __future__ import annotations

import json
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import weightcast as wc
from tests.contract.table import make_dictionary

X = torch.randn(40, 24, generator=torch.Generator().manual_seed(0))


def make_dense() -> nn.Sequential:
    """The dense model that all folders here are for."""
    return nn.Sequential(
        nn.Linear(24, 24), nn.BatchNorm1d(24), nn.Linear(24, 24), nn.ReLU(), nn.Linear(24, 5)
    )


def make_model(name: str = "Kernel", **options: Any) -> nn.Module:
    """Two layers predicted from a dictionary of the table, with V as if it had been trained."""
    rule = wc.Rule(make_dictionary(name, 24), 0.3, 3, (4, 6))
    model = wc.convert(make_dense(), {"0": rule, "2": rule, "*": None}, inputs=X, **options)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    model(X)
    return model


def save_quietly(model: nn.Module, folder: Path, **options: Any) -> None:
    """Save what is larger than the dense model, as small models from data are."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "the predicted layers take", UserWarning)
        wc.save(model, folder, **options)


def assert_refused(folder: Path, message: str | None) -> None:
    """The folder is not loaded, and a short FormatError says why, in these words if any."""
    with pytest.raises(wc.FormatError, match=message) as raised:
        wc.load(folder, make_dense())
    assert str(raised.value).startswith(f"{folder} ")
    assert len(str(raised.value)) < 2000


def edit_facts(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change the JSON as somebody would who knows how its checksum is made."""
    facts = json.loads((folder / "weightcast.json").read_text())
    change(facts)
    seal(folder, facts)


def seal(folder: Path, facts: dict[str, Any]) -> None:
    """Write facts with the checksum that they should have."""
    facts.pop("checksum", None)
    facts["checksum"] = checksum_of(facts)
    (folder / "weightcast.json").write_text(json.dumps(facts))


def checksum_of(facts: dict[str, Any]) -> str:
    """CRC-32 of everything in the facts but their checksum."""
    return f"{zlib.crc32(json.dumps(facts).encode()):08x}"


def edit_tensors(folder: Path, change: Callable[[dict[str, Tensor]], object]) -> None:
    """Change the tensors, and their checksums with them."""
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")
    checksums = {name: checksum(tensor) for name, tensor in tensors.items()}
    edit_facts(folder, lambda facts: facts.update(tensors=checksums))


def checksum(tensor: Tensor) -> str:
    """CRC-32 of a tensor's dtype, shape and bytes."""
    data = tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
    return f"{zlib.crc32(f'{tensor.dtype} {list(tensor.shape)}'.encode() + data):08x}"
