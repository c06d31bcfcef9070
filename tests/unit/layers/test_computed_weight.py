import pytest
import torch
from torch import nn

import weightcast as wc
from weightcast.layers.computed_weight import ComputedWeight, guarded

RULE = wc.Rule(wc.dictionaries.DCT(), 0.5, columns=2)


def make_layer():
    return wc.PredictedLinear(16, 8, rule=RULE)


def assign(layer):
    layer.weight = nn.Parameter(torch.zeros(8, 16))


def assign_tensor(layer):
    layer.weight = torch.zeros(8, 16)


def delete(layer):
    del layer.weight


def set_item(layer):
    layer.weight.detach()[0] = 1


def set_data(layer):
    layer.weight.data = torch.zeros(8, 16)


def add_in_place(layer):
    data = layer.weight.data
    data += 1


def fuse(layer):
    conv = wc.convert(nn.Sequential(nn.Conv2d(2, 4, 3)), {"*": RULE})[0].eval()
    torch.nn.utils.fusion.fuse_conv_bn_eval(conv, nn.BatchNorm2d(4).eval())


WRITES = {
    "data.add_": lambda layer: layer.weight.data.add_(1),
    "+=": add_in_place,
    "init.zeros_": lambda layer: nn.init.zeros_(layer.weight),
    "init.kaiming_uniform_": lambda layer: nn.init.kaiming_uniform_(layer.weight),
    "init.orthogonal_": lambda layer: nn.init.orthogonal_(layer.weight),
    "a view": lambda layer: layer.weight.detach().t()[1:].mul_(2),
    "copy_": lambda layer: layer.weight.data.copy_(torch.zeros(8, 16)),
    "out=": lambda layer: torch.zeros(8, 16, out=layer.weight.detach()),
    "foreach": lambda layer: torch._foreach_add_([layer.weight.detach()], 1),
    "__setitem__": set_item,
    "data =": set_data,
    "= parameter": assign,
    "= tensor": assign_tensor,
    "del": delete,
    "fuse_conv_bn_eval": fuse,
}


@pytest.mark.parametrize("name", WRITES)
def test_what_would_be_lost_is_refused(name):
    layer = make_layer()
    before = {key: value.clone() for key, value in layer.state_dict().items()}
    with pytest.raises(ValueError, match=r"wc\.merge\(model\)"):
        WRITES[name](layer)
    assert all(torch.equal(before[key], value) for key, value in layer.state_dict().items())


def test_all_else_is_as_with_a_plain_tensor():
    layer, x = make_layer(), torch.randn(3, 16)
    W = layer.weight
    assert type(W) is ComputedWeight
    assert type(W * 2) is type(W.clone()) is type(x @ W.t()) is torch.Tensor
    nn.functional.linear(x, W, layer.bias).square().sum().backward()
    expected = layer.V.grad.clone()
    layer.zero_grad()
    layer(x).square().sum().backward()
    torch.testing.assert_close(layer.V.grad, expected)
    dense = nn.Linear(16, 8, bias=False)
    with torch.no_grad():
        dense.weight.copy_(W)
    torch.testing.assert_close(dense(x), nn.functional.linear(x, W))
    torch.testing.assert_close(dense.weight, W)
    torch.testing.assert_close(W, dense.weight)


def test_a_parameter_made_of_it_is_a_weight_of_its_own():
    own = nn.Parameter(make_layer().weight)
    before = own.detach().clone()
    torch.optim.SGD([own], lr=1.0)
    own.sum().backward()
    with torch.no_grad():
        own.sub_(own.grad)
    torch.testing.assert_close(own.detach().clone(), before - 1)


def test_writes_outside_torch_are_not_seen():
    """The array's memory is the copy's: the layer stays as it is, and nothing can be said."""
    layer = make_layer()
    before = layer.weight.detach().clone()
    layer.weight.detach().numpy()[:] = 0
    torch.testing.assert_close(layer.weight.detach().clone(), before)


def test_tracers_and_transforms_see_plain_tensors():
    layer = make_layer()
    assert type(guarded(torch.zeros(2, device="meta"))) is torch.Tensor
    grads = torch.func.grad(lambda v: guarded(v * 2).sum())(layer.V.detach())
    assert torch.equal(grads, torch.full_like(grads, 2))
    compiled = torch.compile(lambda: layer.weight * 1, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(), layer.weight * 1)


def test_modules_that_borrow_weights_give_them_guarded():
    attention = wc.convert(nn.MultiheadAttention(8, 2), {"*": RULE})
    with pytest.raises(ValueError, match=r"wc\.merge"):
        nn.init.zeros_(attention.in_proj_weight)
