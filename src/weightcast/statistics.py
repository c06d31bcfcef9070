"""Statistics of a layer's inputs from hooked passes over example inputs."""

from __future__ import annotations

import inspect
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from weightcast.dictionaries import InputStatistics
from weightcast.dictionaries.inputs import Need
from weightcast.layers import layer_rows
from weightcast.undisturbed import evaluating

MAX_ROWS_PER_CALL = 16_384
"""A convolution has one row per output position; more rows than these are thinned at random."""


class StatisticsAccumulator:
    """Covariances and a uniform sample of rows, from one batch after another.

    Args:
        needs: which statistics to keep.
        sample_size: rows of the sample.
        generator: a CPU generator for the sample.
    """

    def __init__(self, needs: Sequence[Need], sample_size: int, generator: torch.Generator) -> None:
        self.generator, self.sample_size = generator, sample_size
        self.n_rows = 0
        self.moments = {"covariance": _Moments(), "squared_covariance": _Moments()}
        self.moments = {name: m for name, m in self.moments.items() if name in needs}
        self.sample: Tensor | None = None
        self.keys = torch.empty(0, dtype=torch.float64)
        self.keep_sample = "sample" in needs

    def update(self, rows: Tensor) -> None:
        """Take in rows, (n_rows, n_visible).

        Raises:
            ValueError: NaN or infinite rows.
        """
        rows = rows.detach()
        if len(rows) == 0:
            return
        rows = check_finite(thinned(rows, self.generator).to("cpu", torch.float64))
        self.n_rows += len(rows)
        if "covariance" in self.moments:
            self.moments["covariance"].update(rows)
        if "squared_covariance" in self.moments:
            self.moments["squared_covariance"].update(rows.square())
        if self.keep_sample:
            self._update_sample(rows)

    def result(self) -> InputStatistics:
        """The statistics of all rows so far.

        Raises:
            ValueError: fewer than 2 rows, which have no covariance.
        """
        if self.n_rows < 2:
            raise ValueError(
                f"the layer saw {self.n_rows} input row(s); statistics need at least 2: pass more "
                "inputs, or leave this layer dense if the model does not use it"
            )
        covariances = {name: m.covariance(self.n_rows) for name, m in self.moments.items()}
        return InputStatistics(self.n_rows, sample=self.sample, **covariances)

    def _update_sample(self, rows: Tensor) -> None:
        """Every row draws a key; the rows with the largest keys are a uniform sample."""
        keys = torch.rand(len(rows), dtype=torch.float64, generator=self.generator)
        if self.sample is not None:
            rows, keys = torch.cat([self.sample, rows]), torch.cat([self.keys, keys])
        kept = keys.topk(min(self.sample_size, len(keys))).indices.sort().values
        self.sample, self.keys = rows[kept], keys[kept]


def thinned(rows: Tensor, generator: torch.Generator) -> Tensor:
    """The rows, or as many of them as one call may give, drawn at random."""
    if len(rows) <= MAX_ROWS_PER_CALL:
        return rows
    chosen = torch.randperm(len(rows), generator=generator)[:MAX_ROWS_PER_CALL]
    return rows[chosen.to(rows.device)]


def check_finite(rows: Tensor) -> Tensor:
    """The rows.

    Raises:
        ValueError: NaN or infinite values.
    """
    if not bool(rows.isfinite().all()):
        raise _InputsError(
            f"{int((~rows.isfinite()).sum())} of {rows.numel()} input values are NaN or "
            "infinite: clean the inputs"
        )
    return rows


class _InputsError(ValueError):
    """Inputs that a model takes, but no statistics can be made of."""


class _Moments:
    """Mean and centred second moment, merged batch by batch (Chan, Golub and LeVeque 1979)."""

    def __init__(self) -> None:
        self.n = 0
        self.mean = torch.zeros(())
        self.scatter = torch.zeros(())

    def update(self, rows: Tensor) -> None:
        n, mean = len(rows), rows.mean(dim=0)
        centred = rows - mean
        scatter = centred.t() @ centred
        if self.n == 0:
            self.n, self.mean, self.scatter = n, mean, scatter
            return
        shift, total = mean - self.mean, self.n + n
        self.scatter += scatter + torch.outer(shift, shift) * (self.n * n / total)
        self.mean += shift * (n / total)
        self.n = total

    def covariance(self, n_rows: int) -> Tensor:
        K = self.scatter / (n_rows - 1)
        return (K + K.t()) / 2


def collect_statistics(
    model: nn.Module,
    layer: nn.Module,
    inputs: Iterable[Any],
    needs: Sequence[Need],
    *,
    sample_size: int = 10_000,
    generator: torch.Generator | None = None,
) -> InputStatistics:
    """Run the model over the inputs and gather statistics of what one dense layer is given.

    Args:
        model: run in evaluation mode and without gradients, its mode restored afterwards.
        layer: a dense or predicted layer inside the model.
        inputs: batches: a tensor, a sequence whose first entry is the input, or a mapping of
            keyword arguments.
        needs: which statistics.
        sample_size: rows of the sample, where one is needed.
        generator: a CPU generator for the sample; None takes seed 0.

    Raises:
        ValueError: NaN or infinite inputs, or too few rows.
    """
    generator = generator or torch.Generator().manual_seed(0)
    accumulator = StatisticsAccumulator(needs, sample_size, generator)

    def take(module: nn.Module, *inputs: Tensor) -> None:
        accumulator.update(layer_rows(module, *inputs))

    _watch(model, layer, inputs, take)
    return accumulator.result()


def collect_rows(
    model: nn.Module,
    layer: nn.Module,
    inputs: Iterable[Any],
    max_rows: int,
    *,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Run the model over the inputs and keep the rows of one layer, or a uniform sample of them.

    Args:
        model: run in evaluation mode and without gradients, its mode restored afterwards.
        layer: a dense or predicted layer inside the model.
        inputs: batches, as for :func:`collect_statistics`.
        max_rows: how many rows to keep at most; fewer are kept in the order in which they came.
        generator: a CPU generator for the sample; None takes seed 0.

    Returns:
        (n_rows, groups * n_visible) on the CPU, in the inputs' dtype; groups is 1 but for
        convolutions with groups.
    """
    sample = RowSample(max_rows, generator or torch.Generator().manual_seed(0))

    def take(module: nn.Module, *inputs: Tensor) -> None:
        sample.update(layer_rows(module, *inputs, side_by_side=True))

    _watch(model, layer, inputs, take)
    return sample.rows


class RowSample:
    """A uniform sample of rows without replacement, in memory that never exceeds its size.

    Args:
        size: rows to keep at most.
        generator: a CPU generator.

    References: Vitter 1985, algorithm R.
    """

    def __init__(self, size: int, generator: torch.Generator) -> None:
        self.size, self.generator = size, generator
        self.n_seen = 0
        self._kept = torch.empty(0, 0)

    @property
    def rows(self) -> Tensor:
        """(min(size, n_seen), n_visible): the sample so far."""
        return self._kept[: self.n_seen]

    def update(self, rows: Tensor) -> None:
        """Take in rows, (n_rows, n_visible)."""
        if self.n_seen == 0:
            self._kept = torch.empty(self.size, rows.shape[1], dtype=rows.dtype)
        numbers = torch.arange(self.n_seen, self.n_seen + len(rows))
        self.n_seen += len(rows)
        # Row i takes place i while there is room; later a place from 0 to i, if there is one.
        draws = torch.rand(len(rows), dtype=torch.float64, generator=self.generator)
        places = torch.where(numbers < self.size, numbers, (draws * (numbers + 1)).long())
        taken = (places < self.size).nonzero().flatten()
        # Of two rows that draw the same place the later one stays.
        last = dict(zip(places[taken].tolist(), taken.tolist(), strict=True))
        chosen = torch.tensor(list(last.values()), dtype=torch.int64)
        self._kept[torch.tensor(list(last), dtype=torch.int64)] = rows.detach()[
            chosen.to(rows.device)
        ].to("cpu")


def _watch(
    model: nn.Module, layer: nn.Module, inputs: Iterable[Any], take: Callable[..., None]
) -> None:
    """Run the model over the inputs, and give ``take`` the layer and its inputs at every call."""

    def given(_: str, module: nn.Module, inputs: list[Tensor]) -> None:
        try:
            take(module, *inputs)
        except ValueError as error:
            raise _InputsError(str(error)) from error

    with _hooked({"": layer}, given), evaluating(model):
        for batch in inputs:
            call(model, batch)


@contextmanager
def _hooked(
    layers: Mapping[str, nn.Module], take: Callable[[str, nn.Module, list[Tensor]], Any]
) -> Iterator[None]:
    """Within, ``take`` gets name, layer and inputs at every call of one of the layers."""

    def hook_of(name: str) -> Any:
        def hook(layer: nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> None:
            take(name, layer, layer_inputs(layer, arguments, keywords))

        return hook

    handles = [
        layer.register_forward_pre_hook(hook_of(name), with_kwargs=True)
        for name, layer in layers.items()
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def execution_order(
    model: nn.Module, layers: Mapping[str, nn.Module], batch: Any
) -> dict[str, Tensor]:
    """Run one batch, and list the layers in the order of their first call with their inputs.

    Layers that the model does not call are left out.
    """
    seen: dict[str, Tensor] = {}

    def take(name: str, _: nn.Module, inputs: list[Tensor]) -> None:
        seen.setdefault(name, inputs[0].detach())

    with _hooked(layers, take), evaluating(model):
        call(model, batch)
    return seen


def layers_run(
    model: nn.Module, layers: Mapping[str, nn.Module], batches: Iterable[Any]
) -> list[str]:
    """The layers that the batches reach, in the order in which the model runs them.

    Nothing can be said of a single row, which is all that some expert of a mixture may get: layers
    of fewer than 2 rows count as not reached. Unless all have as few: then inputs are missing.

    Args:
        model: run over the batches.
        layers: inside it, by name, that multiply inputs.
        batches: example inputs.
    """
    n_rows: dict[str, int] = {}
    called: dict[str, None] = {}
    order: list[str] = []

    def take(name: str, layer: nn.Module, inputs: list[Tensor]) -> None:
        called[name] = None
        if n_rows.setdefault(name, 0) < 2:
            n_rows[name] += len(layer_rows(layer, *inputs))

    with _hooked(layers, take), evaluating(model):
        for batch in batches:
            called.clear()
            call(model, batch)
            place = 0  # what earlier batches did not reach comes after what it follows in this one
            for name in called:
                if name not in order:
                    order.insert(place, name)
                place = order.index(name) + 1
    return [name for name in order if n_rows[name] > 1] or order


def as_batches(inputs: Any) -> list[Any]:
    """Example inputs as a list of batches, so that several layers can be fed from them in turn.

    A single tensor, or a single mapping, is one batch. All batches are held in memory: a few
    thousand examples are enough for any dictionary.

    Raises:
        ValueError: no batch at all, or one ``(input, target)`` pair in place of a list of them.
    """
    if isinstance(inputs, tuple) and len(inputs) == 2 and isinstance(inputs[1], Tensor):
        image, target = inputs
        if not target.is_floating_point() or target.shape[1:] != image.shape[1:]:
            raise ValueError(
                f"inputs is one pair of shapes {tuple(image.shape)} and {tuple(target.shape)}, "
                "which looks like one (input, target) batch: pass a list of batches, [batch]"
            )
    batches = [inputs] if isinstance(inputs, (Tensor, Mapping)) else list(inputs)
    if not batches:
        raise ValueError("inputs is empty: pass at least one batch of example inputs")
    return batches


def call(model: nn.Module, batch: Any) -> Any:
    """The model on one batch: a tensor, (input, target, ...), or a mapping of keywords.

    It gets a copy, for it may change what it is given, and the batch is for other runs too.

    Raises:
        ValueError: the model fails on it; the message names the module that failed.
    """
    try:
        if isinstance(batch, Mapping):
            return model(**_copied(dict(batch), {}))
        return model(_copied(batch[0] if isinstance(batch, (tuple, list)) else batch, {}))
    except (torch.OutOfMemoryError, _InputsError):
        raise
    except Exception as error:
        raise ValueError(_failure(model, batch, error)) from error


def _copied(value: Any, copies: dict[int, Tensor]) -> Any:
    """The same with copies of the tensors, also those in tuples, lists and dictionaries.

    Args:
        value: to copy.
        copies: made so far, by the tensor: one that is given twice stays one.
    """
    if isinstance(value, Tensor):
        if id(value) not in copies:
            copies[id(value)] = value.clone()
        return copies[id(value)]
    if type(value) in (tuple, list):
        return type(value)(_copied(entry, copies) for entry in value)
    if type(value) is dict:
        return {key: _copied(entry, copies) for key, entry in value.items()}
    return value


def _failure(model: nn.Module, batch: Any, error: Exception) -> str:
    """Which module failed, on what, and what to do about it."""
    names = {id(module): name for name, module in model.named_modules()}
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    running = [frame.f_locals.get("self") for frame in frames]
    inner = [module for module in running if names.get(id(module))]
    where = f"in {type(model).__name__}.forward"
    if inner:
        where = f"in module {names[id(inner[-1])]!r} ({type(inner[-1]).__name__})"
    return (
        f"the model failed on its inputs {_shapes(batch)}, {where}: {type(error).__name__}: "
        f"{error}. Pass batches as the model itself takes them: a tensor, (input, target), or a "
        "mapping of its keyword arguments"
    )


def _shapes(batch: Any) -> str:
    """What a batch holds, in words."""
    if isinstance(batch, Tensor):
        return str(tuple(batch.shape))
    if isinstance(batch, Mapping):
        return ", ".join(f"{key} {_shapes(value)}" for key, value in batch.items())
    if isinstance(batch, (tuple, list)) and batch:
        return _shapes(batch[0])
    return f"of type {type(batch).__name__}"


def layer_inputs(
    layer: nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any]
) -> list[Tensor]:
    """The tensors that a layer was called with, by place or by name, in its forward's order."""
    bound = inspect.signature(layer.forward).bind(*arguments, **keywords)
    return [x for x in bound.arguments.values() if isinstance(x, Tensor)]
