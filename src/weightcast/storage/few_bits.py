"""FewBits: a matrix in 8 or 4 bits a number, with one scale for every group of a row's numbers.

    x is about scale * q,   q = -h ... h - 1,   h = 2^(bits-1),   scale = max|x| / (h - 1/2)

Scales are bfloat16, which has float32's range; codes are q + h, two of 4 bits in a byte.
The rows of V and of a base's factors are atoms, whose sizes may differ a thousandfold.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from weightcast.serialization import Configuration

_DTYPES = {str(dtype).removeprefix("torch."): dtype for dtype in (
    torch.float16, torch.bfloat16, torch.float32, torch.float64
)}  # fmt: skip


@dataclass(frozen=True)
class FewBits(Configuration):
    """How a matrix of some shape and dtype is kept; ValueError for what cannot be."""

    bits: int
    group_size: int
    shape: tuple[int, ...]
    dtype: str

    def __post_init__(self) -> None:
        if self.bits not in (4, 8):
            raise ValueError(f"bits is {self.bits!r}: take 8 or 4")
        if self.group_size < 2:
            raise ValueError(
                f"group_size is {self.group_size!r}: it must be a whole number, 2 or more, such "
                "as 64"
            )
        if len(self.shape) != 2 or min(self.shape) < 1 or self.dtype not in _DTYPES:
            raise ValueError(f"no {self.shape} of {self.dtype} is kept in {self.bits} bits")

    @property
    def result(self) -> torch.dtype:
        """The dtype in which the matrix is given back."""
        return _DTYPES[self.dtype]

    @property
    def codes_shape(self) -> tuple[int, ...]:
        """Of the codes, uint8."""
        return (math.ceil(math.prod(self.shape) * self.bits / 8),)

    @property
    def scales_shape(self) -> tuple[int, ...]:
        """Of the scales, bfloat16: (rows, groups of a row)."""
        return (self.shape[0], math.ceil(self.shape[1] / self.group_size))

    def pack(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Codes and scales of a matrix; ValueError if it is not finite."""
        x = x.detach().to("cpu", torch.float32)
        if not bool(x.isfinite().all()):
            raise ValueError("NaN and infinite numbers cannot be kept in few bits")
        half = 2 ** (self.bits - 1)
        padded = torch.nn.functional.pad(x, (0, -x.shape[1] % self.group_size))
        largest = padded.abs().unflatten(1, (-1, self.group_size)).amax(dim=2)
        scales = (largest / (half - 0.5)).to(torch.bfloat16)
        q = (x / self._spread(scales)).nan_to_num(0.0).round().clamp(-half, half - 1)
        codes = (q + half).to(torch.uint8).flatten()
        if self.bits == 4:
            low, high = torch.nn.functional.pad(codes, (0, len(codes) % 2)).view(-1, 2).unbind(1)
            codes = low | high << 4
        return codes, scales

    def unpack(self, codes: Tensor, scales: Tensor) -> Tensor:
        """The matrix of some codes and scales, in its dtype."""
        if self.bits == 4:
            codes = torch.stack([codes & 15, codes >> 4], dim=1).flatten()
        q = codes[: math.prod(self.shape)].view(self.shape).float() - 2 ** (self.bits - 1)
        return (q * self._spread(scales)).to(self.result)

    def _spread(self, scales: Tensor) -> Tensor:
        """The scale of every number, float32."""
        return scales.float().repeat_interleave(self.group_size, dim=1)[:, : self.shape[1]]
