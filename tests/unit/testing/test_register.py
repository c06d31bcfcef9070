"""register_layer: what is registered goes all roads, and what must not be is refused."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch import nn

import weightcast as wc
from weightcast.layers import PREDICTED, View, find_view
from weightcast.plan.eligibility import kinds

DCT = wc.Rule(wc.dictionaries.DCT(), 0.25, columns=2)


class GraphConv(nn.Module):
    """y = A (x W) + b, the weight held as W."""

    def __init__(self, n_in, n_out, device=None, dtype=None) -> None:
        super().__init__()
        self.n_in, self.n_out = n_in, n_out
        self.weight = nn.Parameter(torch.empty(n_in, n_out, device=device, dtype=dtype))
        self.bias = nn.Parameter(torch.zeros(n_out, device=device, dtype=dtype))
        nn.init.normal_(self.weight, std=n_in**-0.5)

    def forward(self, x, adjacency):
        return adjacency @ (x @ self.weight) + self.bias


class GraphConvView(View[GraphConv]):
    size_arguments = ("n_in", "n_out")
    bias_argument = False

    def to_filters(self, weight):
        return weight.t()

    def to_weight(self, filters):
        return filters.t()


class PredictedGraphConv(wc.PredictedLayer):
    dense_class, view_class = GraphConv, GraphConvView

    def __init__(self, n_in, n_out, **options) -> None:
        super().__init__(n_in, n_out, bias=True, variance=1 / n_in, **options)
        self.n_in, self.n_out = n_in, n_out

    def forward(self, x, adjacency):
        return adjacency @ super().forward(x, None) + self.bias


class Forgetful(PredictedGraphConv):
    """Does not use the graph."""

    def forward(self, x, adjacency):
        return wc.PredictedLayer.forward(self, x, self.bias)


class Graph(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.head = GraphConv(32, 64), GraphConv(64, 8), nn.Linear(8, 4)

    def forward(self, x, adjacency):
        return self.head(self.two(self.one(x, adjacency).relu(), adjacency))


@pytest.fixture
def registry():
    """The table of layers, given back as it was."""
    before = dict(PREDICTED)
    yield PREDICTED
    PREDICTED.clear()
    PREDICTED.update(before)


@pytest.fixture
def example():
    torch.manual_seed(0)
    return {"dense": GraphConv(6, 9), "inputs": [torch.randn(5, 6), torch.rand(5, 5)]}


@pytest.fixture
def nodes():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(20, 32, generator=generator)
    return {"x": x, "adjacency": torch.rand(20, 20, generator=generator) / 20}


def test_a_registered_layer_goes_all_roads(registry, example, nodes, tmp_path):
    assert wc.register_layer(PredictedGraphConv, **example) is PredictedGraphConv
    assert "GraphConv" in kinds()
    dense = Graph()
    explained = str(wc.Plan({"*": DCT}).explain(dense))
    assert "GraphConv" in explained
    assert "stays" not in explained.replace("why it stays dense", "")
    model = wc.convert(dense, {"*": DCT}, seed=1)
    assert [type(layer) for layer in (model.one, model.two)] == 2 * [PredictedGraphConv]
    assert model.one.V.shape == (8, 64)
    assert all(row.learns for row in wc.verify(model, [nodes]))
    driven = wc.Rule(wc.dictionaries.Covariance(), 0.5)
    whole = wc.compress(dense, {"two": driven, "one": wc.Rule(DCT.dictionary, 1.0)}, [nodes])
    torch.testing.assert_close(whole.one(**nodes), dense.one(**nodes), atol=1e-3, rtol=1e-3)
    assert wc.suggest(dense, 0.25, progress=False).rules["one"] is not None
    wc.save(model, tmp_path / "model")
    loaded = wc.load(tmp_path / "model", Graph())
    assert torch.equal(loaded(**nodes), model(**nodes))
    merged = wc.merge(loaded)
    assert type(merged.one) is GraphConv
    torch.testing.assert_close(merged(**nodes), model(**nodes))


def test_a_folder_loads_only_where_its_layers_are_registered(registry, example, nodes, tmp_path):
    assert find_view(GraphConv(3, 4)) is None
    wc.register_layer(PredictedGraphConv, **example)
    wc.save(wc.convert(Graph(), {"one": DCT}), tmp_path / "model")
    del registry[GraphConv]
    why = "no dense layer 'one', nor a type 'PredictedGraphConv': import the module that registers"
    with pytest.raises(wc.FormatError, match=why):
        wc.load(tmp_path / "model", Graph())
    wc.save(wc.convert(nn.ModuleDict({"one": nn.Linear(32, 32)}), {"*": DCT}), tmp_path / "b")
    with pytest.raises(wc.FormatError, match="no dense layer 'one'") as raised:
        wc.load(tmp_path / "b", Graph())
    assert "registers" not in str(raised.value)
    with pytest.raises(ValueError, match=r"uses weight .*, unless weightcast\.register_layer says"):
        wc.convert(Graph(), {"one": DCT})


def test_a_decorator_registers_a_class_at_the_top_of_a_module(tmp_path):
    # In a fresh interpreter, in which the name is not there before the class is made.
    (tmp_path / "graphs.py").write_text(
        "import torch, weightcast as wc\n"
        "from tests.unit.testing.test_register import GraphConv, GraphConvView\n"
        "from tests.unit.testing.test_register import PredictedGraphConv as Base\n"
        "@wc.register_layer(dense=GraphConv(6, 9), inputs=[torch.randn(5, 6), torch.rand(5, 5)])\n"
        "class PredictedGraphConv(Base):\n"
        "    pass\n"
        "assert type(wc.convert(GraphConv(8, 8), {'': wc.Rule(wc.dictionaries.DCT(), 0.5)}))"
        " is PredictedGraphConv\n"
    )
    root = __file__.rpartition("/tests/")[0]
    code = f"import sys; sys.path[:0] = [{str(tmp_path)!r}, {root!r}]; import graphs"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_what_cannot_be_registered(registry, example):
    class Local(PredictedGraphConv):
        pass

    before = dict(registry)
    bad = {
        "GraphConv has dense_class None: set it to the class that it replaces": GraphConv,
        "Nameless has dense_class None": Nameless,
        "Viewless is not registered: check_layer": Viewless,
        "Local is not registered: check_layer.Local.: it copies, pickles": Local,
        "Linear is predicted by PredictedLinear already: give Twice a dense_class of": Twice,
        "Forgetful is not registered: check_layer.Forgetful.: it computes what": Forgetful,
        "layer_class is .*Stranger.*, no subclass of PredictedLayer": Stranger,
    }
    for message, layer in bad.items():
        with pytest.raises(ValueError, match=message):
            wc.register_layer(layer, **example)
    assert dict(registry) == before
    wc.register_layer(PredictedGraphConv, **example)
    with pytest.raises(ValueError, match=r"predicted by PredictedGraphConv already.* each once"):
        wc.register_layer(PredictedGraphConv, **example)


class Nameless(wc.PredictedLayer):
    pass


class Viewless(PredictedGraphConv):
    view_class = GraphConv


class Twice(wc.PredictedLinear):
    pass


class Stranger(nn.Module):
    dense_class = GraphConv
