"""Every layer x dtype x mode x what torch does with modules, against the merged dense layer.

The fast suite takes a slice, the rest is marked slow: the whole is a few hundred small cases.
"""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

import weightcast as wc
from tests.contract.table import LAYERS
from weightcast import dictionaries as d
from weightcast.layers import DenseParameter, predicted_layers, view

pytestmark = pytest.mark.filterwarnings("ignore:LSTM with projections is not:UserWarning")

DTYPES = (torch.float32, torch.float64, torch.bfloat16)
TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-4, torch.bfloat16: 0.15}


class Experts(nn.Module):
    """Fused experts, as transformers lays them out; every token goes to two of three."""

    num_experts = 3

    def __init__(self) -> None:
        super().__init__()
        self.gate_up_proj = nn.Parameter(torch.randn(3, 20, 8) * 0.3)
        self.down_proj = nn.Parameter(torch.randn(3, 8, 10) * 0.3)

    def forward(self, x: Tensor) -> Tensor:
        total = torch.zeros_like(x)
        for number, share in ((0, 0.4), (2, 0.6)):
            gate, up = nn.functional.linear(x, self.gate_up_proj[number]).chunk(2, -1)
            total = total + share * nn.functional.linear(gate.tanh() * up, self.down_proj[number])
        return total


def _sequence(*shape: int) -> Callable[[torch.dtype], tuple[Tensor, ...]]:
    def inputs(dtype: torch.dtype) -> tuple[Tensor, ...]:
        x = torch.randn(shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
        return (x.to(dtype),)

    return inputs


def _attention(dtype: torch.dtype) -> tuple[Tensor, ...]:
    return _sequence(2, 5, 8)(dtype) * 3


def _cross(dtype: torch.dtype) -> tuple[Tensor, ...]:
    (x,), (y,) = _sequence(2, 5, 8)(dtype), _sequence(2, 4, 6)(dtype)
    return x, y, y


def _rows() -> dict[str, tuple[Callable[[], nn.Module], Callable[[torch.dtype], Any]]]:
    rows: dict[str, Any] = {
        name: (row.build_dense, row.inputs)
        for name, row in LAYERS.items()
        if row.dense is not DenseParameter  # the modules below hold them
    }
    rows |= {
        "MultiheadAttention": (lambda: nn.MultiheadAttention(8, 2, batch_first=True), _attention),
        "MultiheadAttention-separate": (
            lambda: nn.MultiheadAttention(8, 2, kdim=6, vdim=6, batch_first=True), _cross,
        ),
        "LSTM": (lambda: nn.LSTM(8, 6, 2, bidirectional=True), _sequence(5, 2, 8)),
        "LSTM-projected": (lambda: nn.LSTM(8, 6, proj_size=4), _sequence(5, 2, 8)),
        "GRU": (lambda: nn.GRU(8, 6, batch_first=True), _sequence(2, 5, 8)),
        "RNN": (lambda: nn.RNN(8, 6, 2, nonlinearity="relu"), _sequence(5, 2, 8)),
        "Experts": (Experts, _sequence(7, 8)),
    }  # fmt: skip
    return rows


ROWS = _rows()
RECURRENT = ("LSTM", "LSTM-projected", "GRU", "RNN")
SLICE = (
    "Linear", "Conv2d-groups", "ConvTranspose2d-all", "Embedding-padding", "EmbeddingBag",
    "Bilinear", "MultiheadAttention", "LSTM", "Experts",
)  # fmt: skip
"""What the fast suite takes: one of each kind."""


def _predicted(name: str, dtype: torch.dtype, training: bool, seed: int = 0) -> nn.Module:
    torch.manual_seed(0)
    dense = ROWS[name][0]().to(dtype).train(training)
    return wc.convert(dense, {"*": wc.Rule(d.RandomGaussian("orthonormal"), 0.5, 2)}, seed=seed)


def _outputs(model: Callable[..., Any], inputs: Any) -> list[Tensor]:
    result = model(*inputs)
    found = result if isinstance(result, tuple) else (result,)
    flat = [y for part in found for y in (part if isinstance(part, tuple) else (part,))]
    return [y for y in flat if y is not None]


def _assert_same(one: list[Tensor], two: list[Tensor], dtype: torch.dtype | None = None) -> None:
    assert len(one) == len(two)
    for a, b in zip(one, two, strict=True):
        assert a.dtype == b.dtype
        atol = TOLERANCE[dtype or a.dtype]
        torch.testing.assert_close(a, b, rtol=0, atol=atol)


def _deepcopy(model: nn.Module, inputs: Any, name: str) -> None:
    twin = copy.deepcopy(model)
    for layer in predicted_layers(twin).values():
        layer.V.data.zero_()
    _assert_same(_outputs(copy.deepcopy(model), inputs), _outputs(model, inputs))
    assert all(bool(layer.V.any()) for layer in predicted_layers(model).values())


def _pickle(model: nn.Module, inputs: Any, name: str) -> None:
    _assert_same(_outputs(pickle.loads(pickle.dumps(model)), inputs), _outputs(model, inputs))


def _state_dict(model: nn.Module, inputs: Any, name: str) -> None:
    dtype = next(model.parameters()).dtype
    other = _predicted(name, dtype, model.training, seed=5)
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    other.load_state_dict(torch.load(file, weights_only=True))
    _assert_same(_outputs(other, inputs), _outputs(model, inputs))


def _meta(model: nn.Module, inputs: Any, name: str) -> None:
    dtype = next(model.parameters()).dtype
    dense = ROWS[name][0]().to(dtype).to("meta").train(model.training)
    rule = wc.Rule(d.RandomGaussian("orthonormal"), 0.5, 2)
    other = wc.convert(dense, {"*": rule}).to_empty(device="cpu")
    other.load_state_dict(model.state_dict())
    _assert_same(_outputs(other, inputs), _outputs(model, inputs))


def _compile(model: nn.Module, inputs: Any, name: str) -> None:
    expected = _outputs(model, inputs)
    # torch compiles its own recurrent layers whole with this setting only, and not those that run
    # in oneDNN; what it can do with the dense layer it must do with the predicted one.
    with torch._dynamo.config.patch(allow_rnn=True):
        if name in RECURRENT and (error := _compile_error(wc.merge(model), inputs)) is not None:
            assert type(_compile_error(model, inputs)) is type(error)
            return
        torch._dynamo.reset()
        compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
        _assert_same(_outputs(compiled, inputs), expected)


def _compile_error(model: nn.Module, inputs: Any) -> Exception | None:
    torch._dynamo.reset()
    try:
        torch.compile(model, fullgraph=True, backend="aot_eager")(*inputs)
    except Exception as error:
        return error
    return None


def _autocast(model: nn.Module, inputs: Any, name: str) -> None:
    merged = wc.merge(model)
    expected = _outputs(merged, inputs)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        try:
            dense = _outputs(merged, inputs)
        except RuntimeError:  # oneDNN has no such LSTM for some processors
            with pytest.raises(RuntimeError, match="primitive"):
                model(*inputs)
            return
        found = _outputs(model, inputs)
    assert [y.dtype for y in found] == [y.dtype for y in dense]
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a.double(), b.double(), rtol=0, atol=TOLERANCE[torch.bfloat16])


def _functional_call(model: nn.Module, inputs: Any, name: str) -> None:
    zero = {key: torch.zeros_like(p) for key, p in model.named_parameters() if key.endswith("V")}
    changed = copy.deepcopy(model)
    for layer in predicted_layers(changed).values():
        layer.V.data.zero_()
    before = _outputs(model, inputs)
    _assert_same(
        _outputs(lambda *x: functional_call(model, zero, x), inputs), _outputs(changed, inputs)
    )
    _assert_same(_outputs(model, inputs), before)


def _vmap(model: nn.Module, inputs: Any, name: str) -> None:
    weights = [k for k, p in model.named_parameters() if p.dim() > 1]  # V, or dense ones
    values = {k: p.detach() for k, p in model.named_parameters() if k in weights}
    stacked = {key: torch.stack([V, -0.5 * V]) for key, V in values.items()}

    def run(values: dict[str, Tensor]) -> list[Tensor]:
        return _outputs(lambda *x: functional_call(model, values, x), inputs)

    found = vmap(run)(stacked)
    for i in range(2):
        one = run({key: V[i] for key, V in stacked.items()})
        _assert_same([y[i] for y in found], one)


FEATURES = {
    "deepcopy": _deepcopy,
    "pickle": _pickle,
    "state_dict": _state_dict,
    "meta": _meta,
    "compile": _compile,
    "autocast": _autocast,
    "functional_call": _functional_call,
    "vmap": _vmap,
}

TORCH_CANNOT = {
    (name, "vmap"): "Batching rule not implemented" for name in ROWS if name in RECURRENT
}
"""What torch's own layer cannot do either, with the error that it raises."""


def _cases() -> list[Any]:
    cases = []
    for name in ROWS:
        for feature in FEATURES:
            for dtype in DTYPES:
                for training in (True, False):
                    fast = name in SLICE and dtype == torch.float32 and training
                    fast = fast and (feature != "compile" or name in ("Linear", "Experts"))
                    mark = () if fast else (pytest.mark.slow,)
                    mode = "train" if training else "eval"
                    key = f"{name}-{feature}-{str(dtype).removeprefix('torch.')}-{mode}"
                    cases.append(pytest.param(name, feature, dtype, training, id=key, marks=mark))
    return cases


@pytest.mark.parametrize(("name", "feature", "dtype", "training"), _cases())
@pytest.mark.filterwarnings("ignore:There is a performance drop:UserWarning")  # torch's own vmap
def test_matrix(name, feature, dtype, training):
    model, inputs = _predicted(name, dtype, training), ROWS[name][1](dtype)
    if (message := TORCH_CANNOT.get((name, feature))) is None:
        FEATURES[feature](model, inputs, name)
        return
    for either in (model, wc.merge(model)):
        with pytest.raises(RuntimeError, match=message):
            FEATURES[feature](either, inputs, name)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", ROWS)
def test_a_predicted_module_is_its_merged_one(name, training):
    """Outputs, gradients by way of W = U V, and the way there and back."""
    model, inputs = _predicted(name, torch.float64, training), ROWS[name][1](torch.float64)
    merged = wc.merge(model)
    with torch.no_grad():  # where torch takes its fast path
        _assert_same(_outputs(model, inputs), _outputs(merged, inputs))
    loss = sum(y.square().sum() for y in _outputs(model, inputs))
    dense_loss = sum(y.square().sum() for y in _outputs(merged, inputs))
    layers = predicted_layers(model)
    found = torch.autograd.grad(loss, [layer.V for layer in layers.values()])
    dense = dict(wc.plan.convertible_layers(merged))
    weights = torch.autograd.grad(dense_loss, [dense[name].weight for name in layers])
    for (key, layer), by_V, by_W in zip(layers.items(), found, weights, strict=True):
        rows = view(dense[key]).filters(by_W)
        for column, U in enumerate(layer.atoms.dictionaries()):
            units = layer.unit_columns == column
            torch.testing.assert_close(by_V[:, units], U.t() @ rows[units].t())
        assert layer.fit(dense[key].weight) < 1e-20
    _assert_same(_outputs(model, inputs), _outputs(merged, inputs))
    assert [*merged.state_dict()] == [*ROWS[name][0]().state_dict()]


@pytest.mark.parametrize("name", ROWS)
def test_fraction_one_reproduces_the_dense_module(name):
    dense = ROWS[name][0]().double().eval()
    model = wc.convert(dense, {"*": wc.Rule(d.DCT(), 1.0)})
    weights = wc.plan.convertible_layers(dense)
    for key, layer in predicted_layers(model).items():
        assert layer.fit(weights[key].weight) < 1e-20
    inputs = ROWS[name][1](torch.float64)
    _assert_same(_outputs(model, inputs), _outputs(dense, inputs))


@pytest.mark.parametrize("name", ROWS)
def test_what_is_saved_is_loaded(name, tmp_path):
    model, inputs = _predicted(name, torch.float64, False), ROWS[name][1](torch.float64)
    wc.save(model, tmp_path / "model")
    loaded = wc.load(tmp_path / "model", ROWS[name][0]().double().eval())
    _assert_same(_outputs(loaded, inputs), _outputs(model, inputs))
    assert loaded.state_dict().keys() == model.state_dict().keys()


@pytest.mark.parametrize("name", ROWS)
def test_the_ledger_counts_every_number_once(name):
    model, dense = _predicted(name, torch.float64, True), ROWS[name][0]()
    total, before = wc.ledger(model).total, wc.ledger(dense).total
    assert total.learned == sum(p.numel() for p in model.parameters())
    assert total.dense == before.dense == sum(p.numel() for p in dense.parameters())
    assert total.dense_multiply_adds == before.dense_multiply_adds
