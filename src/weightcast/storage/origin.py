"""Origin: what tells the frozen network that an adapter was made for from any other."""

from __future__ import annotations

import math
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from weightcast.layers import is_freed
from weightcast.layers.view import readable
from weightcast.serialization import Configuration
from weightcast.storage.format_error import FormatError

_BUCKETS, _CHUNK = 64, 1 << 18


@dataclass(frozen=True)
class Origin(Configuration):
    """Of all frozen parameters: a digest, and numbers from which a distance can be told.

    Args:
        digest: CRC-32 of dtypes, shapes and bytes.
        norm: root of their sum of squares.
        sketch: sums of them with random signs, dealt to a few places; the distance of two sketches
            is about that of the networks (Charikar, Chen and Farach-Colton 2002).
        dtypes: how many are of which dtype.
        gains: of every adapted layer, see :class:`AdaptedLayer`.
    """

    digest: str
    norm: float
    sketch: tuple[float, ...]
    dtypes: dict[str, int]
    gains: dict[str, float]

    def __post_init__(self) -> None:
        numbers = (self.norm, *self.sketch, *self.gains.values())
        if len(self.sketch) != _BUCKETS or not all(map(math.isfinite, numbers)):
            raise ValueError(f"an origin has {_BUCKETS} finite sums, not {len(self.sketch)}")

    def check(self, model: nn.Module) -> None:
        """Refuse a model with other frozen parameters, by a FormatError that says how far it is."""
        found = origin_of(model, self.gains)
        if found.digest == self.digest:
            return
        distance = math.dist(found.sketch, self.sketch) / max(self.norm, 1e-300)
        dtypes = "" if found.dtypes == self.dtypes else f" and is {found.dtypes}, not {self.dtypes}"
        raise FormatError(
            f"is an adapter of another network: what is frozen differs by about {distance:.2g} of "
            f"its norm{dtypes}; load it into the network that was adapted, with its weights"
        )


@torch.no_grad()
def origin_of(model: nn.Module, gains: dict[str, float]) -> Origin:
    """The origin of an adapted model; every frozen number is read once."""
    crc, square, dtypes = 0, 0.0, Counter[str]()
    sketch = torch.zeros(_BUCKETS, dtype=torch.float64)
    signs = torch.randint(2, (_CHUNK,), generator=torch.Generator().manual_seed(0)) * 2.0 - 1
    for p in _frozen(model):
        dtypes[str(p.dtype).removeprefix("torch.")] += 1
        crc = zlib.crc32(f"{p.dtype} {list(p.shape)}".encode(), crc)
        for chunk in p.flatten().split(_CHUNK):
            x = chunk.cpu()
            crc = zlib.crc32(x.view(torch.uint8).numpy().data, crc)
            x = x.double()
            square += float(x.square().sum())
            signed = nn.functional.pad(x * signs[: len(x)], (0, -len(x) % _BUCKETS))
            sketch += signed.view(-1, _BUCKETS).sum(dim=0)
        sketch = sketch.roll(1)
    return Origin(f"{crc:08x}", math.sqrt(square), tuple(sketch.tolist()), dict(dtypes), gains)


def _frozen(model: nn.Module) -> Iterator[Tensor]:
    """Parameters that are not learned, as plain numbers."""
    for p in model.parameters():
        if not is_freed(p):
            yield readable(p.detach())
