"""What every layer must do."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import io
import pickle

import pytest
import torch
from torch import nn
from torch.func import functional_call

import weightcast as wc
from tests.contract.table import DICTIONARIES, LAYERS, example_statistics
from weightcast import dictionaries as d
from weightcast.dictionaries.constants import named_constants
from weightcast.layers import PREDICTED, view

LAYER = pytest.mark.parametrize("name", LAYERS)
DICTIONARY = pytest.mark.parametrize("dictionary", DICTIONARIES)
COLUMNS = pytest.mark.parametrize("columns", [1, 3])


@LAYER
@COLUMNS
def test_shapes_are_torchs(name, columns):
    row = LAYERS[name]
    layer, dense, x = row.build(columns=columns), row.build_dense().double(), row.inputs()
    assert layer.weight.shape == dense.weight.shape
    assert layer.V.shape == (layer.atoms.n_atoms, row.n_units)
    assert layer.unit_columns.shape == (row.n_units,)
    assert layer.atoms.indices.shape == (columns, layer.atoms.n_atoms)
    assert (layer.bias is None) == (getattr(dense, "bias", None) is None)
    for path in ("auto", "factored", "materialised"):
        layer.path = path
        assert layer(*x).shape == dense(*x).shape


@LAYER
@COLUMNS
def test_units_are_split_evenly_into_contiguous_columns(name, columns):
    layer = LAYERS[name].build(columns=columns)
    owners = layer.unit_columns
    counts = owners.bincount(minlength=columns)
    assert owners.tolist() == sorted(owners.tolist())
    assert int(counts.max() - counts.min()) <= 1
    assert counts.tolist() == sorted(counts.tolist(), reverse=True)


@DICTIONARY
@pytest.mark.parametrize("name", ["Linear", "Conv2d-groups"])
def test_only_v_and_bias_are_learned(dictionary, name):
    layer = LAYERS[name].build(dictionary, columns=2)
    learned = {"V", "bias"} | ({"atoms.base.atoms"} if dictionary == "LowRank" else set())
    assert {name for name, _ in layer.named_parameters()} == learned
    for path in ("factored", "materialised"):
        layer.zero_grad()
        layer.path = path
        layer(LAYERS[name].example()).square().sum().backward()
        for parameter in layer.parameters():
            assert parameter.grad is not None
            assert float(parameter.grad.abs().sum()) > 0
    assert list(layer.buffers()) == []  # which DDP would send at every step
    assert not any(constant.requires_grad for _, constant in named_constants(layer))


@pytest.mark.parametrize("path", ["factored", "materialised"])
@COLUMNS
@pytest.mark.parametrize("dictionary", ["Kernel", "Covariance", "DCT", "LowRank"])
@pytest.mark.parametrize("name", ["Linear", "Conv2d-all", "Conv1d"])
def test_gradcheck(name, dictionary, columns, path):
    row = LAYERS[name]
    layer = row.build(dictionary, 0.2, columns=columns, path=path)
    parameters = {key: p.detach().clone() for key, p in layer.named_parameters()}
    x = row.example()[:1, ..., : row.input_shape[-1]].requires_grad_()

    def run(x, *values):
        return functional_call(layer, dict(zip(parameters, values, strict=True)), (x,))

    values = [value.requires_grad_() for value in parameters.values()]
    assert torch.autograd.gradcheck(run, (x, *values), fast_mode=True)


@LAYER
@pytest.mark.parametrize("dictionary", ["Kernel", "LowRank", "RandomConnections"])
def test_both_paths_have_the_same_gradients(name, dictionary):
    row = LAYERS[name]
    layer, inputs = row.build(dictionary, columns=3), row.inputs()
    learned = [x.requires_grad_() for x in inputs if x.is_floating_point()]
    gradients = []
    for path in ("factored", "materialised"):
        layer.path = path
        y = layer(*inputs)
        loss = (y * torch.linspace(-1, 1, y.numel()).view(y.shape)).sum()
        gradients.append(torch.autograd.grad(loss, [*learned, *layer.parameters()]))
    for one, two in zip(*gradients, strict=True):
        torch.testing.assert_close(one, two, rtol=0, atol=1e-9)


@LAYER
@pytest.mark.parametrize("dictionary", ["Kernel-orthonormal", "Covariance", "LowRank"])
def test_copies_and_pickles_compute_the_same(name, dictionary):
    row = LAYERS[name]
    layer, x = row.build(dictionary, columns=2), row.inputs()
    for twin in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert torch.equal(twin(*x), layer(*x))
        twin.V.data.zero_()
        assert float(layer.V.detach().abs().sum()) > 0


@DICTIONARY
def test_state_dict_round_trip_is_complete(dictionary):
    row = LAYERS["Linear"]
    layer = row.build(dictionary, columns=3, seed=0)
    other = row.build(dictionary, columns=3, seed=9)
    file = io.BytesIO()
    torch.save(layer.state_dict(), file)
    file.seek(0)
    other.load_state_dict(torch.load(file, weights_only=True))
    x = row.example()
    assert torch.equal(other(x), layer(x))
    assert torch.equal(other.weight, layer.weight)


@LAYER
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_dtypes(name, dtype):
    row = LAYERS[name]
    exact = row.build("Kernel", columns=2)
    moved = copy.deepcopy(exact).to(dtype)
    born = row.build("Kernel", columns=2, dtype=dtype)
    inputs = row.inputs(dtype)
    exactly = [x.double() if x.is_floating_point() else x for x in inputs]
    tolerance = {"rtol": 0, "atol": 1e-4 if dtype == torch.float32 else 0.2}
    for layer in (moved, born):
        assert layer.V.dtype == layer.weight.dtype == dtype
        assert layer.atoms.indices.dtype == torch.int32
        for path in ("factored", "materialised"):
            layer.path = path
            y = layer(*inputs)
            assert y.dtype == dtype
            torch.testing.assert_close(y.double(), exact(*exactly), **tolerance)


@LAYER
def test_layers_live_on_the_meta_device(name):
    row = LAYERS[name]
    layer = row.build(device="meta")
    assert {t.device.type for t in (*layer.parameters(), *layer.atoms.buffers())} == {"meta"}
    dense = row.build_dense(device="meta")
    assert row.predicted.from_dense(dense, row.rule()).V.device.type == "meta"


@DICTIONARY
@COLUMNS
def test_fit_is_a_right_inverse(dictionary, columns):
    row = LAYERS["Linear"]
    layer = row.build(dictionary, columns=columns)
    W, x = layer.weight.detach().clone(), row.example()
    y = layer(x).detach()
    layer.V.data.fill_(1.5)
    assert layer.fit(W) < 1e-15
    torch.testing.assert_close(layer.weight, W, rtol=0, atol=1e-9)
    torch.testing.assert_close(layer(x), y, rtol=0, atol=1e-8)


@DICTIONARY
def test_fit_is_the_least_squares_projection(dictionary):
    layer = LAYERS["Linear"].build(dictionary, columns=3)
    W = torch.randn(7, 24, dtype=torch.float64)
    share = layer.fit(W)
    residual = W - layer.weight.detach()
    assert share == pytest.approx(float(residual.square().sum() / W.square().sum()))
    for unit, column in enumerate(layer.unit_columns.tolist()):
        U = layer.atoms.dictionaries()[column].detach()
        torch.testing.assert_close(
            U.t() @ residual[unit], torch.zeros(12).double(), rtol=0, atol=1e-8
        )


@LAYER
def test_fit_takes_torchs_layout(name):
    row = LAYERS[name]
    layer = row.build(fraction=1, columns=2)
    W = row.build_dense().weight.detach()
    layer.fit(W)
    torch.testing.assert_close(layer.weight, W.double(), rtol=0, atol=1e-9)


DENSE_FACTS = ("stride", "padding", "dilation", "groups", "padding_mode", "kernel_size",
               "in_channels", "out_channels", "in_features", "out_features",
               "num_embeddings", "embedding_dim", "padding_idx", "mode", "scale_grad_by_freq",
               "in1_features", "in2_features", "nf", "nx")  # fmt: skip


@LAYER
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("training", [True, False])
def test_from_dense_and_back_keep_everything(name, dtype, training):
    row = LAYERS[name]
    dense = row.build_dense(dtype=dtype).train(training)
    layer = row.predicted.from_dense(dense, row.rule(columns=2, path="factored"))
    back = layer.to_dense()
    assert layer.path == "factored"
    assert type(back) is row.dense
    for one in (layer, back):
        assert one.training == training
        assert one.weight.dtype == dtype
        assert one.weight.shape == dense.weight.shape
        for fact in DENSE_FACTS:
            assert getattr(one, fact, None) == getattr(dense, fact, None)
        bias = getattr(dense, "bias", None)
        assert (getattr(one, "bias", None) is None) == (bias is None)
        if bias is not None:
            assert torch.equal(one.bias, bias)
    # Numbers of few bits are merged through single precision, and rounded once.
    exact = copy.deepcopy(layer).float() if dtype == torch.bfloat16 else layer
    assert torch.equal(back.weight, exact.weight.to(dtype))
    assert list(back.state_dict()) == list(dense.state_dict())
    if dtype != torch.bfloat16:
        x = row.inputs(dtype)
        torch.testing.assert_close(back(*x), layer(*x), rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["Linear", "Conv2d-groups"])
@pytest.mark.parametrize("dictionary", ["Kernel", "RandomGaussian", "LowRank"])
def test_from_dense_draws_what_the_constructor_draws(name, dictionary):
    row = LAYERS[name]
    one = row.build(dictionary, columns=2, seed=4)
    two = row.predicted.from_dense(
        row.build_dense(dtype=torch.float64), row.rule(dictionary, columns=2), seed=4
    )
    assert torch.equal(two.atoms.indices, one.atoms.indices)
    assert torch.equal(two.atoms.dictionaries(), one.atoms.dictionaries())
    assert torch.equal(two.V, one.V)


@pytest.mark.parametrize("dictionary", ["RandomGaussian", "LowRank", "Autoencoder"])
def test_v_is_drawn_apart_from_the_atoms(dictionary):
    # W has the wanted variance only if U and V are independent.
    row = LAYERS["Linear"]
    for seed in range(3):
        layer = wc.PredictedLinear.from_dense(
            nn.Linear(24, 400), row.rule(dictionary), seed=seed, statistics=example_statistics(24)
        )
        U, V = layer.atoms.base.atoms.detach().flatten(), layer.V.detach().flatten()
        n = min(len(U), len(V))
        for first in (U[:n], U[-n:]):
            pair = torch.stack([first, V[:n]])
            # Uniform draws and normal ones from the same bits keep their rank or sign relation.
            for values in (pair, pair.abs()):
                assert abs(float(torch.corrcoef(values)[0, 1])) < 5 / n**0.5


@LAYER
def test_a_layer_prints_its_shape(name):
    text = repr(LAYERS[name].build(columns=2))
    assert "n_visible=" in text
    assert "columns=2" in text


@pytest.mark.parametrize("name", [n for n, row in LAYERS.items() if row.tokens is None])
@pytest.mark.parametrize("path", ["factored", "materialised"])
def test_an_input_of_another_width_is_refused(name, path):
    row = LAYERS[name]
    for dictionary in ("DCT", "RandomConnections", "Covariance"):
        bias = {"bias": False} if row.dense in PREDICTED and row.make is None else {}
        layer = row.build(dictionary, path=path, **bias)
        axis = 1 if "in_channels" in row.arguments else -1
        # Twice as wide: as many numbers as a batch of twice as many rows.
        shape = list(row.input_shape)
        shape[axis] *= 2
        with pytest.raises((ValueError, RuntimeError)):
            layer(torch.zeros(shape, dtype=torch.float64), *row.inputs()[1:])


@pytest.mark.parametrize("path", ["factored", "materialised"])
def test_missing_channels_of_a_grouped_convolution_are_refused(path):
    layer = wc.PredictedConv2d(
        8, 8, 3, groups=4, bias=False, dictionary=d.DCT(), fraction=0.5, path=path
    )
    with pytest.raises((ValueError, RuntimeError)):
        layer(torch.zeros(2, 6, 5, 5))


@LAYER
@pytest.mark.parametrize("path", ["factored", "materialised"])
def test_an_empty_batch_stays_empty(name, path):
    row = LAYERS[name]
    layer, dense = row.build(columns=2, path=path), row.build_dense(dtype=torch.float64)
    x = [x[:0] for x in row.inputs()]
    assert layer(*x).shape == dense(*x).shape


def test_one_vector_is_one_row():
    for path in ("factored", "materialised"):
        layer = LAYERS["Linear"].build(columns=3, path=path)
        x = LAYERS["Linear"].example()
        torch.testing.assert_close(layer(x[0]), layer(x)[0])


@pytest.mark.parametrize("name", ["Linear", "Conv2d"])
def test_autocast(name):
    row = LAYERS[name]
    layer = row.build("Kernel", columns=2, dtype=torch.float32)
    x = row.example(torch.float32)
    for path in ("factored", "materialised"):
        layer.path = path
        with torch.autocast("cpu", dtype=torch.bfloat16):
            y = layer(x)
        assert y.dtype == torch.bfloat16
        torch.testing.assert_close(y.float(), layer(x), rtol=0, atol=0.2)


@pytest.mark.parametrize("dtype", [torch.int64, torch.int8, torch.bool, torch.complex64])
@LAYER
def test_a_dtype_that_is_no_float_is_refused(name, dtype):
    with pytest.raises(ValueError, match=str(dtype)):
        LAYERS[name].build(dtype=dtype)


@pytest.mark.parametrize("path", ["factored", "materialised", "auto"])
@pytest.mark.parametrize("groups", [1, 2])
def test_convolutions_and_linear_layers_compile_without_graph_breaks(path, groups):
    dictionary = wc.dictionaries.Kernel(wc.kernels.SquaredExponential(1.0))
    conv = wc.PredictedConv2d(
        4, 6, 3, 1, 1, 1, groups, True, dictionary=dictionary, fraction=0.3, columns=2, path=path
    )
    linear = wc.PredictedLinear(
        16, 6, dictionary=dictionary, fraction=0.3, columns=4, grid=(4, 4), path=path
    )
    for layer, x in ((conv, torch.randn(2, 4, 5, 5)), (linear, torch.randn(3, 16))):
        compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
        torch.testing.assert_close(compiled(x), layer(x))


def test_the_default_device_does_not_disturb_the_building():
    with torch.device("meta"):
        layer = wc.PredictedLinear(16, 4, dictionary=wc.dictionaries.DCT(), fraction=0.5)
        assert layer.V.is_meta
        wc.PredictedLinear(16, 4, dictionary=wc.dictionaries.RandomGaussian(), fraction=0.5)


@pytest.mark.parametrize("columns", [1, 3])
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("mixing", ["ridge", "raw", "orthonormal"])
@pytest.mark.parametrize("selection", ["random", "leading"])
@pytest.mark.parametrize("fraction", [0.03, 0.3])
def test_convolutions_of_several_channels_by_few_atoms_and_by_many(
    selection, mixing, groups, columns, fraction
):
    kernel = d.Kernel(wc.kernels.SquaredExponential(2.0), selection=selection, mixing=mixing)
    layer = wc.PredictedConv2d(
        6, 8, 7, 2, 3, groups=groups, dictionary=kernel, fraction=fraction, columns=columns,
        dtype=torch.float64,
    )  # fmt: skip
    if fraction == 0.03 and columns == 1:
        assert layer.atoms.stacked is not None
    W = torch.cat(
        [
            (U @ layer.V[:, layer.unit_columns == j]).t()
            for j, U in enumerate(layer.atoms.dictionaries())
        ]
    )
    x = torch.randn(2, 6, 9, 10, dtype=torch.float64)
    filters = W.view(8, 6 // groups, 7, 7)
    expected = nn.functional.conv2d(x, filters, layer.bias, 2, 3, groups=groups)
    for path in ("factored", "materialised", "auto"):
        layer.path = path
        torch.testing.assert_close(layer(x), expected)


def test_what_is_kept_does_not_take_on_the_mode_that_it_was_made_in():
    rule = {"dictionary": d.Covariance(), "fraction": 0.125, "columns": 2}
    rule["statistics"] = example_statistics(24)
    x = torch.randn(5, 24)
    layer = wc.PredictedLinear(24, 6, **rule)
    expected, state = layer(x), layer.state_dict()
    with torch.autocast("cpu", torch.bfloat16):
        other = wc.PredictedLinear(24, 6, **rule)
        other.load_state_dict(state)
    assert other.atoms.stacked is not None
    torch.testing.assert_close(other(x), expected)
    with torch.inference_mode():
        other.load_state_dict(state)
    other(x).sum().backward()
    assert other.V.grad is not None


@pytest.mark.parametrize("name", [n for n, row in LAYERS.items() if row.tokens is None])
def test_rows_times_w_is_the_output(name):
    row = LAYERS[name]
    layer, inputs = row.build(columns=2), row.inputs()
    dense = row.build_dense(dtype=torch.float64)
    for one in (layer, dense):
        rows, W = view(one).input_rows(*inputs), view(one).filters()
        assert (W.shape[1], W.shape[0]) == view(one).sizes == (row.n_visible, row.n_units)
        y = one(*inputs)
        groups = row.arguments.get("groups", 1)
        units = W.view(groups, -1, W.shape[1])
        parts = rows.view(len(y), groups, -1, W.shape[1]) if y.dim() > 2 else rows
        if "in_channels" in row.arguments:
            expected = (units @ parts.mT).flatten(1, 2).view(y.shape)
            bias = 0 if one.bias is None else one.bias.view(-1, *[1] * (y.dim() - 2))
        else:
            expected = (rows @ W.t()).view(y.shape)
            bias = 0 if one.bias is None else one.bias
        torch.testing.assert_close(y, expected + bias, rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", [n for n, row in LAYERS.items() if row.tokens is not None])
def test_look_ups_have_no_rows(name):
    row = LAYERS[name]
    with pytest.raises(ValueError, match=r"selects rows and multiplies no inputs.*such as DCT"):
        view(row.build()).input_rows(*row.inputs())


@pytest.mark.parametrize("name", LAYERS)
def test_initial_weights_have_the_dense_layers_variance(name):
    row = LAYERS[name]
    if "padding_idx" in row.arguments or row.make is not None:
        return
    torch.manual_seed(0)
    dense = torch.stack([row.build_dense().weight.detach().flatten() for _ in range(60)])
    drawn = torch.stack(
        [row.build(fraction=1, seed=seed).weight.detach().flatten() for seed in range(60)]
    )
    assert float(drawn.var()) == pytest.approx(float(dense.var()), rel=0.15)


def test_convolutions_are_materialised_on_a_gpu(monkeypatch):
    layer = LAYERS["Conv2d"].build("Kernel", 0.25, columns=2)
    cost = layer._costs["factored"]
    layer._counted = layer._costs | {"factored": dataclasses.replace(cost, per_row=0, planes=0)}
    assert layer.choose_path(10_000) == "factored"
    monkeypatch.setattr(torch.nn.Parameter, "is_cuda", True, raising=False)
    assert layer.choose_path(10_000) == "materialised"
    layer.path = "factored"
    assert layer.choose_path(10_000) == "factored"


def test_a_look_up_does_not_make_the_table():
    layer = wc.PredictedEmbedding(5000, 24, dictionary=d.DCT(), fraction=0.25, columns=3)
    assert layer.choose_path(64) == "factored"
    assert layer.choose_path(10**6) == "materialised"
    tokens = torch.tensor([[0, 1666, 1667], [3333, 3334, 4999]])  # at the borders of the columns
    torch.testing.assert_close(layer(tokens), layer.weight[tokens])


@pytest.mark.parametrize("path", ["factored", "materialised"])
@pytest.mark.parametrize("dictionary", ["DCT", "Kernel", "Kernel-leading", "RandomConnections"])
@pytest.mark.parametrize("scaled", [True, False])
def test_gradients_of_look_ups_are_torchs(dictionary, path, scaled):
    row = LAYERS["Embedding-padding"]
    layer = row.build(dictionary, columns=3, path=path, scale_grad_by_freq=scaled)
    dense = layer.to_dense()
    tokens, factors = torch.tensor([1, 1, 1, 2, 9, 0, 9]), torch.randn(7, 24).double()
    (layer(tokens) * factors).sum().backward()
    (dense(tokens) * factors).sum().backward()
    assert not bool(layer.V.grad[:, 2].any())  # the padding
    for column, U in enumerate(layer.atoms.dictionaries()):
        units = layer.unit_columns == column
        torch.testing.assert_close(layer.V.grad[:, units], U.t() @ dense.weight.grad[units].t())


BAGS = {
    "offsets": ((torch.tensor([1, 2, 4, 5, 4, 3, 2, 9]), torch.tensor([0, 4, 4])), {}),
    "last offset": (
        (torch.tensor([1, 2, 4, 5]), torch.tensor([0, 2, 4])), {"include_last_offset": True},
    ),
    "weights": ((torch.tensor([[1, 2, 4], [4, 3, 9]]), None, torch.randn(2, 3).double()),
                {"mode": "sum"}),
    "padding": ((torch.tensor([[1, 2, 4], [2, 2, 2]]),), {"padding_idx": 2}),
    "negative padding": ((torch.tensor([[1, 2, 4], [8, 8, 2]]),), {"padding_idx": -2}),
    "max": ((torch.tensor([[1, 2, 4], [4, 3, 9]]),), {"mode": "max"}),
}  # fmt: skip


@pytest.mark.parametrize("path", ["factored", "materialised"])
@pytest.mark.parametrize("kind", BAGS)
def test_bags_of_every_kind(kind, path):
    inputs, options = BAGS[kind]
    layer = wc.PredictedEmbeddingBag(
        10, 24, dictionary=d.DCT(), fraction=0.5, columns=3, path=path, dtype=torch.float64,
        **options,
    )  # fmt: skip
    torch.testing.assert_close(layer(*inputs), layer.to_dense()(*inputs))


@pytest.mark.parametrize("path", ["factored", "materialised"])
@pytest.mark.parametrize("size", [(11, 8), (12, 9)])
def test_a_transposed_convolution_takes_an_output_size(path, size):
    layer = wc.PredictedConvTranspose2d(
        2, 4, 3, 2, dictionary=d.DCT(), fraction=0.5, path=path, dtype=torch.float64
    )
    x = torch.randn(1, 2, 5, 4).double()
    size = [11, 9] if size[0] == 11 else [12, 10]
    torch.testing.assert_close(layer(x, size), layer.to_dense()(x, size))
    with pytest.raises(ValueError, match="valid sizes range"):
        layer(x, [20, 20])


def test_arguments_that_torch_refuses():
    rule = {"dictionary": d.DCT(), "fraction": 0.5}
    with pytest.raises(ValueError, match="padding_idx is 10, the table has 10 rows"):
        wc.PredictedEmbedding(10, 4, padding_idx=10, **rule)
    with pytest.raises(ValueError, match="mode is 'median'"):
        wc.PredictedEmbeddingBag(10, 4, mode="median", **rule)
    with pytest.raises(ValueError, match=r"inputs are \(2, 4\) and \(3, 6\)"):
        wc.PredictedBilinear(4, 6, 2, **rule)(torch.zeros(2, 4), torch.zeros(3, 6))


@pytest.mark.parametrize("name", [name for name in LAYERS if not name.startswith("Parameter")])
def test_inputs_have_the_dense_layers_names(name):
    row = LAYERS[name]
    dense, predicted = (inspect.signature(kind.forward) for kind in (row.dense, row.predicted))
    assert list(predicted.parameters) == list(dense.parameters)
