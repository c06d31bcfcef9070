"""Base operators: the matrix B (n_visible, n_base), kept in whatever form makes x B cheap.

Every column of a layer selects its atoms from one shared B: U_j = B[:, indices_j]
M_j. Transformed values are feature-major, ``(n_base, batch)``: a selection of atoms is then a copy
of contiguous rows, and no product needs a transposed copy. One base may serve many layers.

A base that follows from a rule has no place in state dicts: every layer that shares it would name
it again, and files that hold one tensor twice are refused by most tools. Its tensors are remade
where memory came without values (``to_empty``), once a state dict is loaded.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, Self

import torch
from torch import Tensor, nn
from typing_extensions import override

from weightcast.dictionaries.constants import Constants

_ROWS = 512  # atoms that are multiplied out at a time


class Base(Constants, ABC):
    """B (n_visible, n_base), static; ``indices`` are integer positions in [0, n_base)."""

    n_visible: int
    n_base: int
    multiply_adds: int
    """Multiply-adds of ``transform`` per example."""
    synthesis_multiply_adds: int
    """Multiply-adds of ``synthesise`` per row."""
    _recipe: Callable[[], Any] | None = None
    _hollow = False

    @property
    def is_hollow(self) -> bool:
        """Whether this base follows from a rule, and its tensors have no values yet."""
        own = [getattr(self, name) for name in self._constants]
        known = self._recipe is not None
        return known and any(c.numel() and (self._hollow or c.is_meta) for c in own)

    def follow(self, recipe: Callable[[], Any]) -> None:
        """Leave the tensors out of state dicts: ``recipe`` makes atoms of such a base."""
        self._recipe = recipe
        self._non_persistent_buffers_set.update(self._constants)

    def fill(self, device: torch.device) -> None:
        """Make the tensors anew, on this device; they keep their dtype."""
        assert self._recipe is not None
        made = self._recipe().base
        for name in self._constants:
            old, new = getattr(self, name), getattr(made, name)
            new = new.float() if old.element_size() < 4 else new  # rounded twice, as layers do
            setattr(self, name, new.to(device, old.dtype))
        self._hollow = False

    @property
    @abstractmethod
    def n_static(self) -> int:
        """Numbers that this form of B holds."""

    @abstractmethod
    def rows(self, indices: Tensor) -> Tensor:
        """The atoms B[:, indices], each as a row: (...) to (..., n_visible)."""

    @abstractmethod
    def transform(self, x: Tensor) -> Tensor:
        """(x B)^T of (batch, n_visible) rows: (n_base, batch)."""

    def project(self, x: Tensor, indices: Tensor, *, in_order: bool) -> Tensor:
        """(x B)[:, indices_j] for every column j: (columns, batch, n_atoms).

        ``in_order`` says that the (columns, n_atoms) indices are 0, 1, 2, ...
        """
        values = self.transform(x)
        if in_order and indices.numel() == self.n_base:
            values = values.view(*indices.shape, -1)
        else:
            # An embedding look-up is the gather whose backward is fast on CPU and GPU alike.
            values = nn.functional.embedding(indices, values)
        return values.transpose(1, 2)

    @abstractmethod
    def synthesise(self, coefficients: Tensor) -> Tensor:
        """c B^T, sums of all atoms: (n, n_base) coefficients to (n, n_visible)."""

    @abstractmethod
    def entries(self, points: Tensor, indices: Tensor) -> Tensor:
        """B[points, indices], elementwise over broadcast positions of inputs and of atoms."""

    def gram(self, indices: Tensor) -> Tensor:
        """B[:, indices]^T B[:, indices] of (n,) indices: (n, n)."""
        atoms = self.rows(indices)
        return atoms @ atoms.t()

    def energies(self, indices: Tensor) -> Tensor:
        """The sum of squares of each of some atoms, of ``indices``' shape."""
        if indices.is_meta or self.orthonormal:
            return torch.ones_like(indices, dtype=torch.float64)
        used, places = indices.unique(return_inverse=True)
        parts = [self.rows(some).square().sum(dim=1) for some in used.split(_ROWS)]
        return torch.cat(parts)[places]

    @property
    def n_blocks(self) -> int:
        """Equal parts of the base, in its order, whose atoms share no input: channels, say."""
        return 1

    def block_of(self, indices: Tensor, n_blocks: int) -> Tensor:
        """Which of ``n_blocks`` equal parts of the base each atom is in."""
        return indices // (self.n_base // n_blocks)

    def by_channel(self, indices: Tensor) -> tuple[Tensor, Tensor] | None:
        """Atoms that look at one channel each: which, and with what; None where atoms see all.

        Of (n,) indices: (n,) int64 channels, and (n, n_visible / channels) atoms within them.
        """
        return None

    @override
    def _apply(self, fn: Any, recurse: bool = True) -> Self:
        before = [getattr(self, name) for name in self._constants] if self._recipe else []
        super()._apply(fn, recurse)
        for name, old in zip(self._constants, before, strict=False):
            new = getattr(self, name)
            if old.is_meta:
                self._hollow = self._hollow or not new.is_meta
            elif new is not old and not new.is_meta:
                new.copy_(old)  # to_empty's memory holds no values, and no file will bring them
        return self

    @override
    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        rest = dict(state_dict)
        for name in self._constants if self._recipe else ():
            written = rest.pop(prefix + name, None)  # by an earlier version
            if written is not None and not self.is_hollow and not _close(written, self, name):
                args[-1].append(f"{prefix}{name} is of another rule than this layer's")
        super()._load_from_state_dict(rest, prefix, *args, **kwargs)

    @property
    def orthonormal(self) -> bool:
        """Whether B^T B is known to be the identity."""
        return False

    @property
    def is_learned(self) -> bool:
        """Whether B is trained, and not static."""
        return any(True for _ in self.parameters())

    def extra_repr(self) -> str:
        """Shape of B, for printed models."""
        return f"n_visible={self.n_visible}, n_base={self.n_base}"


def _close(written: Tensor, base: Base, name: str) -> bool:
    """Whether a tensor may be a base's own, cast from one floating-point type to another."""
    own: Tensor = getattr(base, name)
    if written.shape != own.shape or own.is_meta or written.is_meta:
        return written.shape == own.shape
    rounding = 8 * max(torch.finfo(tensor.dtype).eps for tensor in (written, own))
    differences = (written.to(own.device, torch.float64) - own.double()).abs()
    return bool((differences <= rounding * own.double().abs().max()).all())


class DenseBase(Base):
    """Any B, held as its transpose: one contiguous row per atom, as ``nn.Linear`` holds weights.

    Args:
        atoms: (n_base, n_visible), as rows.
        learned: make the atoms a parameter (low-rank factorisation) instead of a constant.
    """

    atoms: Tensor

    def __init__(self, atoms: Tensor, *, learned: bool = False) -> None:
        super().__init__()
        self.n_base, self.n_visible = atoms.shape
        self.multiply_adds = self.synthesis_multiply_adds = atoms.numel()
        if learned:
            self.atoms = nn.Parameter(atoms.contiguous())
        else:
            self.register_constant("atoms", atoms.contiguous())

    @property
    @override
    def n_static(self) -> int:
        return 0 if isinstance(self.atoms, nn.Parameter) else self.atoms.numel()

    @override
    def rows(self, indices: Tensor) -> Tensor:
        return nn.functional.embedding(indices, self.atoms)  # ONNX's other gathers want int64

    @override
    def transform(self, x: Tensor) -> Tensor:
        return self.atoms @ x.t()

    @override
    def synthesise(self, coefficients: Tensor) -> Tensor:
        return coefficients @ self.atoms

    @override
    def entries(self, points: Tensor, indices: Tensor) -> Tensor:
        return self.atoms[indices, points]


class IdentityBase(Base):
    """B = I: an atom is one input.

    Args:
        n_visible: number of inputs, and of atoms.
    """

    def __init__(self, n_visible: int) -> None:
        super().__init__()
        self.n_visible = self.n_base = n_visible
        self.multiply_adds = self.synthesis_multiply_adds = 0
        # Holds no number, but tells dtype and device.
        self.register_constant("_like", torch.zeros(0, dtype=torch.float64), persistent=False)

    @property
    @override
    def n_static(self) -> int:
        return 0

    @property
    @override
    def orthonormal(self) -> bool:
        return True

    @override
    def rows(self, indices: Tensor) -> Tensor:
        one_hot = nn.functional.one_hot(indices.long(), self.n_visible)
        return one_hot.to(self._like.dtype)  # pyright: ignore[reportArgumentType, reportCallIssue]

    @override
    def transform(self, x: Tensor) -> Tensor:
        return x.t()

    @override
    def project(self, x: Tensor, indices: Tensor, *, in_order: bool) -> Tensor:
        # Row-major: the gradient comes back as the activations lie. Two layouts in one elementwise
        # operation take ten times as long, and the activation's derivative is one.
        if in_order:
            n_all = indices.numel()
            chosen = x if n_all == self.n_base else x.narrow(1, 0, n_all)
        elif x.is_cuda:  # where index_select's backward adds in no fixed order
            return super().project(x, indices, in_order=False)
        else:
            chosen = x.index_select(1, indices.flatten())
        return chosen.view(x.shape[0], *indices.shape).transpose(0, 1)

    @override
    def synthesise(self, coefficients: Tensor) -> Tensor:
        return coefficients

    @override
    def gram(self, indices: Tensor) -> Tensor:
        return self.entries(indices.unsqueeze(1), indices)

    @override
    def entries(self, points: Tensor, indices: Tensor) -> Tensor:
        return (points == indices).to(self._like.dtype)  # pyright: ignore[reportArgumentType, reportCallIssue]
