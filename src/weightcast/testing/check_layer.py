"""check_layer: what every predicted layer must do, whatever its dense counterpart."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from weightcast.dictionaries import RandomGaussian
from weightcast.layers import PredictedLayer
from weightcast.layers.rule import Rule
from weightcast.testing.example_layers import cast, example_layer, in_double, is_real, other_shapes
from weightcast.testing.randomness import unmoved_randomness
from weightcast.testing.require import require, require_close, require_copies, run

PATHS = ("auto", "factored", "materialised")

DRAWS = 12
"""Layers whose initial weights are averaged."""

BY_CHANCE = 1e-6
"""How often the weights of a correct layer, or of its dense one, may be so large or so small."""


def check_layer(
    layer_class: type[PredictedLayer],
    dense: nn.Module | None = None,
    inputs: Sequence[Any] | None = None,
    rule: Rule | None = None,
) -> None:
    """Check that a predicted layer stands in for its dense counterpart.

    It computes what the dense layer computes with the same weights, along every path and for all
    shapes that the dense layer takes, and has its gradients, the inputs' too; it draws nothing when
    it is called; it keeps bias, dtype, device and mode on the way from dense and back; only V and
    the bias learn; fitted with all atoms it is the dense layer; it copies, pickles, loads its
    state, and lives on the meta device and in other dtypes.

    Args:
        layer_class: a subclass of :class:`weightcast.PredictedLayer`.
        dense: a freshly drawn dense layer; None takes a small one of ``layer_class.dense_class``,
            where that is a layer of torch.
        inputs: what ``dense`` is called with; needed where ``dense`` is given.
        rule: how the layer is predicted; None takes random rotations, half of them, in 2 columns.

    Raises:
        AssertionError: naming the check that fails, the numbers, and what they should have been.
        ValueError: no subclass of ``PredictedLayer``; a class without an example, and no ``dense``
            and ``inputs``.
    """
    if not isinstance(layer_class, type) or not issubclass(layer_class, PredictedLayer):
        raise ValueError(
            f"layer_class is {layer_class!r}, no subclass of PredictedLayer: of a module that is "
            "split into layers check these, such as PredictedParameter, and their dense weights"
        )
    # A class may leave its dense counterpart open, as that of an optional package.
    kind = getattr(layer_class, "dense_class", None)
    example = example_layer(kind) if dense is None and kind is not None else None
    if dense is not None and inputs is not None:
        example = dense, tuple(inputs)
    if example is None:
        missing = layer_class if kind is None else kind
        raise ValueError(f"there is no example for {missing.__name__}: pass dense= and inputs=")
    tried = _Tried(layer_class, *example, rule or Rule(RandomGaussian("orthonormal"), 0.5, 2))
    checks = {
        "it stands in for its dense class": tried.stands_in,
        "it computes what the dense layer computes with its weights": tried.computes,
        "it takes the shapes that the dense layer takes": tried.takes_shapes,
        "a forward pass draws nothing": tried.draws_nothing,
        "from dense and back, everything is kept": tried.keeps,
        "only V and the bias are learned": tried.learns,
        "every path has the dense layer's gradients": tried.has_gradients,
        "fitted with all atoms it is the dense layer": tried.fits,
        "a seed decides the draw, and nothing else does": tried.draws,
        "its weights have the dense layer's variance at first": tried.starts_well,
        "it copies, pickles and loads its state": tried.copies,
        "it takes other dtypes": tried.casts,
        "it lives on the meta device": tried.is_meta,
    }
    run(f"check_layer({layer_class.__name__})", checks)


class _Tried:
    """A layer class with a dense layer, its inputs and a rule, and the checks."""

    def __init__(
        self, layer_class: type[PredictedLayer], dense: nn.Module, inputs: Sequence[Any], rule: Rule
    ) -> None:
        self.layer_class, self.rule = layer_class, rule
        self.dense: Any = copy.deepcopy(dense).double()
        with torch.no_grad():
            for parameter in self.dense.parameters():
                parameter.copy_(in_double(parameter))
        self.inputs = [in_double(x) for x in inputs]

    def layer(self, rule: Rule | None = None, seed: int = 0) -> Any:
        return self.layer_class.from_dense(self.dense, rule or self.rule, seed=seed)

    def stands_in(self) -> None:
        kind = getattr(self.layer_class, "dense_class", type(self.dense))
        require(type(self.dense) is kind, f"dense is a {type(self.dense).__name__}, not {kind}")
        layer = self.layer()
        require(type(layer) is self.layer_class, f"from_dense makes a {type(layer).__name__}")
        dense, shape = tuple(self.dense.weight.shape), tuple(layer.weight.shape)
        require(shape == dense, f"its weight is {shape}, the dense layer's {dense}")
        shape, wanted = tuple(layer.V.shape), (layer.atoms.n_atoms, layer.n_units)
        require(shape == wanted, f"V is {shape}, expected (n_atoms, n_units) = {wanted}")

    def computes(self) -> None:
        self._require_outputs(self.inputs, "the output along {!r}")

    def takes_shapes(self) -> None:
        for name, inputs in other_shapes(self.dense, self.inputs):
            self._require_outputs(inputs, f"the output along {{!r}} of inputs with {name}")

    def _require_outputs(self, inputs: Sequence[Any], what: str) -> None:
        layer, dense = self.layer(), copy.deepcopy(self.dense)
        with torch.no_grad():
            dense.weight.copy_(layer.weight)
            expected = dense(*inputs)
            for path in PATHS:
                layer.path = path
                require_close(layer(*inputs), expected, 1e-9, what.format(path))

    def draws_nothing(self) -> None:
        layer = self.layer()
        for training, path in itertools.product((True, False), PATHS):
            layer.train(training).path = path
            with unmoved_randomness("a predicted layer computes, and draws nothing"):
                layer(*self.inputs)

    def keeps(self) -> None:
        for training, dtype in itertools.product((True, False), (torch.float64, torch.float32)):
            dense = copy.deepcopy(self.dense).to(dtype).train(training)
            layer: Any = self.layer_class.from_dense(dense, self.rule)
            back = layer.to_dense()
            self._require_same(dense, layer, back)
            inputs = [cast(x, dtype) for x in self.inputs]
            require_close(back(*inputs), layer(*inputs), 1e-4, "the output of to_dense()")

    def _require_same(self, dense: Any, layer: Any, back: Any) -> None:
        require(type(back) is type(dense), f"to_dense makes a {type(back).__name__}")
        keys, found = list(dense.state_dict()), list(back.state_dict())
        require(found == keys, f"to_dense has the keys {found}, expected {keys}")
        require_close(back.weight, layer.weight, 1e-6, "to_dense's weight")
        for name, one in (("from_dense", layer), ("to_dense", back)):
            require(one.training == dense.training, f"{name} does not keep the mode")
            kind = one.weight.dtype
            require(kind == dense.weight.dtype, f"{name} makes {kind} of {dense.weight.dtype}")
            bias, kept = getattr(dense, "bias", None), getattr(one, "bias", None)
            require((bias is None) == (kept is None), f"{name} does not keep whether there is bias")
            if isinstance(bias, Tensor) and isinstance(kept, Tensor):
                require_close(kept, bias, 0, f"{name}'s bias")

    def learns(self) -> None:
        layer = self.layer()
        others = sorted({name for name, _ in layer.named_parameters()} - {"V", "bias"})
        require(not others, f"these are learned too: {others}")
        buffers = [name for name, _ in layer.named_buffers(recurse=False)]
        buffers = [name for name in buffers if not name.startswith("atoms")]
        require(not buffers, f"buffers, which DDP sends at every step: {buffers}; use constants")

    def has_gradients(self) -> None:
        layer = self.layer()
        parameters = dict(layer.named_parameters())
        inputs = [x.clone().requires_grad_() if is_real(x) else x for x in self.inputs]
        wanted = parameters | {f"input {i}": x for i, x in enumerate(inputs) if is_real(x)}
        # The dense layer, computing with this one's weight and bias.
        names = {"weight", "bias"} & dict(self.dense.named_parameters()).keys()
        tensors = {name: getattr(layer, name) for name in names}
        y = torch.func.functional_call(self.dense, tensors, tuple(inputs))
        expected = _gradients(y, wanted)
        for path in PATHS:
            layer.path = path
            found = _gradients(layer(*inputs), wanted)
            for name, one in expected.items():
                self._require_gradient(name, found[name], one, name in parameters, path)

    def _require_gradient(
        self, name: str, found: Tensor | None, expected: Tensor | None, learns: bool, path: str
    ) -> None:
        if expected is None and not learns:
            return  # an input in which torch's own layer has no gradient
        if found is None or expected is None:
            raise AssertionError(f"{name} gets no gradient along {path!r}")
        if learns:
            require(float(found.abs().sum()) > 0, f"{name}'s gradient along {path!r} is zero")
        require_close(found, expected, 1e-8, f"{name}'s gradient along {path!r}")

    def fits(self) -> None:
        layer = self.layer(Rule(RandomGaussian("orthonormal"), 1.0, 1))
        unexplained = layer.fit(self.dense.weight)
        require(unexplained < 1e-12, f"{unexplained:.3g} of the weights are left unexplained")
        require_close(layer.weight, self.dense.weight, 1e-8, "the fitted weight")
        require_close(layer(*self.inputs), self.dense(*self.inputs), 1e-8, "the fitted output")

    def draws(self) -> None:
        with unmoved_randomness():
            first, again, other = (self.layer(seed=seed) for seed in (1, 1, 2))
        require_close(again.weight, first.weight, 0, "the weight of a second layer of seed 1")
        require(not torch.equal(other.V, first.V), "seeds 1 and 2 draw the same V")

    def starts_well(self) -> None:
        from scipy.special import fdtri

        layers = [self.layer(seed=seed) for seed in range(DRAWS)]
        moment = float(torch.stack([x.weight.detach().square().mean() for x in layers]).mean())
        ratio = moment / float(self.dense.weight.detach().square().mean())
        # Of normal numbers the ratio has an F distribution, and those of narrower ones are closer
        # to 1. A unit's weights may be as good as one number, where one atom outweighs the others.
        drawn, dense = DRAWS * layers[0].n_units, self.dense.weight.numel()
        low = fdtri(drawn, dense, BY_CHANCE) / 1.1
        high = 1.1 / fdtri(dense, drawn, BY_CHANCE)
        require(
            low < ratio < high,
            f"their mean square is {ratio:.2f} times the dense layer's, expected about 1, with so "
            f"few weights between {low:.2g} and {high:.2g}",
        )

    def copies(self) -> None:
        require_copies(self.layer(seed=1), self.layer(seed=2), self.inputs)

    def casts(self) -> None:
        layer = self.layer()
        expected = layer(*self.inputs)
        for dtype, tolerance in ((torch.float32, 1e-4), (torch.bfloat16, 0.1)):
            small = copy.deepcopy(layer).to(dtype)
            y = small(*(cast(x, dtype) for x in self.inputs))
            require(y.dtype == dtype, f"its output is {y.dtype}, its weights {dtype}")
            require_close(y, expected, tolerance, f"the output in {dtype}")

    def is_meta(self) -> None:
        layer: Any = self.layer_class.from_dense(copy.deepcopy(self.dense).to("meta"), self.rule)
        kinds = {p.device.type for p in layer.parameters()}
        require(kinds == {"meta"}, f"made of a layer on the meta device, it is on {kinds}")


def _gradients(output: Tensor, wanted: dict[str, Tensor]) -> dict[str, Tensor | None]:
    """Of the output's sum of squares; None where it does not depend on a tensor."""
    loss = output.square().sum()
    found = torch.autograd.grad(loss, list(wanted.values()), allow_unused=True)
    return dict(zip(wanted, found, strict=True))
