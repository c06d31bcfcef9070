"""Every layer x what takes a network apart into a graph, called by its own name, with any batch.

Nothing here calls weightcast but to make the network: these are torch's own exporters and tracers.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.export import Dim

import weightcast as wc
from tests.contract.test_matrix import ROWS, SLICE
from weightcast import dictionaries as d
from weightcast.layers import predicted_layers, view

pytestmark = [
    pytest.mark.filterwarnings("ignore:LSTM with projections is not:UserWarning"),
    pytest.mark.filterwarnings("ignore:The tensor attribute:UserWarning"),  # recurrent layers' list
    # A split module lends its weights for the time of a call, and takes them back.
    pytest.mark.filterwarnings("ignore:While compiling, we found certain side:UserWarning"),
    pytest.mark.filterwarnings("ignore:.*is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:_check_is_size will be removed:FutureWarning"),
    pytest.mark.filterwarnings("ignore:# The axis name. batch will not:UserWarning"),
    pytest.mark.filterwarnings("ignore:.*is deprecated:DeprecationWarning"),
]

BATCHES = (2, 3, 5, 40, 1)
"""For the layers below the cheaper path, and the cheaper way to mix, differ among these."""

DICTIONARIES = {"DCT": d.DCT(), "mixed": d.Kernel(wc.kernels.SquaredExponential(1.0))}

Traced = Callable[..., Any]


class Network(nn.Module):
    """A layer in a network of one argument; below, of two and of three."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Any:
        return self.layer(x)


class NetworkOfTwo(Network):
    def forward(self, x: Tensor, y: Tensor) -> Any:
        return self.layer(x, y)


class NetworkOfThree(Network):
    def forward(self, x: Tensor, y: Tensor, z: Tensor) -> Any:
        return self.layer(x, y, z)


def network(name: str, dictionary: str) -> Network:
    torch.manual_seed(0)
    dense, chosen, plan = ROWS[name][0]().eval(), DICTIONARIES[dictionary], {}
    for key, layer in wc.plan.convertible_layers(dense).items():
        grid = None if view(layer).grid else (view(layer).sizes[0],)
        plan[key] = wc.Rule(chosen, 0.5, columns=3, grid=grid)
    kind = {1: Network, 2: NetworkOfTwo, 3: NetworkOfThree}[len(inputs_of(name, 1))]
    model = kind(wc.convert(dense, plan))
    mixed = [layer.atoms.pending_mixing is not None for layer in predicted_layers(model).values()]
    assert all(mixed) if dictionary == "mixed" else not any(mixed)
    return model.eval()


def inputs_of(name: str, batch: int) -> tuple[Tensor, ...]:
    axis = batch_axis(name)
    inputs = ROWS[name][1](torch.float32)
    return tuple(x.index_select(axis, torch.arange(batch) % x.shape[axis]) for x in inputs)


def batch_axis(name: str) -> int:
    return 1 if name in ("LSTM", "LSTM-projected", "RNN") else 0  # time first


def shapes(name: str, dim: Any) -> dict[str, Any]:
    free = [{batch_axis(name): dim} for _ in inputs_of(name, 1)]
    return {"dynamic_shapes": dict(zip(("x", "y", "z"), free, strict=False))}


def flat(result: Any) -> list[Tensor]:
    parts = result if isinstance(result, tuple | list) else [result]
    return [y for part in parts for y in (flat(part) if isinstance(part, tuple) else [part])]


def _export(dim: Any, strict: bool = False) -> Callable[[Network, str], Traced]:
    def trace(model: Network, name: str) -> Traced:
        inputs = inputs_of(name, 5)
        program = torch.export.export(model, inputs, strict=strict, **shapes(name, dim))
        return program.module()

    return trace


def _fx(model: Network, name: str) -> Traced:
    traced = torch.fx.symbolic_trace(model)
    calls = [node.op for node in traced.graph.nodes if node.op not in ("placeholder", "output")]
    assert calls == ["call_module"]
    return traced


def _onnx(model: Network, name: str) -> Traced:
    pytest.importorskip("onnxscript")
    runtime = pytest.importorskip("onnxruntime")
    file = io.BytesIO()
    options = shapes(name, Dim("batch")) | {"dynamo": True, "verbose": False}
    torch.onnx.export(model, inputs_of(name, 5), file, **options)
    session = runtime.InferenceSession(file.getvalue(), providers=["CPUExecutionProvider"])
    names = [node.name for node in session.get_inputs()]

    def run(*inputs: Tensor) -> list[Tensor]:
        feed = {key: x.numpy() for key, x in zip(names, inputs, strict=True)}
        return [torch.from_numpy(y) for y in session.run(None, feed)]

    return run


def _inductor(model: Network, name: str) -> Traced:
    """AOTInductor: a compiled library, which needs a C++ compiler."""
    from torch._inductor import aoti_compile_and_package, aoti_load_package
    from torch._inductor.cpp_builder import get_cpp_compiler

    try:
        get_cpp_compiler()
    except Exception as error:
        pytest.skip(f"no C++ compiler: {error}")
    program = torch.export.export(model, inputs_of(name, 5), **shapes(name, Dim("batch")))
    return aoti_load_package(aoti_compile_and_package(program))


def _compile(model: Network, name: str) -> Traced:
    torch._dynamo.reset()
    return torch.compile(model, dynamic=True, fullgraph=True, backend="aot_eager")


TOOLS = {
    "export": _export(Dim("batch")),
    "export-auto": _export(Dim.AUTO),
    "export-strict": _export(Dim.DYNAMIC, strict=True),
    "fx": _fx,
    "onnx": _onnx,
    "aoti": _inductor,
    "compile": _compile,
}


TORCH_CANNOT = {("LSTM-projected", "onnx"): "Input initial_c must have shape"}
"""What torch's own layer cannot do either, with onnxruntime's words."""


def _cases() -> list[Any]:
    cases = []
    for name in ROWS:
        for tool in TOOLS:
            if tool == "aoti" and name not in SLICE:  # a minute each, after the same torch.export
                continue
            fast = name in SLICE and tool in ("export-auto", "fx")
            fast = fast or (name == "Linear" and tool != "aoti")
            mark = () if fast else (pytest.mark.slow,)
            cases.append(pytest.param(name, tool, id=f"{name}-{tool}", marks=mark))
    return cases


@pytest.mark.parametrize("dictionary", DICTIONARIES)
@pytest.mark.parametrize(("name", "tool"), _cases())
@torch.no_grad()
def test_a_graph_computes_what_the_layer_computes_for_any_batch(name, tool, dictionary):
    model = network(name, dictionary)
    if message := TORCH_CANNOT.get((name, tool)):
        for either in (model, wc.merge(model)):
            run = TOOLS[tool](either, name)
            with pytest.raises(Exception, match=message):
                run(*inputs_of(name, 5))
        return
    with torch._dynamo.config.patch(allow_rnn=True):
        traced = TOOLS[tool](model, name)
        for batch in BATCHES:
            inputs = inputs_of(name, batch)
            for one, two in zip(flat(traced(*inputs)), flat(model(*inputs)), strict=True):
                torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dictionary", DICTIONARIES)
@torch.no_grad()
def test_a_network_is_compiled_once_for_all_batches(dictionary):
    """In the second call, too, whatever was counted in the first."""
    layers = [network(name, dictionary).layer for name in ("Linear", "Bilinear", "Experts")]
    linear, bilinear, experts = layers
    for model, inputs in (
        (linear, lambda batch: inputs_of("Linear", batch)),
        (bilinear, lambda batch: inputs_of("Bilinear", batch)),
        (experts, lambda batch: inputs_of("Experts", batch)),
    ):
        graphs = []

        def backend(graph, _, graphs=graphs):
            graphs.append(graph)
            return graph

        torch._dynamo.reset()
        compiled = torch.compile(model, dynamic=True, fullgraph=True, backend=backend)
        for batch in (2, 3, 17, 400):  # two columns and three, and both paths
            x = inputs(batch)
            torch.testing.assert_close(compiled(*x), model(*x), rtol=1e-4, atol=1e-5)
        assert len(graphs) == 1


def test_a_compiled_layer_follows_its_remade_dictionary():
    model = network("Linear", "mixed")
    torch._dynamo.reset()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    (x,) = inputs_of("Linear", 5)
    compiled(x)
    model.layer.remake(seed=5)
    torch.testing.assert_close(compiled(x), model(x))
    model.double()
    torch.testing.assert_close(compiled(x.double()), model(x.double()))


def test_a_fixed_batch_is_compiled_along_its_own_path():
    """Few rows along the factored one; many, for which W is cheaper, by a product with W."""
    layer = wc.PredictedLinear(24, 7, dictionary=d.RandomGaussian(), fraction=0.5, columns=3)
    for batch, n_products in ((2, 0), (400, 1)):
        graphs = []
        torch._dynamo.reset()
        backend = lambda graph, _, graphs=graphs: graphs.append(graph) or graph  # noqa: E731
        torch.compile(layer, dynamic=False, backend=backend)(torch.randn(batch, 24))
        assert layer.choose_path(batch) == ("factored" if batch == 2 else "materialised")
        called = [node.target for node in graphs[0].graph.nodes]
        assert called.count(torch._C._nn.linear) == n_products


def test_a_range_of_batches_decides_the_path_where_it_can():
    layer = wc.PredictedLinear(24, 7, dictionary=d.RandomGaussian(), fraction=0.5, columns=3)
    x, products = torch.randn(500, 24), []
    for smallest in (2, 400):
        batch = Dim("batch", min=smallest)
        program = torch.export.export(layer, (x,), dynamic_shapes=({0: batch},))
        products.append([n.name for n in program.graph.nodes if n.name.startswith("linear")])
    assert [len(found) for found in products] == [0, 1]
