"""compress: V in closed form, layer by layer; compression_report: what each layer lost."""

from __future__ import annotations

import copy
import math
import sys

import pytest
import torch
from torch import nn

import weightcast as wc
from weightcast import dictionaries as d
from weightcast.inputs.moments import Moments

DCT = wc.Rule(d.DCT(), 0.5)


class ReadsItsOwnWay(nn.Module):
    """A network of convolutions with groups, no bias in one layer, in-place activations."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(4, 8, 3, padding=1, groups=2)
        self.conv2 = nn.Conv2d(8, 6, (3, 2), stride=2, bias=False)
        self.unused = nn.Linear(20, 10)
        self.head = nn.Linear(6, 3)

    def forward(self, x):
        x = nn.functional.relu(self.conv1(x), inplace=True)
        x = nn.functional.relu(self.conv2(x), inplace=True)
        return self.head(x.mean(dim=(2, 3)))


def _images(n: int = 60) -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(n, 4, 8, 8, generator=generator)
    return nn.functional.avg_pool2d(x, 3, 1, 1) + 0.3  # smooth, and not of mean 0


def _rows(n: int = 200) -> torch.Tensor:
    generator = torch.Generator().manual_seed(4)
    return torch.randn(n, 5, generator=generator) @ torch.randn(5, 20, generator=generator) + (
        0.1 * torch.randn(n, 20, generator=generator)
    )


def _mlp(bias: bool = True) -> nn.Sequential:
    torch.manual_seed(5)
    return nn.Sequential(
        nn.Linear(20, 16, bias), nn.Tanh(), nn.Linear(16, 12, bias), nn.Tanh(), nn.Linear(12, 4)
    )


PLAN = {"0": wc.Rule(d.DCT(), 0.3, columns=4), "2": wc.Rule(d.RandomConnections(), 0.3, columns=2)}


@pytest.mark.parametrize("inputs", [None, "images"])
def test_with_all_atoms_the_outputs_stay(inputs):
    torch.manual_seed(0)
    model, x = ReadsItsOwnWay(), _images()
    plan = {
        "conv1": wc.Rule(d.DCT(), 1.0, columns=3),
        "conv2": wc.Rule(d.RandomGaussian(), 1.0, columns=2),
        "unused": wc.Rule(d.SingularVectors(), 1.0),
    }
    small = wc.compress(model, plan, x if inputs else None, progress=False)
    torch.testing.assert_close(small(x), model(x), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(small.unused.weight, model.unused.weight, rtol=1e-4, atol=1e-5)


def test_without_inputs_the_weights_are_fitted():
    model = _mlp()
    small = wc.compress(model, PLAN, selection="plan", progress=False)
    by_hand = wc.convert(model, PLAN)
    for name in ("0", "2"):
        by_hand.get_submodule(name).fit(model.get_submodule(name).weight)
        torch.testing.assert_close(small.get_submodule(name).V, by_hand.get_submodule(name).V)
        assert torch.equal(small.get_submodule(name).bias, model.get_submodule(name).bias)


@pytest.mark.parametrize("bias", [True, False])
def test_no_other_v_and_bias_come_nearer_to_the_dense_outputs(bias):
    model, x = _mlp(bias), _rows()
    small = wc.compress(model, PLAN, [x[:90], x[90:]], ridge=1e-9, progress=False).double()
    dense = copy.deepcopy(model).double()
    own, targets = x.double(), x.double()
    for layer, before in zip(small, dense, strict=True):
        targets = before(targets)
        if isinstance(layer, wc.PredictedLinear):
            loss = (layer(own) - targets).square().sum()
            for gradient in torch.autograd.grad(loss, list(layer.parameters())):
                assert gradient.abs().max() < 1e-3 * loss  # single precision of V
        own = layer(own)


@pytest.mark.parametrize("selection", ["plan", "fitted"])
def test_inputs_help_the_outputs_and_choosing_helps_both(selection):
    model, x = _mlp(), _rows()
    plain = wc.compress(model, PLAN, selection=selection, progress=False)
    informed = wc.compress(model, PLAN, x, selection=selection, progress=False)
    lost = [wc.compression_report(model, m, x).rows for m in (plain, informed)]
    for without, with_inputs in zip(*lost, strict=True):
        assert with_inputs.output_error < without.output_error
        if without.weight_error is not None:
            assert without.weight_error < with_inputs.weight_error
    if selection == "fitted":
        drawn = wc.compress(model, PLAN, x, selection="plan", progress=False)
        rows = wc.compression_report(model, drawn, x).rows
        assert lost[1][-1].output_error < rows[-1].output_error


def test_layers_above_mend_what_those_below_lost():
    model, x = _mlp(), _rows()
    errors = {}
    for target in ("dense", "compressed"):
        small = wc.compress(model, PLAN, x, target=target, progress=False)
        errors[target] = wc.compression_report(model, small, x).rows[1].output_error
    assert errors["dense"] < errors["compressed"]


def test_the_mean_output_stays():
    model, x = _mlp(), _rows()
    small = wc.compress(model, PLAN, x, progress=False)
    torch.testing.assert_close(small[0](x).mean(0), model[0](x).mean(0), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(small[:3](x).mean(0), model[:3](x).mean(0), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dictionary", [d.LowRank(), d.SingularVectors()])
def test_atoms_made_from_the_weights_are_the_best_there_are(dictionary):
    model, x = _mlp(), _rows()
    rule = {"0": wc.Rule(dictionary, 0.2)}  # 4 atoms
    W = model[0].weight.detach().double()
    small = wc.compress(model, rule, progress=False)
    spectrum = torch.linalg.svdvals(W).square()
    row = wc.compression_report(model, small).rows[0]
    assert row.weight_error == pytest.approx(float(spectrum[4:].sum() / spectrum.sum()), rel=1e-4)
    assert row.output_error is None
    small = wc.compress(model, rule, x, ridge=1e-9, progress=False)
    spectrum = torch.linalg.svdvals((x.double() - x.double().mean(0)) @ W.t()).square()
    row = wc.compression_report(model, small, x).rows[0]
    # Eckart and Young: no matrix of rank 4 leaves less of x W.
    left = float(spectrum[4:].sum() / spectrum.sum())
    assert row.output_error == pytest.approx(left, rel=1e-3)


def test_singular_vectors_are_known_to_convert_and_files_too(tmp_path):
    model, x = _mlp(), _rows()
    rule = wc.Rule(d.SingularVectors(), 0.1, columns=2)
    for inputs in (None, x):
        small = wc.convert(model, {"0": rule}, inputs=inputs)
        wc.save(small, tmp_path / "small")
        torch.testing.assert_close(wc.load(tmp_path / "small", model)(x), small(x))
    with pytest.raises(ValueError, match=r"made from a dense layer's weights: .* compress"):
        wc.PredictedLinear(20, 16, dictionary=d.SingularVectors(), fraction=0.5)


def test_moments_do_not_depend_on_the_batches():
    generator = torch.Generator().manual_seed(0)
    x, dense_x = (
        torch.randn(30, 2 * 4, generator=generator, dtype=torch.float64) + 3 for _ in range(2)
    )
    for centred in (True, False):
        whole, parts = (Moments(paired=True) for _ in range(2))
        how = {"centred": centred}
        by_group, dense_by_group = x.unflatten(1, (2, 4)), dense_x.unflatten(1, (2, 4))
        whole.update(by_group, dense_by_group)
        for rows in torch.arange(30).split([1, 12, 17]):
            parts.update(by_group[rows], dense_by_group[rows])
        torch.testing.assert_close(
            whole.metric(0.1, **how).moments, parts.metric(0.1, **how).moments
        )
        W = torch.randn(6, 4, generator=generator, dtype=torch.float64)
        targets = [m.target(W, m.metric(0.1, **how), **how) for m in (whole, parts)]
        torch.testing.assert_close(*targets)
        torch.testing.assert_close(whole.bias_shift(W, 2 * W), parts.bias_shift(W, 2 * W))
        # Against the same, written out for the second group.
        first, second = x[:, 4:], dense_x[:, 4:]
        if centred:
            first, second = first - first.mean(0), second - second.mean(0)
        C = first.t() @ first / 30
        ridge = 0.1 * C.diagonal().mean() * torch.eye(4, dtype=torch.float64)
        torch.testing.assert_close(whole.metric(0.1, **how).moments[1], C + ridge)
        D = first.t() @ second / 30
        torch.testing.assert_close(
            targets[0][3:], torch.linalg.solve(C + ridge, (D + ridge) @ W[3:].t()).t()
        )


@pytest.mark.usefixtures("unmoved_randomness")
def test_data_driven_dictionaries_get_their_inputs_and_training_goes_on():
    model, x = _mlp(), _rows()
    plan = {
        "0": wc.Rule(d.Covariance(), 0.3, columns=4),
        "2": wc.Rule(d.KMeans(n_features=12), 0.3),
        "4": wc.Rule(d.Kernel(), 0.3, grid=(3, 4)),
    }
    small = wc.compress(model, plan, [x], progress=False)
    again = wc.compress(model, plan, [x], progress=False)
    for key, tensor in small.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[key]), key
    before = wc.compression_report(model, small, x).rows[-1].output_error
    optimiser = torch.optim.Adam(small.parameters(), 1e-3)
    for _ in range(30):
        optimiser.zero_grad()
        (small(x) - model(x).detach()).square().mean().backward()
        optimiser.step()
    assert wc.compression_report(model, small, x).rows[-1].output_error < before
    torch.testing.assert_close(wc.merge(small)(x), small(x), rtol=1e-4, atol=1e-5)


def test_windows_keep_the_atoms_of_their_own_columns():
    model = nn.Sequential(nn.Linear(24, 8), nn.Linear(8, 2))
    rule = {"0": wc.Rule(d.LocalKernel(), 0.25, columns=4, grid=(4, 6))}
    small = wc.compress(model, rule, progress=False)
    assert torch.equal(small[0].atoms.indices, wc.convert(model, rule)[0].atoms.indices)


def test_a_shared_layer_is_fitted_to_all_its_places():
    torch.manual_seed(0)
    shared = nn.Linear(8, 8)
    model = nn.Sequential(shared, nn.Tanh(), shared, nn.Linear(8, 2))
    small = wc.compress(model, {"0": wc.Rule(d.DCT(), 0.5)}, torch.randn(50, 8), progress=False)
    assert small[0] is small[2]
    assert model[0] is shared


def test_inputs_that_never_vary_leave_the_weights_to_decide():
    model = _mlp()
    small = wc.compress(model, PLAN, torch.zeros(30, 20), progress=False)
    plain = wc.compress(model, PLAN, progress=False)
    torch.testing.assert_close(small[0].V, plain[0].V)


def test_bad_arguments_are_refused(refuses):
    model, x = _mlp(), _rows()
    for options, message in (
        ({"selection": "best"}, "selection is 'best', none of 'fitted', 'plan'"),
        ({"target": "own"}, "target is 'own', none of 'dense', 'compressed'"),
        ({"ridge": 0.0}, r"ridge is 0.0: it must be above 0"),
        ({"ridge": math.inf}, "must be above 0 and finite"),
    ):
        with refuses(model, message):
            wc.compress(model, PLAN, x, progress=False, **options)
    with refuses(model, "layer '0'", "below one atom: use a fraction of at least"):
        wc.compress(model, {"0": wc.Rule(d.DCT(), 0.01)}, x, progress=False)
    with refuses(model, "layer '2'", "Covariance is made from data: pass inputs="):
        wc.compress(model, {"2": wc.Rule(d.Covariance(), 0.5)}, progress=False)


def test_inputs_that_the_model_cannot_take_are_refused(refuses):
    model, x = _mlp(), _rows()
    with refuses(model, r"failed on its inputs \(7, 21\), in module '0'", "Pass batches as"):
        wc.compress(model, PLAN, torch.randn(7, 21), progress=False)
    with refuses(model, "layer '0': 20 of .* input values are NaN or infinite"):
        wc.compress(model, PLAN, [x, x[:1] * math.nan], progress=False)
    with refuses(model, "layer '0': the layer saw 1 input row", "pass more"):
        wc.compress(model, PLAN, x[:1], progress=False)
    with refuses(model, "failed on its inputs of type str"):
        wc.compress(model, PLAN, ["text"], progress=False)


class Moody(nn.Module):
    """Fails in the middle, where a layer that was compressed already gives other values."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(6, 6)
        self.inner = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 2))

    def forward(self, x):
        if x.shape[0] == 3:
            raise RuntimeError("three is too few")
        return self.inner(self.first(x))


def test_a_model_whose_forward_fails_is_named(refuses):
    model = Moody()
    plan = {"first": wc.Rule(d.DCT(), 0.5), "inner.0": wc.Rule(d.DCT(), 0.5)}
    with refuses(model, "in Moody.forward: RuntimeError: three is too few"):
        wc.compress(model, plan, [torch.randn(9, 6), torch.randn(3, 6)], progress=False)
    model.inner[1] = nn.Linear(5, 2)
    with refuses(model, r"\(9, 6\), in module 'inner.1'"):
        wc.compress(model, plan, [torch.randn(9, 6)], progress=False)


def test_reports_print_and_say_what_they_cannot_compare():
    model, x = _mlp(), _rows()
    small = wc.compress(model, PLAN, x, progress=False)
    report = wc.compression_report(model, small, [x])
    text = str(report).splitlines()
    assert " ".join(text[0].split()) == "layer dictionary learned stored weights lost output lost"
    assert [line.split()[0] for line in text[1:]] == ["0", "2", "model"]
    rows = report.to_dict()["layers"]
    assert rows[0]["learned"] == small[0].V.numel() + 16
    assert rows[-1]["learned"] == sum(p.numel() for p in small.parameters())
    with pytest.raises(ValueError, match="no predicted layer"):
        wc.compression_report(model, model)
    with pytest.raises(ValueError, match=r"layer '0' is a PredictedLinear, and the dense"):
        wc.compression_report(small, small)


def test_progress_is_shown_on_stderr(capsys):
    wc.compress(_mlp(), PLAN)
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(":")[0] for line in lines] == ["compressing 0", "compressing 2"]
    assert "of its weights left" in lines[0]


def test_modules_that_read_their_weights_themselves_are_taken_apart():
    torch.manual_seed(0)
    attention = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
    model = nn.ModuleDict({"body": attention, "lstm": nn.LSTM(16, 8, batch_first=True)})

    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.parts = model

        def forward(self, x):
            return self.parts["lstm"](self.parts["body"](x))[0]

    network, x = Network().eval(), torch.randn(30, 5, 16)
    plan = {"*": wc.Rule(d.DCT(), 1.0)}
    small = wc.compress(network, plan, x, progress=False)
    torch.testing.assert_close(small(x), network(x), rtol=1e-4, atol=1e-5)
    rows = wc.compression_report(network, small, x).rows
    assert {"parts.body.self_attn.in_proj", "parts.lstm.hh_l0"} < {row.layer for row in rows}
    assert all(row.weight_error < 1e-9 for row in rows[:-1])
    assert all(row.output_error < 1e-9 for row in rows)
    probed = wc.probe(network, (0.25,), inputs=x, progress=False)
    assert {row.layer for row in probed.rows} == {row.layer for row in rows[:-1]}
    assert all(row.output_r2 is not None for row in probed.rows)
    assert type(network.parts["lstm"]) is nn.LSTM


def test_layers_of_one_weight_stay_tied():
    torch.manual_seed(0)

    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.head = nn.Embedding(30, 16), nn.Linear(16, 30, bias=False)
            self.head.weight = self.table.weight

        def forward(self, tokens):
            return self.head(torch.tanh(self.table(tokens)))

    model, tokens = Tied(), torch.randint(30, (40, 6))
    small = wc.compress(model, {"*": wc.Rule(d.DCT(), 0.5)}, tokens, progress=False)
    assert small.table.V is small.head.V
    with pytest.raises(ValueError, match="no layer"):
        wc.suggest(model, 0.3)


def test_a_layer_without_a_class_of_its_own_in_torch_is_reported():
    transformers = pytest.importorskip("transformers.pytorch_utils")
    torch.manual_seed(0)
    model, x = nn.Sequential(transformers.Conv1D(7, 20)), _rows()
    small = wc.compress(model, {"0": wc.Rule(d.DCT(), 0.3)}, x, progress=False)
    assert 0 < wc.compression_report(model, small, x).rows[0].output_error < 1


def test_an_output_that_does_not_vary_has_no_error():
    model, x = _mlp(), torch.ones(30, 20)
    small = wc.compress(model, PLAN, x, progress=False)
    report = wc.compression_report(model, small, x)
    assert [row.output_error for row in report.rows] == [None, None, None]
    assert str(report).splitlines()[-1].split()[-1] == "-"


class Tied(nn.Module):
    """A language model whose head is the table, and whose table's rows are far from isotropic."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table, self.head = nn.Embedding(60, 32), nn.Linear(32, 60, bias=False)
        self.hidden = nn.Sequential(nn.Linear(32, 64), nn.Tanh(), nn.Linear(64, 32))
        self.table.weight.data *= torch.logspace(0, -2, 32)
        self.head.weight = self.table.weight

    def forward(self, tokens):
        x = self.table(tokens)
        return self.head(x + self.hidden(x))


@pytest.mark.parametrize("dictionary", [d.DCT(), d.LowRank(), d.SingularVectors()])
def test_inputs_help_a_network_with_a_tied_table(dictionary):
    model, tokens = Tied(), torch.randint(60, (40, 6), generator=torch.Generator().manual_seed(1))
    plan = {"*": wc.Rule(d.DCT(), 0.5), "table": wc.Rule(dictionary, 0.5)}
    plain = wc.compress(model, plan, progress=False)
    informed = wc.compress(model, plan, tokens, progress=False)
    torch.testing.assert_close(informed.table.weight, plain.table.weight)
    assert informed.table.V is informed.head.V
    lost = [wc.compression_report(model, m, tokens).rows[-1] for m in (plain, informed)]
    assert lost[1].output_error < lost[0].output_error


def test_a_tied_table_takes_atoms_made_from_its_heads_inputs():
    model, tokens = Tied(), torch.randint(60, (40, 6), generator=torch.Generator().manual_seed(1))
    rule = wc.Rule(d.Covariance(selection="leading", mixing="orthonormal"), 0.5)
    small = wc.compress(model, {"table": rule}, tokens, selection="plan", progress=False)
    by_hand = wc.convert(model, {"head": rule}, tokens, warn_pretrained=False)
    by_hand.head.fit(model.head.weight)
    torch.testing.assert_close(small.table.weight, by_hand.head.weight)


class Padded(nn.Module):
    """A transformer on sequences of different lengths, which torch would run on nested tensors."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        layer = nn.TransformerEncoderLayer(32, 2, 64, batch_first=True)
        self.encoder, self.head = nn.TransformerEncoder(layer, 2), nn.Linear(32, 5)

    def forward(self, x, padding):
        return self.head(self.encoder(x, src_key_padding_mask=padding))


def test_padded_sequences_are_taken():
    model = Padded().eval()
    lengths = 1 + torch.arange(20).view(20, 1) % 6
    batch = {"x": torch.randn(20, 6, 32), "padding": torch.arange(6) >= lengths}
    plan = wc.suggest(model, 0.3, [batch])
    parts = ("self_attn.in_proj", "self_attn.out_proj", "linear1", "linear2")
    names = [f"encoder.layers.{number}.{part}" for number in (0, 1) for part in parts]
    assert list(plan.rules) == [*names, "*"]
    small = wc.compress(model, plan, [batch], progress=False)
    report = wc.compression_report(model, small, [batch])
    assert all(0 < row.output_error < 1 for row in report.rows)
    probed = wc.probe(model, (0.25,), inputs=[batch], progress=False)
    assert all(row.output_r2 is not None for row in probed.rows)
    assert torch.backends.mha.get_fastpath_enabled()


@pytest.mark.parametrize("dictionary", [d.DCT(), d.SingularVectors(), d.LowRank()])
@pytest.mark.parametrize("inputs", [None, "rows"])
def test_weights_that_are_not_finite_are_refused(dictionary, inputs):
    model, x = _mlp(), _rows()
    plan = {"4": wc.Rule(dictionary, 0.5)}
    with torch.no_grad():
        model[4].weight[1, 2:4] = math.nan
    with pytest.raises(ValueError, match=r"layer '4': 2 of its 48 weights are NaN .* leave the"):
        wc.compress(model, plan, x if inputs else None, progress=False)
    with pytest.raises(ValueError, match=r"2 of its 48 weights are NaN .* leave the layer out"):
        wc.probe(model, progress=False)


class CrossAttention(nn.Module):
    """Queries from the first five places, keys and values from the others."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.attention = nn.MultiheadAttention(16, 2, batch_first=True).double()

    def forward(self, x):
        query, memory = x[:, :5], x[:, 5:]
        return self.attention(query, memory, memory)[0]


@pytest.mark.parametrize("n_keys", [5, 10, 2])
def test_queries_and_keys_are_fitted_each_to_its_own_inputs(n_keys):
    model, generator = CrossAttention(), torch.Generator().manual_seed(0)
    a = torch.randn(80, 5, 8, generator=generator).double()
    b = torch.randn(80, n_keys, 8, generator=generator).double()
    x = torch.cat([torch.cat([a, a], 2), torch.cat([b, -b], 2)], 1)
    rule = wc.Rule(d.RandomConnections(), 0.5)
    small = wc.compress(model, {"attention.in_proj": rule}, x, ridge=1e-9, progress=False)
    layer = small.attention.in_proj
    U = layer.atoms.dictionary(0)
    parts = zip(model.attention.in_proj_weight.chunk(3), layer.weight.chunk(3), strict=True)
    for (W, found), rows in zip(parts, (x[:, :5], x[:, 5:], x[:, 5:]), strict=True):
        rows = rows.flatten(0, 1)
        y = rows @ W.t()
        best = rows @ U @ torch.linalg.lstsq(rows @ U, y, driver="gelsd").solution
        left, least = ((rows @ found.t() - y).square().sum(), (best - y).square().sum())
        assert left <= least + 1e-6 * y.square().sum()
    report = wc.compression_report(model, small, x)
    errors = {row.layer: row.output_error for row in report.rows}
    assert errors["attention.in_proj"] < 1e-6
    assert errors["model"] < 1e-6
    (probed,) = (
        row
        for row in wc.probe(
            model, (0.5,), [d.RandomConnections()], inputs=x, layers=["attention.in_proj"],
            progress=False,
        ).rows
        if row.dictionary == "RandomConnections"
    )  # fmt: skip
    assert probed.output_r2 is not None


class TiedWithPadding(nn.Module):
    """A language model whose embedding has a padding, the head's row of which is learned."""

    def __init__(self, tables: int = 1) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.emb = nn.Embedding(30, 16, padding_idx=0)
        self.lin, self.head = nn.Linear(16, 16), nn.Linear(16, 30, bias=False)
        self.head.weight = self.emb.weight
        if tables == 2:
            self.other = nn.Embedding(30, 16)
            self.other.weight = self.emb.weight
        with torch.no_grad():
            self.emb.weight[0] = torch.randn(16)

    def forward(self, x):
        y = self.emb(x) + (self.other(x) if hasattr(self, "other") else 0)
        return self.head(torch.relu(self.lin(y)))


@pytest.mark.parametrize("tables", [1, 2])
@pytest.mark.parametrize("given", [True, False])
@pytest.mark.parametrize("key", ["*", "emb", "head"])
def test_the_row_of_a_padding_that_a_tied_head_has_learned_is_kept(tables, given, key, tmp_path):
    model, x = TiedWithPadding(tables), torch.arange(60).view(20, 3) % 30
    rule = wc.Rule(d.DCT(), 1.0)
    small = wc.compress(model, {key: rule}, x if given else None, progress=False)
    torch.testing.assert_close(small.emb.weight, model.emb.weight, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(small(x), model(x), atol=1e-4, rtol=1e-4)
    wc.save(small, tmp_path / "small")
    torch.testing.assert_close(wc.load(tmp_path / "small", TiedWithPadding(tables))(x), small(x))
    drawn = wc.convert(model, {key: rule})  # there it starts as torch starts it
    assert not drawn.head.weight[0].any()


def test_what_has_no_values_is_refused_by_name(tmp_path):
    model, rule = nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 8)).to("meta"), {"0": DCT}
    converted = wc.convert(model, rule)
    refused = {
        "0.weight": (
            lambda: wc.compress(model, rule, progress=False),
            lambda: wc.compress(model, rule, torch.randn(9, 64), progress=False),
            lambda: wc.probe(model, progress=False),
            lambda: wc.suggest(model, budget=0.6, progress=False),
            lambda: wc.compression_report(model, converted),
        ),
        "0.V": (
            lambda: wc.verify(converted, torch.randn(9, 64)),
            lambda: wc.save(converted, tmp_path / "saved"),
        ),
    }
    for name, calls in refused.items():
        for call in calls:
            with pytest.raises(ValueError, match=f"'{name}' is on the meta device .*load_state"):
                call()


def test_a_dense_network_of_another_width_is_named():
    model, other = nn.Sequential(nn.Linear(12, 20)), nn.Sequential(nn.Linear(12, 21))
    small = wc.compress(model, {"0": DCT}, progress=False)
    with pytest.raises(ValueError, match=r"layer '0': W is \(21, 12\)"):
        wc.compression_report(other, small)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"plan": {0: None}}, "key 0 of a plan is no layer's name"),
        ({"plan": None}, "plan is None and budget None: give one of the two"),
        ({"plan": "*"}, r"a plan is '\*': give rules"),
        ({"inputs": 5}, "inputs is 5: pass a batch of example inputs"),
        ({"ridge": "a"}, "ridge is 'a': it must be a number"),
    ],
)
def test_arguments_of_another_kind_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        wc.compress(_mlp(), **({"plan": {"4": DCT}, "progress": False} | arguments))


def test_a_layer_that_is_called_twice_takes_up_the_mean_once():
    torch.manual_seed(0)
    layer, x = nn.Linear(12, 12), torch.randn(500, 12) + 1
    model = nn.Sequential(layer, nn.ReLU(), layer)
    small = wc.compress(model, {"*": wc.Rule(d.DCT(), 0.5)}, [x], progress=False)
    assert small[0] is small[2]
    assert not torch.allclose(small[0].bias, layer.bias, atol=1e-3)


def test_a_bias_that_two_layers_have_stays_one_and_takes_up_no_mean():
    one, two = nn.Linear(12, 12), nn.Linear(12, 12)
    two.bias = one.bias
    x = _rows()[:, :12] + 1
    model = nn.Sequential(one, nn.ReLU(), two).to(x)
    small = wc.compress(model, {"*": wc.Rule(d.DCT(), 0.5)}, [x], progress=False)
    assert small[0].bias is small[2].bias
    assert torch.equal(small[0].bias, one.bias)


def test_a_module_that_is_no_layer_keeps_the_bias_it_holds():
    layer, x = nn.Linear(12, 12), torch.randn(500, 12) + 1
    model = nn.Sequential(layer, nn.ReLU())
    model[1].register_parameter("also", layer.bias)
    small = wc.compress(model, {"*": wc.Rule(d.DCT(), 0.5)}, [x], progress=False)
    assert torch.equal(small[1].also, layer.bias)
    assert small[0].bias is not small[1].also


def test_sparse_atoms_are_chosen_for_what_the_layer_is_given():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(20, 32), nn.ReLU(), nn.Linear(32, 6))
    x = torch.randn(400, 20) @ torch.diag(torch.arange(20, 0, -1) / 10)
    losses = {}
    for name, dictionary, fraction in (
        ("sparse", d.SparseAtoms(), 0.5),
        ("singular", d.SingularVectors(), 0.2),  # 0.2 (20 + 32) numbers of 20 * 32 are a half too
    ):
        rule = wc.Rule(dictionary, fraction)
        small = wc.compress(model, {"0": rule, "2": rule}, x, progress=False)
        losses[name] = (small(x) - model(x)).square().mean().item()
    assert losses["sparse"] < 0.5 * losses["singular"]
    alone = wc.compress(model, {"0": wc.Rule(d.SparseAtoms(), 0.5)}, progress=False)
    kept = alone[0].weight != 0
    assert bool((kept.sum(dim=1) == 10).all())
    torch.testing.assert_close(alone[0].weight[kept], model[0].weight[kept])


@pytest.mark.parametrize("plan", [{"0": wc.Rule(d.SparseAtoms(), 0.5)}, None])
def test_a_layer_of_too_many_inputs_is_fitted_to_its_weights(monkeypatch, plan):
    # Of 65,536 inputs the second moments would take 32 GiB.
    for module in ("transform.compress", "plan.suggest", "plan.budget"):
        monkeypatch.setattr(sys.modules[f"weightcast.{module}"], "MOST_INPUTS", 79)
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(80, 40), nn.ReLU(), nn.Linear(40, 30), nn.ReLU(), nn.Linear(30, 2)
    )
    seen = []
    real = Moments.update

    def update(self, x, dense_x=None):
        seen.append(x.shape[-1])
        real(self, x, dense_x)

    monkeypatch.setattr(Moments, "update", update)
    budget = None if plan else 0.6
    small = wc.compress(model, plan, [torch.randn(50, 80)], budget=budget, progress=False)
    assert 80 not in seen
    assert bool(seen) == (plan is None)  # the other layer's
    layer = small.get_submodule("0")
    W = model[0].weight.detach()
    kept = layer.weight != 0
    torch.testing.assert_close(layer.weight[kept], W[kept])
