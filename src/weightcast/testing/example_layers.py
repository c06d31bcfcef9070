"""Examples that the checks run on: inputs in several forms, and a small layer of each kind."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from weightcast.dictionaries import InputStatistics


def example_rows(n_visible: int, n_rows: int = 80) -> np.ndarray:
    """Correlated example inputs, (n_rows, n_visible) float64, the same on every call."""
    rng = np.random.default_rng(n_visible)
    mixing = np.eye(n_visible) + 0.3 * rng.standard_normal((n_visible, n_visible))
    return rng.standard_normal((n_rows, n_visible)) @ mixing + 0.5


def example_statistics(n_visible: int) -> InputStatistics:
    """Statistics of :func:`example_rows`, all that a dictionary may need, by NumPy."""
    rows = example_rows(n_visible)
    return InputStatistics(
        n_rows=len(rows),
        covariance=torch.from_numpy(np.cov(rows.T)),
        squared_covariance=torch.from_numpy(np.cov(np.square(rows).T)),
        sample=torch.from_numpy(rows),
        weight=torch.from_numpy(rows[:7].T.copy()),
    )


def example_layer(kind: type[nn.Module]) -> tuple[nn.Module, tuple[Any, ...]] | None:
    """A small layer of one of torch's classes and its inputs; None where no example is known."""
    if kind not in _LAYERS:
        return None
    arguments, options, shapes = _LAYERS[kind]
    generator = torch.Generator().manual_seed(0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layer = kind(*arguments, **options)
    if kind in (nn.Embedding, nn.EmbeddingBag):
        return layer, (torch.randint(arguments[0], shapes[0], generator=generator),)
    return layer, tuple(torch.randn(shape, generator=generator) for shape in shapes)


def is_real(x: Any) -> bool:
    """Whether an input is a tensor of real numbers, and can have a gradient."""
    return isinstance(x, Tensor) and x.is_floating_point()


def cast(x: Any, dtype: torch.dtype) -> Any:
    """Real inputs in another type; indices stay as they are."""
    return x.to(dtype) if is_real(x) else x


def in_double(x: Any) -> Any:
    """Real inputs in double precision, with numbers that no smaller type holds.

    Each is made smaller, by at most a millionth of itself, so that rounding to float32 shows.
    """
    if not is_real(x):
        return x
    generator = torch.Generator().manual_seed(0)
    share = torch.rand(x.shape, dtype=torch.float64, generator=generator)
    return x.detach().double() * (1 - 1e-6 * share)


def other_shapes(layer: nn.Module, inputs: Sequence[Any]) -> Iterator[tuple[str, list[Any]]]:
    """Inputs with one more leading axis and one fewer, where the dense layer takes these."""
    changes = {
        "one more leading axis": lambda x: torch.stack([x, x.flip(0)]),
        "one leading axis fewer": lambda x: x[0],
    }
    for name, change in changes.items():
        changed = [change(x) if isinstance(x, Tensor) and x.dim() else x for x in inputs]
        try:
            with torch.no_grad():
                layer(*changed)
        except Exception:  # its own refusal, which may be of any kind
            continue
        yield name, changed


_LAYERS: dict[type[nn.Module], tuple[tuple[int, ...], dict[str, Any], tuple[Any, ...]]] = {
    # Sizes that nothing divides evenly, and arguments other than the defaults.
    nn.Linear: ((24, 35), {}, ((5, 24),)),
    nn.Conv1d: ((6, 35, 5), {"padding": 2, "stride": 2}, ((3, 6, 11),)),
    nn.Conv2d: ((4, 14, 3), {"padding": (2, 1), "groups": 2}, ((2, 4, 7, 6),)),
    nn.Conv3d: ((3, 14, 2), {"dilation": (1, 2, 1)}, ((2, 3, 4, 5, 3),)),
    nn.ConvTranspose1d: ((14, 6, 5), {"padding": 2, "stride": 2}, ((3, 14, 7),)),
    nn.ConvTranspose2d: ((14, 4, 3), {"padding": (2, 1)}, ((2, 14, 7, 6),)),
    nn.ConvTranspose3d: ((14, 3, 2), {}, ((2, 14, 3, 4, 2),)),
    nn.Embedding: ((35, 24), {}, ((3, 9),)),
    nn.EmbeddingBag: ((35, 24), {}, ((3, 9),)),
    nn.Bilinear: ((5, 6, 14), {}, ((4, 5), (4, 6))),
}
