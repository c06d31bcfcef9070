"""convert and merge: which modules are swapped, in which order, and what is refused."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import prune
from torch.utils.data import DataLoader, TensorDataset

import weightcast as wc
from tests.contract.table import DICTIONARIES, make_dictionary
from weightcast import dictionaries as d
from weightcast.layers import PredictedLayer

DCT = wc.Rule(d.DCT(), 0.5)
COVARIANCE = wc.Rule(d.Covariance(), 0.5)


def _mlp(**options) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(12, 10, **options), nn.ReLU(), nn.Linear(10, 8, **options), nn.Tanh(),
        nn.Linear(8, 3, **options),
    )  # fmt: skip


class Network(nn.Module):
    """Convolutions, nesting and a normalisation."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(2, 6, 3, padding=1),
            nn.BatchNorm2d(6),
            nn.ReLU(),
            nn.Conv2d(6, 8, 3, stride=2, groups=2, padding_mode="circular", padding=1),
        )
        self.head = nn.ModuleDict({"hidden": nn.Linear(8 * 9, 20), "out": nn.Linear(20, 4)})

    def forward(self, x):
        x = self.features(x).flatten(1)
        return self.head["out"](self.head["hidden"](x).relu())


X = torch.randn(30, 12, generator=torch.Generator().manual_seed(0))
IMAGES = torch.randn(9, 2, 6, 6, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("inplace", [False, True])
def test_named_layers_are_swapped_and_the_rest_is_kept(inplace):
    model = _mlp().eval()
    children, before = list(model), copy.deepcopy(model.state_dict())
    converted = wc.convert(model, {"0": DCT, "2": DCT, "*": None}, inplace=inplace)
    assert (converted is model) == inplace
    kinds = [wc.PredictedLinear, nn.ReLU, wc.PredictedLinear, nn.Tanh, nn.Linear]
    assert [type(m) for m in converted] == kinds
    assert not converted.training
    assert not converted[0].training
    assert torch.equal(converted[4].weight, before["4.weight"])
    assert torch.equal(converted[0].bias, before["0.bias"])
    if inplace:
        assert converted[4] is children[4]
    else:
        assert list(model) == children
        assert all(torch.equal(model.state_dict()[key], before[key]) for key in before)
        assert converted[4] is not children[4]


@pytest.mark.parametrize("name", DICTIONARIES)
def test_a_merged_network_is_the_predicted_network(name):
    model = nn.Sequential(
        nn.Linear(24, 24), nn.Tanh(), nn.Linear(24, 24), nn.Linear(24, 5)
    ).double()
    x = torch.randn(40, 24, dtype=torch.float64)
    rule = wc.Rule(make_dictionary(name, 24), 0.3, 3, (4, 6))
    predicted = wc.convert(model, {"0": rule, "2": rule, "*": None}, inputs=[x, x + 1])
    merged = wc.merge(predicted)
    torch.testing.assert_close(merged(x), predicted(x), rtol=0, atol=1e-8)
    assert [type(m) for m in merged] == [type(m) for m in model]
    assert list(merged.state_dict()) == list(model.state_dict())
    assert isinstance(predicted[0], PredictedLayer)
    # merge, then fit: the identity on the span of U
    again = wc.convert(model, {"0": rule, "2": rule, "*": None}, inputs=[x, x + 1])
    for index in (0, 2):
        assert again[index].fit(merged[index].weight) < 1e-12
    model.load_state_dict(merged.state_dict())


def test_a_convolutional_network_converts_and_merges():
    model = Network().double().train()
    x = IMAGES.double()
    predicted = wc.convert(model, {"re:features\\..*": wc.Rule(d.Kernel(), 0.5, 3),
                                   "head.hidden": wc.Rule(d.DCT(), 0.25)})  # fmt: skip
    names = {n for n, m in predicted.named_modules() if isinstance(m, PredictedLayer)}
    assert names == {"features.0", "features.3", "head.hidden"}
    assert predicted.training
    predicted(x)  # the normalisation learns
    for network in (predicted, predicted.eval()):
        merged = wc.merge(network)
        torch.testing.assert_close(
            copy.deepcopy(merged)(x), copy.deepcopy(network)(x), rtol=0, atol=1e-9
        )
        assert list(merged.state_dict()) == list(model.state_dict())
        assert merged.training == network.training
    pickle.loads(pickle.dumps(predicted))


def test_merge_in_place():
    model = wc.convert(_mlp(), {"0": DCT, "2": DCT})
    y = model(X)
    assert wc.merge(model, inplace=True) is model
    assert type(model[0]) is nn.Linear
    torch.testing.assert_close(model(X), y, rtol=0, atol=1e-5)
    torch.testing.assert_close(wc.merge(model)(X), y, rtol=0, atol=1e-5)  # nothing left to merge


def test_merging_leaves_the_global_random_state_alone():
    predicted = wc.convert(_mlp(), {"0": DCT})
    state = torch.get_rng_state()
    wc.merge(predicted)
    assert torch.equal(torch.get_rng_state(), state)


def test_one_layer_models():
    layer = nn.Linear(12, 6)
    for key in ("", "*", "re:.*"):
        predicted = wc.convert(layer, {key: DCT})
        assert isinstance(predicted, wc.PredictedLinear)
        assert type(wc.merge(predicted)) is nn.Linear
    data = wc.convert(layer, {"*": COVARIANCE}, inputs=X)
    np.testing.assert_allclose(data.atoms.base.atoms, np.cov(X.numpy().T), atol=1e-5)


def test_one_layer_models_cannot_change_in_place(refuses):
    layer = nn.Linear(12, 6)
    with refuses(layer, "itself a single layer, which inplace=True cannot replace"):
        wc.convert(layer, {"*": DCT}, inplace=True)
    predicted = wc.convert(layer, {"*": DCT})
    with refuses(predicted, "itself a single layer"):
        wc.merge(predicted, inplace=True)


def test_shared_modules_are_converted_once_and_stay_shared():
    shared = nn.Linear(8, 8)
    model = nn.ModuleDict({"a": nn.Sequential(shared, nn.ReLU()), "b": nn.Sequential(shared)})
    model["c"] = shared
    converted = wc.convert(model, {"*": DCT})
    assert isinstance(converted["c"], wc.PredictedLinear)
    assert converted["a"][0] is converted["b"][0] is converted["c"]
    assert len([n for n, _ in converted.named_parameters()]) == 2
    merged = wc.merge(converted)
    assert merged["a"][0] is merged["b"][0] is merged["c"]
    assert type(merged["c"]) is nn.Linear
    with pytest.raises(ValueError, match=r"'b.0': this module is shared; name it by its first name "
                                         "'a.0'"):  # fmt: skip
        wc.convert(model, {"b.0": DCT})


def test_layer_by_layer_order():
    """Layer 2's covariance is that of the converted layer 1's outputs."""
    model = _mlp()
    converted = wc.convert(model, {"0": COVARIANCE, "2": COVARIANCE, "4": COVARIANCE}, inputs=X)
    hidden = X
    for index in (0, 2, 4):
        K = converted[index].atoms.base.atoms
        np.testing.assert_allclose(K, np.cov(hidden.detach().double().numpy().T), atol=1e-6)
        hidden = converted[: index + 2](X) if index < 4 else hidden
    assert not torch.allclose(
        converted[2].atoms.base.atoms, torch.cov(model[:2](X).detach().t()), atol=1e-3
    )


def test_layers_that_need_no_data_come_first():
    model = _mlp()
    converted = wc.convert(model, {"2": DCT, "0": DCT, "4": COVARIANCE}, inputs=X)
    hidden = converted[:4](X).detach().double().numpy()
    np.testing.assert_allclose(converted[4].atoms.base.atoms, np.cov(hidden.T), atol=1e-6)


class Backwards(nn.Module):
    """Registers its layers in the opposite order of their calls."""

    def __init__(self) -> None:
        super().__init__()
        self.second, self.first = nn.Linear(8, 4), nn.Linear(12, 8)

    def forward(self, x, scale=1.0):
        return self.second(torch.tanh(self.first(x))) * scale


def test_the_order_is_that_of_the_calls():
    converted = wc.convert(Backwards(), {"*": COVARIANCE}, inputs=[X])
    hidden = torch.tanh(converted.first(X)).detach().double().numpy()
    np.testing.assert_allclose(converted.second.atoms.base.atoms, np.cov(hidden.T), atol=1e-6)


def _batches():
    y = torch.zeros(30)
    yield "tensor", X
    yield "list", list(X.split(7))
    yield "generator", (x for x in X.split(7))
    yield "pairs", [(x, 0) for x in X.split(7)]
    yield "lists", [[x, 0] for x in X.split(7)]
    yield "mappings", [{"x": x, "scale": 2.0} for x in X.split(7)]
    yield "loader", DataLoader(TensorDataset(X, y), batch_size=7)


@pytest.mark.parametrize("kind", [kind for kind, _ in _batches()])
def test_batches_of_every_kind(kind):
    expected = wc.convert(Backwards(), {"*": COVARIANCE}, inputs=X).first.atoms.base.atoms
    converted = wc.convert(Backwards(), {"*": COVARIANCE}, inputs=dict(_batches())[kind])
    torch.testing.assert_close(converted.first.atoms.base.atoms, expected, rtol=0, atol=1e-6)


def test_the_seed_and_the_name_alone_decide_a_draw():
    model = _mlp()
    one = wc.convert(model, {"0": DCT, "2": DCT}, seed=3)
    torch.manual_seed(77)
    two = wc.convert(model, {"2": DCT}, seed=3)
    other = wc.convert(model, {"2": DCT}, seed=4)
    assert torch.equal(one[2].atoms.indices, two[2].atoms.indices)
    assert torch.equal(one[2].V, two[2].V)
    assert not torch.equal(one[2].V, other[2].V)
    twins = nn.Sequential(nn.Linear(12, 12), nn.Linear(12, 12))
    converted = wc.convert(twins, {"*": DCT})
    assert not torch.equal(converted[0].V, converted[1].V)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_the_dtype_does_not_decide_a_draw(dtype):
    model = _mlp()
    rule = wc.Rule(d.Kernel(), 0.5, 2, (3, 4))
    one = wc.convert(model, {"0": rule}, seed=3)[0]
    two = wc.convert(copy.deepcopy(model).to(dtype), {"0": rule}, seed=3)[0]
    assert torch.equal(one.atoms.indices, two.atoms.indices)
    assert two.V.dtype == two.atoms.mixing.dtype == dtype


@pytest.mark.parametrize("dictionary", [d.RandomGaussian(), d.LowRank(), d.DCT(), d.Kernel()])
def test_converted_layers_start_with_the_dense_layers_variance(dictionary):
    model = nn.Sequential(nn.Linear(64, 900), nn.Linear(900, 3))
    shares = []
    for seed in range(4):
        converted = wc.convert(
            model, {"0": wc.Rule(dictionary, 0.25, 4, (8, 8)), "*": None}, seed=seed
        )
        W = converted[0].weight.detach()
        shares.append(float(W.square().mean()) * 3 * 64)
    assert float(np.mean(shares)) == pytest.approx(1, rel=0.05)


def test_the_optimiser_sees_v_biases_and_dense_layers_only():
    converted = wc.convert(_mlp(), {"0": DCT, "2": DCT, "*": None})
    assert [name for name, _ in converted.named_parameters()] == [
        "0.V", "0.bias", "2.V", "2.bias", "4.weight", "4.bias",
    ]  # fmt: skip


def test_a_parent_that_reads_the_weight_itself_still_trains_v():
    block = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
    converted = wc.convert(block, {"re:linear[12]": wc.Rule(d.DCT(), 0.5)})
    x = torch.randn(2, 5, 8)
    trained = converted.train()(x)
    (trained * torch.linspace(-1, 1, 80).view(2, 5, 8)).sum().backward()
    assert float(converted.linear1.V.grad.abs().sum()) > 1e-4
    assert float(converted.linear2.V.grad.abs().sum()) > 1e-4
    with torch.no_grad():
        torch.testing.assert_close(converted.eval()(x), trained.detach(), rtol=0, atol=1e-5)


def test_attention_and_recurrent_layers_are_taken_apart():
    model = nn.ModuleDict({"attention": nn.MultiheadAttention(8, 2), "lstm": nn.LSTM(8, 8),
                           "out": nn.Linear(8, 2)})  # fmt: skip
    names = ["attention.in_proj", "attention.out_proj", "lstm.ih_l0", "lstm.hh_l0", "out"]
    assert list(wc.Plan({"*": DCT}).resolve(model)) == names


# Refusals: each names the layer, the number and the remedy, and leaves the model untouched.


@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize(
    ("rule", "messages"),
    [
        (wc.Rule(d.DCT(), 0.04), ("layer '0'", "0.48 atoms, below one atom", "at least 0.0834")),
        (wc.Rule(d.DCT(), 0.5, columns=11), ("layer '0'", "columns is 11 for 10 units")),
        (wc.Rule(d.DCT(), 0.5, grid=(3, 5)), ("layer '0'", "15 inputs, the layer has 12")),
        (wc.Rule(d.Kernel(), 0.5), ("layer '0'", "coordinates of the layer's 12 inputs", "grid=")),
        (COVARIANCE, ("layer '0'", "Covariance is made from data: pass inputs=")),
        (wc.Rule(d.Kernel(wc.kernels.SquaredExponential(50.0), ridge=0), 1, 1, (3, 4)),
         ("layer '0'", "singular", "Set ridge to")),
    ],
)  # fmt: skip
def test_what_a_rule_cannot_do(rule, messages, inplace, refuses):
    model = _mlp()
    with refuses(model, *messages):
        wc.convert(model, {"0": rule}, inplace=inplace)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("dictionary", [d.Covariance(), d.PCA(), d.KMeans(), d.Autoencoder()])
def test_bad_inputs(dictionary, bad, refuses):
    model = _mlp()
    x = X.clone()
    x[3, 4] = bad
    with refuses(model, "layer '0'", "1 of 360 input values are NaN or infinite: clean the inputs"):
        wc.convert(model, {"0": wc.Rule(dictionary, 0.5)}, inputs=x, inplace=True)


def test_no_inputs_at_all(refuses):
    model = _mlp()
    with refuses(model, "inputs is empty: pass at least one batch"):
        wc.convert(model, {"0": COVARIANCE}, inputs=[], inplace=True)
    with refuses(model, "layer '0'", r"saw 1 input row\(s\)"):
        wc.convert(model, {"0": COVARIANCE}, inputs=X[:1], inplace=True)


def test_converting_twice(refuses):
    model = wc.convert(_mlp(), {"0": DCT, "2": DCT})
    for key in ("0", "re:[02]", "*"):
        with refuses(model, f"rule {key!r} matches '0'".replace("[", r"\[").replace("*", r"\*"),
                     "predicted already: call weightcast.merge first"):  # fmt: skip
            wc.convert(model, {key: DCT}, inplace=True)
    assert isinstance(wc.convert(model, {"4": DCT})[4], wc.PredictedLinear)
    assert isinstance(wc.convert(model, {"4": DCT, "*": None})[0], wc.PredictedLinear)


def test_failing_half_way_restores_the_model(refuses):
    model = _mlp()
    modules = list(model)
    rules = {"0": DCT, "2": wc.Rule(d.DCT(), 0.5), "4": wc.Rule(d.DCT(), 0.5, grid=(3, 3))}
    with refuses(model, "layer '4'", "has 9 inputs, the layer has 8"):
        wc.convert(model, rules, inplace=True)
    assert list(model) == modules


def test_failing_half_way_restores_shared_modules(refuses):
    shared = nn.Linear(8, 8)
    model = nn.Sequential(shared, nn.Sequential(shared), nn.Linear(8, 3))
    with refuses(model, "layer '2'"):
        wc.convert(model, {"0": DCT, "2": wc.Rule(d.DCT(), 0.5, 7)}, inplace=True)
    assert model[0] is model[1][0] is shared


def test_a_model_that_fails_on_the_inputs_is_restored():
    model = _mlp()
    modules = list(model)
    where = r"the model failed on its inputs \(5, 99\), in module '0' \(Linear\): RuntimeError"
    with pytest.raises(ValueError, match=where):
        wc.convert(model, {"0": DCT, "2": COVARIANCE}, inputs=torch.randn(5, 99), inplace=True)
    assert list(model) == modules
    assert not any(m._forward_pre_hooks for m in model.modules())


def _tied() -> nn.Sequential:
    model = nn.Sequential(nn.Embedding(20, 8), nn.Tanh(), nn.Linear(8, 20))
    model[2].weight = model[0].weight
    return model


@pytest.mark.parametrize("key", ["0", "2", "*", "re:[02]"])
def test_tied_weights_stay_tied(key):
    model, tokens = _tied(), torch.arange(20)
    converted = wc.convert(model, {key: wc.Rule(d.DCT(), 0.5, 2)})
    embedding, _, head = converted
    assert embedding.V is head.V
    assert embedding.atoms is head.atoms
    assert len(list(converted.parameters())) == 2  # V and the head's bias
    torch.optim.AdamW(wc.parameter_groups(converted, 1e-3))  # refuses what comes twice
    torch.testing.assert_close(embedding(tokens), head.weight)
    converted(tokens).square().sum().backward()
    merged = wc.merge(converted)
    assert merged[0].weight is merged[2].weight
    torch.testing.assert_close(merged(tokens), converted(tokens))
    total = wc.ledger(converted).total
    assert (total.dense, total.learned) == (180, 4 * 20 + 20)
    with torch.no_grad():
        copied = copy.deepcopy(converted).double()
        copied[0].V.zero_()
    assert float(copied[2].V.detach().abs().sum()) == 0


def test_tied_layers_are_predicted_together_or_not_at_all(refuses):
    model = _tied()
    rows = wc.Plan({"re:2": DCT, "*": None}).explain(model).rows
    assert [row.rule for row in rows] == [None, None]
    assert rows[1].reason == "is tied to '0', for which there is another rule, or none"
    for rules in ({"0": DCT, "2": None}, {"0": DCT, "2": wc.Rule(d.DCT(), 0.25)}):
        with refuses(model, "layers '0', '2' have one weight", "give all the same rule"):
            wc.convert(model, rules, inplace=True)


def test_a_tied_layer_with_inputs_gives_the_dictionary():
    model, tokens = _tied(), torch.arange(20)
    converted = wc.convert(model, {"*": COVARIANCE}, inputs=tokens)
    hidden = torch.tanh(model[0](tokens)).detach().double().numpy()
    np.testing.assert_allclose(converted[0].atoms.base.atoms, np.cov(hidden.T), atol=1e-5)


def test_a_weight_tied_to_what_cannot_be_predicted(refuses):
    class Table(nn.Module):
        def __init__(self, weight):
            super().__init__()
            self.table = weight

    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))
    model.append(Table(model[0].weight))
    with refuses(model, r"layer '0' is tied \(0.weight = 2.table\), and not all", "untie them"):
        wc.convert(model, {"0": DCT}, inplace=True)
    converted = wc.convert(model, {"*": DCT})
    assert type(converted[0]) is nn.Linear
    assert isinstance(converted[1], wc.PredictedLinear)


def test_tied_biases_stay_tied():
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))
    model[1].bias = model[0].bias
    converted = wc.convert(model, {"*": DCT})
    assert converted[0].bias is converted[1].bias
    merged = wc.merge(converted)
    assert merged[0].bias is merged[1].bias


@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
@pytest.mark.parametrize("wrap", [nn.utils.weight_norm, nn.utils.spectral_norm])
def test_weights_that_are_computed(wrap, refuses):
    model = nn.Sequential(wrap(nn.Linear(8, 8)), nn.Linear(8, 3))
    with refuses(model, "layer '0'", "its weight is no plain parameter", "remove that first"):
        wc.convert(model, {"0": DCT}, inplace=True)


def test_pruned_weights(refuses):
    layer = prune.identity(nn.Linear(8, 8), "weight")
    with refuses(layer, "its weight is no plain parameter"):
        wc.convert(layer, {"*": DCT})


@pytest.mark.parametrize("wrap", [nn.utils.weight_norm, prune.identity])
@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
def test_models_that_torch_cannot_copy(wrap, refuses):
    model, x = nn.Sequential(nn.Linear(8, 8), wrap(nn.Linear(8, 8), "weight")), torch.randn(9, 8)
    model(x)
    uses = {
        "convert": lambda: wc.convert(model, {"0": DCT}),
        "compress": lambda: wc.compress(model, {"0": DCT}, progress=False),
        "merge": lambda: wc.merge(model),
        "verify": lambda: wc.verify(model, x),
    }
    for name, use in uses.items():
        if name == "verify":
            wc.convert(model, {"0": DCT}, inplace=True)
        with refuses(model, "copied, because 'weight' of module '1' .Linear.", "remove"):
            use()
    with torch.no_grad():
        model(x)
    wc.merge(model)


def test_parametrised_weights(refuses):
    model = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(8, 8)), nn.Linear(8, 3))
    with refuses(model, "'0'", "cannot be predicted"):
        wc.convert(model, {"0": DCT}, inplace=True)


@pytest.mark.parametrize(
    "register",
    [
        lambda layer: layer.register_forward_hook(lambda *_: None),
        lambda layer: layer.register_forward_pre_hook(lambda *_: None),
        lambda layer: layer.register_full_backward_hook(lambda *_: None),
        lambda layer: layer.register_full_backward_pre_hook(lambda *_: None),
    ],
    ids=["forward", "forward-pre", "backward", "backward-pre"],
)
def test_hooks_would_be_lost(register, refuses):
    model = _mlp()
    handle = register(model[0])
    with refuses(model, "layer '0' has hooks", "remove them first"):
        wc.convert(model, {"0": DCT}, inplace=True)
    handle.remove()
    wc.convert(model, {"0": DCT}, inplace=True)


def test_complex_weights(refuses):
    model = nn.Sequential(nn.Linear(8, 8, dtype=torch.complex64))
    with refuses(model, "layer '0'", "torch.complex64, not floating point"):
        wc.convert(model, {"0": DCT}, inplace=True)


def test_unused_layers_have_no_statistics(refuses):
    model = Backwards()
    model.unused = nn.Linear(12, 4)
    with refuses(model, "layer 'unused'", r"saw 0 input row\(s\)"):
        wc.convert(model, {"*": COVARIANCE}, inputs=X, inplace=True)


@pytest.mark.parametrize("plan", [None, "0", [DCT], {"0": "DCT"}])
def test_what_is_no_plan(plan):
    with pytest.raises((ValueError, TypeError, AttributeError)):
        wc.convert(_mlp(), plan)


def test_columns_that_see_only_constant_inputs_are_refused(refuses):
    model = nn.Sequential(nn.Linear(20, 10), nn.Linear(10, 2))
    x = torch.zeros(50, 20)
    x[:, :2] = torch.randn(50, 2)
    plan = {"0": wc.Rule(wc.dictionaries.Covariance(), 0.1, columns=5)}
    with refuses(model, "layer '0'", "only zero atoms", "selection='leading' or 'pivoted'"):
        wc.convert(model, plan, inputs=[x])


def test_one_labelled_batch_in_place_of_a_list_is_refused(refuses):
    model = nn.Sequential(nn.Linear(20, 10), nn.Linear(10, 2))
    batch = torch.randn(50, 20), torch.randint(2, (50,))
    plan = {"0": wc.Rule(wc.dictionaries.PCA(), 0.1)}
    with refuses(model, r"\(50, 20\) and \(50,\)", r"\[batch\]"):
        wc.convert(model, plan, inputs=batch)
    wc.convert(model, plan, inputs=[batch])


def test_a_mapping_of_keywords_is_one_batch():
    model = nn.Sequential(nn.Linear(20, 10), nn.Linear(10, 2))
    x = torch.randn(50, 20)
    plan = {"0": wc.Rule(wc.dictionaries.PCA(), 0.1)}
    a = wc.convert(model, plan, inputs={"input": x})
    assert torch.equal(a[0].weight, wc.convert(model, plan, inputs=x)[0].weight)


def test_frozen_weights_are_refused(refuses):
    model = nn.Sequential(nn.Linear(20, 10), nn.Linear(10, 2))
    model[0].requires_grad_(False)
    with refuses(model, "layer '0' is frozen", r"call requires_grad_\(True\) first"):
        wc.convert(model, {"0": DCT}, inplace=True)
    assert type(wc.convert(model, {"*": DCT})[0]) is nn.Linear


def test_merge_refuses_to_lose_hooks(refuses):
    model = wc.convert(nn.Sequential(nn.Linear(8, 4)), {"0": wc.Rule(wc.dictionaries.DCT(), 0.5)})
    model[0].register_forward_hook(lambda *_: None)
    with refuses(model, "layer '0' has hooks", "remove them first"):
        wc.merge(model)


def test_tied_layers_stay_tied_on_the_meta_device():
    with torch.device("meta"):
        model = nn.Sequential(nn.Embedding(9, 8), nn.Linear(8, 9, bias=False))
    model[1].weight = model[0].weight
    predicted = wc.convert(model, {"*": wc.Rule(wc.dictionaries.DCT(), 0.5)})
    assert predicted[0].V is predicted[1].V
    assert predicted[0].V.is_meta
