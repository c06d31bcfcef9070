"""Few bits or few numbers: a language model's blocks in 8 and 4 bits, dense and compressed.

    python -m weightcast_lab.studies.few_bits path/to/hub-folder tokens.pt --small folder ...

For every saved network of ``--small``, and for the dense one: bits for each weight of the blocks'
matrices (codes and scales of V and kept bases, and indices), and the loss in nats per token on
``tokens.pt``, (n, length) token numbers. Groups of 64 numbers share a scale: of a dense matrix they
lie along the inputs of a unit, as in int4 weights elsewhere. Rounding is to the nearest, without
examples.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from weightcast.layers import predicted_layers
from weightcast.serialization import aligned
from weightcast.storage import load
from weightcast.storage.few_bits import FewBits

GROUP_SIZE = 64


def rounded(x: Tensor, bits: int | None) -> tuple[Tensor, int]:
    """A matrix as it is read back from ``bits`` bits a number, and the bits of all of it."""
    if bits is None:
        return x, 32 * x.numel()
    few = FewBits(bits, GROUP_SIZE, tuple(x.shape), "float32")
    codes, scales = few.pack(x)
    return few.unpack(codes, scales), 8 * codes.numel() + 16 * scales.numel()


@torch.no_grad()
def in_few_bits(model: nn.Module, names: list[str], bits: int | None) -> tuple[nn.Module, float]:
    """A copy in which some layers are rounded, and the bits for each weight of the dense ones."""
    model = copy.deepcopy(model)
    taken, n_weights = 0, 0
    predicted = predicted_layers(model)
    for name in names:
        layer: Any = predicted.get(name) or model.get_submodule(name)
        if name in predicted:
            tensors, n_indices = [layer.V, layer.atoms.base.atoms], layer.atoms.indices.numel()
            n_weights += layer.n_visible * layer.n_units
            taken += 16 * n_indices
        else:
            tensors = [layer.weight]
            n_weights += layer.weight.numel()
        for tensor in tensors:
            value, n_bits = rounded(tensor, bits)
            tensor.copy_(value)
            taken += n_bits
    return model, taken / n_weights


@torch.no_grad()
def nats(model: nn.Module, tokens: Tensor) -> float:
    """The mean loss per token, in nats; rows are equally long."""
    losses = [float(model(input_ids=row, labels=row).loss) for row in tokens.split(1)]
    return sum(losses) / len(losses)


def rows(dense: nn.Module, folders: list[str], tokens: Tensor) -> Iterator[tuple[str, ...]]:
    """Lines of the table: the network, bits of a number, bits for each dense weight, nats."""
    networks = {"dense": dense} | {folder: load(folder, dense) for folder in folders}
    names = list(predicted_layers(networks[folders[0]])) if folders else []
    for name, network in networks.items():
        for bits in (None, 8, 4):
            model, per_weight = in_few_bits(network, names, bits)
            shown = "float32" if bits is None else str(bits)
            yield name, shown, f"{per_weight:.2f}", f"{nats(model, tokens):.4f}"


def main() -> None:
    """Print the table, a line as soon as it is measured."""
    import transformers

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", help="folder of a language model that transformers reads")
    parser.add_argument("tokens", help="file of torch.save: (n, length) token numbers")
    parser.add_argument("--small", nargs="+", required=True, help="folders that wc.save wrote")
    options = parser.parse_args()
    dense = transformers.AutoModelForCausalLM.from_pretrained(options.model, dtype=torch.float32)
    tokens = torch.load(options.tokens, weights_only=True)
    lines: list[tuple[str, ...]] = [("network", "bits", "bits per weight", "nats")]
    for line in rows(dense.eval(), options.small, tokens):
        print(*line, flush=True)
        lines.append(line)
    print(f"\n{aligned(lines, n_names=1)}")


if __name__ == "__main__":
    main()
