"""AdaptedLayer: bit-equal at first, exact gradients, and no input kept for the backward pass."""

from __future__ import annotations

import copy
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.checkpoint import checkpoint

import weightcast as wc
from tests.contract.table import LAYERS
from weightcast import dictionaries as d
from weightcast.layers import AdaptedLayer, adapted_layers, view
from weightcast.layers.adapted import is_freed

ADDED = {name: row for name, row in LAYERS.items() if row.arguments.get("mode") != "max"}
LAYER = pytest.mark.parametrize("name", ADDED)


def adapted(
    dense: nn.Module,
    rule: wc.Rule,
    dtype: torch.dtype = torch.float64,
    statistics: d.InputStatistics | None = None,
) -> AdaptedLayer:
    return AdaptedLayer(dense, view(dense).predict(rule, delta=dtype, statistics=statistics))


def bits(x: Tensor) -> Tensor:
    return x.detach().contiguous().view(torch.uint8)


def trained(layer: Any) -> Any:
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for p in layer.delta.parameters():
            p.copy_(torch.randn(p.shape, generator=generator))
    return layer


@LAYER
@pytest.mark.parametrize("how", [{}, {"path": "materialised"}, {"relative": True}], ids=str)
def test_outputs_are_at_first_the_frozen_layers_to_the_last_bit(name, how):
    row = ADDED[name]
    dense = row.build_dense(dtype=torch.float64).requires_grad_(False)
    layer = adapted(dense, row.rule(columns=3, **how))
    y = dense(*row.inputs())
    assert torch.equal(bits(layer(*row.inputs())), bits(y))
    assert torch.equal(bits(layer.weight), bits(dense.weight))
    assert [name for name, p in layer.named_parameters() if p.requires_grad] == ["delta.V"]


@LAYER
@pytest.mark.parametrize("relative", [False, True])
def test_what_is_added_is_that_of_the_merged_weights(name, relative):
    row = ADDED[name]
    rule = row.rule(columns=3, relative=relative)
    layer = trained(adapted(row.build_dense(dtype=torch.float64), rule))
    merged = layer.to_dense()
    assert type(merged) is type(layer.frozen)
    torch.testing.assert_close(layer(*row.inputs()), merged(*row.inputs()))
    torch.testing.assert_close(layer.weight, merged.weight, rtol=1e-14, atol=1e-14)
    change = layer.frozen.weight * layer.delta.weight if relative else layer.delta.weight
    torch.testing.assert_close(layer.weight - layer.frozen.weight, change)


@LAYER
def test_gradients_of_a_relative_layer_are_those_of_its_weight(name):
    row = ADDED[name]
    dense = row.build_dense(dtype=torch.float64).requires_grad_(False)
    layer = trained(adapted(dense, row.rule(columns=3, relative=True)))
    inputs = [x.requires_grad_() if x.is_floating_point() else x for x in row.inputs()]
    learned = [*layer.delta.parameters(), *(x for x in inputs if x.requires_grad)]
    y = layer(*inputs)
    ours = torch.autograd.grad(y.square().sum(), learned, retain_graph=True)
    W = dense.weight * (1 + layer.delta.weight)
    direct = torch.func.functional_call(dense, {"weight": W}, tuple(inputs))
    torch.testing.assert_close(y, direct)
    theirs = torch.autograd.grad(direct.square().sum(), learned)
    for one, two in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, two)
    assert torch.equal(torch.autograd.grad(y.square().sum(), learned)[0], ours[0])


def test_the_weight_of_a_relative_layer_is_made_again_and_not_kept():
    layer = trained(adapted(nn.Linear(12, 6).requires_grad_(False), RELATIVE, torch.float32))
    y: Any = layer(torch.randn(3, 12, requires_grad=True))
    one, two = y.grad_fn._saved_mat2, y.grad_fn._saved_mat2
    assert torch.equal(one, layer.weight.t())
    assert one.data_ptr() != two.data_ptr()
    x = torch.randn(3, 12, requires_grad=True)  # a checkpoint keeps neither of them
    assert {x.data_ptr()} < {t.data_ptr() for t in kept_for_backward(layer, x)}
    with torch.no_grad():
        layer.delta.V.add_(1)
    with pytest.raises(RuntimeError, match="V was changed between the forward and the backward"):
        y.sum().backward()


def test_a_learned_u_may_not_change_before_the_backward_pass_either():
    rule = wc.Rule(d.LowRank(), n_atoms=2, relative=True)
    layer = trained(adapted(nn.Linear(12, 6).requires_grad_(False), rule, torch.float32))
    y = layer(torch.randn(3, 12, requires_grad=True))
    with torch.no_grad():
        layer.delta.atoms.base.atoms.add_(1)
    with pytest.raises(RuntimeError, match="changed between the forward and the backward"):
        y.sum().backward()


def test_minus_zero_stays_minus_zero():
    dense = nn.Embedding(3, 8).requires_grad_(False)
    dense.weight.data[1] = -0.0
    layer = adapted(dense, wc.Rule(d.DCT(), n_atoms=2))
    assert torch.equal(bits(layer(torch.arange(3))), bits(dense.weight))
    dense = nn.Linear(8, 4, bias=False, dtype=torch.float16).requires_grad_(False)
    dense.weight.data.fill_(-6e-8)  # products that are rounded to -0
    x = torch.full((2, 8), 1e-3, dtype=torch.float16)
    assert torch.equal(bits(dense(x)), bits(torch.full((2, 4), -0.0).half()))
    for dtype in (torch.float16, torch.float32):
        layer = adapted(dense, wc.Rule(d.DCT(), n_atoms=2), dtype)
        assert torch.equal(bits(layer(x)), bits(dense(x)))


RELATIVE = wc.Rule(d.RandomGaussian(), n_atoms=2, columns=2, relative=True)
RULES = {
    "in order": wc.Rule(d.PCA(whiten=True), n_atoms=2, columns=3),
    "gathered": wc.Rule(d.Covariance(selection="leading"), n_atoms=3, columns=5),
    "stacked": wc.Rule(d.RandomGaussian(), n_atoms=2, columns=2),
    "dealt twice": wc.Rule(d.PCA(whiten=True), n_atoms=5, columns=6),
    "materialised": wc.Rule(d.DCT(), n_atoms=2, columns=2, path="materialised"),
    "learned": wc.Rule(d.LowRank(), n_atoms=2),
}


@pytest.mark.parametrize("which", RULES)
@pytest.mark.parametrize("transposed", [False, True])
def test_gradients_are_exact(which, transposed):
    pytest.importorskip("transformers")
    from transformers.pytorch_utils import Conv1D

    torch.manual_seed(0)
    rows = torch.randn(50, 12).double()
    statistics = d.InputStatistics(50, covariance=rows.t().cov())
    dense = (Conv1D(7, 12) if transposed else nn.Linear(12, 7)).double().requires_grad_(False)
    layer = trained(adapted(dense, RULES[which], statistics=statistics))
    parts = [*layer.delta.parameters()]
    x = rows[:6].reshape(2, 3, 12).requires_grad_()
    merged = copy.deepcopy(dense)

    def added(x: Tensor, *_: Tensor) -> Tensor:
        return layer(x)

    def direct(x: Tensor) -> Tensor:
        W = view(merged).filters() + layer.delta.view.filters()
        return nn.functional.linear(x, W, dense.bias)

    torch.testing.assert_close(layer(x), direct(x))
    loss = torch.randn(2, 3, 7).double()
    ours = torch.autograd.grad((layer(x) * loss).sum(), [x, *parts])
    theirs = torch.autograd.grad((direct(x) * loss).sum(), [x, *parts])
    for one, two in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, two)
    assert torch.autograd.gradcheck(added, (x, *parts))


def kept_for_backward(layer: nn.Module, x: Tensor) -> list[Tensor]:
    """What autograd keeps beside parameters and constants."""
    found: list[Tensor] = []
    with saved_tensors_hooks(lambda t: (found.append(t), t)[1], lambda t: t):
        layer(x)
    own = {t.untyped_storage().data_ptr() for t in (*layer.state_dict(keep_vars=True).values(),)}
    return [t for t in found if t.untyped_storage().data_ptr() not in own]


@pytest.mark.parametrize("which", ["in order", "gathered", "stacked"])
def test_neither_the_input_nor_all_of_its_projections_are_kept(which):
    torch.manual_seed(0)
    n_visible, n_units, n_rows = 96, 64, 200
    rows = torch.randn(500, n_visible).double()
    statistics = d.InputStatistics(500, covariance=rows.t().cov())
    rule, dense = RULES[which], nn.Linear(n_visible, n_units).requires_grad_(False)
    layer = adapted(dense, rule, torch.float32, statistics)
    x = torch.randn(4, n_rows // 4, n_visible, requires_grad=True)
    kept = kept_for_backward(layer, x)
    of_rows = [t for t in kept if n_rows in t.shape or t.numel() >= n_rows]
    wanted = rule.columns * layer.delta.atoms.n_atoms * n_rows
    assert [t.numel() for t in of_rows] == [wanted]
    assert wanted < x.numel() / 2
    # A layer that learns all of its weights keeps x: the check sees it.
    learning = copy.deepcopy(dense).requires_grad_(True)
    assert max(t.numel() for t in kept_for_backward(learning, x)) == x.numel()


def test_whoever_keeps_the_frozen_output_still_has_it():
    dense = nn.Linear(12, 6).requires_grad_(False)
    layer = trained(adapted(dense, RULES["stacked"], torch.float32))
    x, seen = torch.randn(5, 12), []
    handle = layer.frozen.register_forward_hook(lambda *args: seen.append(args[2]))
    y = layer(x)
    assert torch.equal(seen[0], layer.frozen(x))
    handle.remove()
    torch.testing.assert_close(layer(x), y)

    y = torch.randn(5, 6, requires_grad=True).exp()  # which autograd keeps for its derivative
    added = layer.delta.added_into(y, x)
    assert added is not None
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        added.sum().backward()


@pytest.mark.parametrize("rule", [RULES["stacked"], RELATIVE], ids=["added", "relative"])
@pytest.mark.parametrize(
    "kind", ["checkpoint", "compile", "export", "jit", "autocast", "vmap", "inference"]
)
def test_it_runs_as_torchs_own_layers_do(kind, rule):
    torch.manual_seed(0)
    dense = nn.Linear(12, 6).requires_grad_(False)
    layer = trained(adapted(dense, rule, torch.float32))
    x = torch.randn(4, 5, 12, requires_grad=True)
    expected = layer(x)
    (gradient,) = torch.autograd.grad(expected.square().sum(), layer.delta.V)
    tolerance: dict[str, Any] = {}
    if kind == "checkpoint":
        y = checkpoint(layer, x, use_reentrant=False)
    elif kind == "compile":
        torch._dynamo.reset()
        y = torch.compile(layer, fullgraph=True, backend="aot_eager")(x)
    elif kind == "export":
        exported = torch.export.export(layer, (x.detach(),)).module()
        torch.testing.assert_close(exported(x), expected)
        y = layer(x)
    elif kind == "jit":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            y = torch.jit.trace(layer, x.detach())(x)
    elif kind == "autocast":
        with torch.autocast("cpu", torch.bfloat16):
            y = layer(x)
        assert y.dtype == torch.bfloat16
        tolerance = {"rtol": 0.05, "atol": 0.3}
    elif kind == "vmap":
        torch.testing.assert_close(torch.func.vmap(layer)(x), expected)
        y = layer(x)
    else:
        with torch.inference_mode():
            torch.testing.assert_close(layer(x), expected)
        y = layer(x)
    torch.testing.assert_close(y.float(), expected, **tolerance)
    (found,) = torch.autograd.grad(y.float().square().sum(), layer.delta.V)
    torch.testing.assert_close(found, gradient, **({"rtol": 0.1, "atol": 5.0} if tolerance else {}))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_v_has_more_bits_than_a_frozen_layer_in_few(dtype):
    dense = nn.Linear(12, 6, dtype=dtype).requires_grad_(False)
    layer = adapted(dense, RULES["stacked"], torch.float32)
    x = torch.randn(5, 12).to(dtype)
    assert torch.equal(bits(layer(x)), bits(dense(x)))
    trained(layer)
    expected = dense(x).float() + layer.delta(x.float())
    assert torch.equal(layer(x), expected.to(dtype))  # rounded once
    merged = layer.to_dense().weight
    assert torch.equal(merged, (dense.weight.double() + layer.delta.double().weight).to(dtype))


def test_attributes_are_the_frozen_layers_and_freed_parameters_are_known():
    dense = nn.Linear(12, 6).requires_grad_(False)
    dense.note = "kept"  # pyright: ignore[reportArgumentType]
    layer = adapted(dense, RULES["stacked"], torch.float32)
    assert layer.in_features == 12
    assert layer.note == "kept"
    assert layer.bias is dense.bias
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = layer.nothing
    with pytest.raises(ValueError, match="computed from V"):
        layer.weight.add_(1)
    layer.requires_grad_(False)
    assert [is_freed(p) for p in (dense.weight, layer.delta.V)] == [False, True]
    assert adapted_layers(nn.Sequential(layer)) == {"0": layer}
    assert copy.deepcopy(layer).frozen.weight.shape == (6, 12)
