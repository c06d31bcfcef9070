"""The benchmark's parts: cases, plans, counts, tables, memory, what is measured and kept."""

import json

import pytest
import torch
from torch import nn

from weightcast.grid import Grid
from weightcast.layers import predicted_layers
from weightcast.transform.convert import merge
from weightcast_lab.bench import run as run_module
from weightcast_lab.bench.bench_presets import PRESETS, BenchGrid
from weightcast_lab.bench.block import BenchBlock
from weightcast_lab.bench.cases import cases, find_case
from weightcast_lab.bench.contenders import (
    PREDICTED,
    Contender,
    build,
    example_inputs,
    force_path,
)
from weightcast_lab.bench.counts import count
from weightcast_lab.bench.memory import can_measure, main, peak_mebibytes
from weightcast_lab.bench.protocol import Protocol, forward_pass, training_step
from weightcast_lab.bench.recipes import make_plan, recipes
from weightcast_lab.bench.run import run
from weightcast_lab.bench.table import render, settings
from weightcast_lab.sweeps.rows import make_row

QUICK = Protocol(rounds=2, memory=False, min_seconds=0.001)


def predicted(dictionary="dct", fraction=0.1, columns=2, path="auto"):
    return Contender(PREDICTED, fraction, dictionary, columns, path)


@pytest.mark.parametrize("name", [n for n in cases() if n != "25088-4096"])
def test_a_case_knows_its_layers_and_runs(name):
    case = find_case(name)
    model = case.make(seed=1)
    for layer, (n_visible, n_units) in case.shapes().items():
        weight = model.get_submodule(layer).weight
        assert (n_visible, n_units) == (weight[0].numel(), len(weight))
        if case.grids[layer] is not None:
            case.grids[layer].check(n_visible)
    x = case.inputs(1)
    assert x.requires_grad == case.inner
    assert case.loss(model(x)).isfinite()
    assert torch.equal(next(case.make(seed=1).parameters()), next(model.parameters()))


def test_the_largest_layer_has_the_shape_of_vgg_s_first_linear_one():
    assert find_case("25088-4096").shapes() == {"0": (512 * 7 * 7, 4096)}


def test_any_linear_layer_has_a_name():
    assert find_case("48-20").shapes() == {"0": (48, 20)}
    for wrong in ("48x20", "0-20", "48-", "conv"):
        with pytest.raises(ValueError, match="there is no layer"):
            find_case(wrong)


@pytest.mark.parametrize("name", list(recipes()))
def test_a_recipe_predicts_the_whole_network(name):
    model, seconds = build(find_case("mlp"), predicted(name, 0.05, 10))
    assert set(predicted_layers(model)) == {"hidden1", "hidden2"}
    assert seconds > 0
    assert model(find_case("mlp").inputs(3)).shape == (3, 10)


def test_folding_gives_coordinates_to_inputs_that_have_none():
    rules = make_plan(find_case("mlp"), "dct-folded", 0.05, 10).rules
    assert rules["hidden1"].grid == Grid((28, 28))
    assert rules["hidden2"].grid == Grid((20, 25))
    assert make_plan(find_case("mlp"), "dct", 0.05, 10).rules["hidden2"].grid is None


def test_covariances_get_about_two_rows_per_input():
    case = find_case("conv5x5-64-64")  # 1,600 inputs, 256 positions
    (x,) = example_inputs(case, make_plan(case, "covariance", 0.05, 4)) or ()
    assert x.shape == (13, 64, 16, 16)
    case = find_case("mlp")
    (x,) = example_inputs(case, make_plan(case, "covariance", 0.05, 4)) or ()
    assert x.shape == (2 * 500, 1, 28, 28), "the kernel of the layer below needs no data"
    assert example_inputs(case, make_plan(case, "se", 0.05, 4)) is None


def test_what_cannot_be_built_is_refused_before_anything_is_measured():
    case = find_case("48-20")
    with pytest.raises(ValueError, match="se needs inputs with coordinates"):
        make_plan(case, "se", 0.1, 1)
    with pytest.raises(ValueError, match="columns is 30 for the 20 units"):
        make_plan(case, "dct", 0.1, 30)
    with pytest.raises(ValueError, match="below one atom"):
        make_plan(case, "dct", 0.001, 1)
    with pytest.raises(ValueError, match="did you mean 'grouped'"):
        make_plan(case, "gruoped", 0.1, 1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layers": ("784-5OO",)}, "did you mean '784-500'"),
        ({"fractions": (1.5,)}, "fraction is 1.5"),
        ({"columns": (0,)}, "columns has 0"),
        ({"batches": (-1,)}, "batches has -1"),
        ({"dictionaries": ("dcd",)}, "did you mean 'dct'"),
        ({"peers": ("none", "cp")}, "there is no peer 'none'"),
        ({"layers": ()}, "layers is empty"),
    ],
)
def test_a_selection_refuses_what_it_does_not_know(options, message):
    with pytest.raises(ValueError, match=message):
        BenchGrid(**({"layers": ("48-20",), "fractions": (0.1,), "columns": (1,)} | options))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rounds": 0}, "rounds is 0"),
        ({"threads": 0}, "threads is 0"),
        ({"device": "gpu"}, "device is 'gpu'"),
    ],
)
def test_a_protocol_refuses_what_cannot_be_measured(options, message):
    with pytest.raises(ValueError, match=message):
        Protocol(**options)


def test_all_combinations_are_measured_and_the_rest_is_said():
    said = []
    selection = BenchGrid(
        ("784-500", "48-20"), (0.05, 0.1), (1, 10), ("narrow",), (4, 8), ("se", "dct")
    )
    blocks = list(selection.blocks(said.append))
    # Per fraction and batch: 2 x 2 settings and the peers; se is left out of the second layer.
    assert [b.case.name for b in blocks].count("784-500") == 2 * 2 * (4 + 1)
    assert [b.case.name for b in blocks].count("48-20") == 2 * 2 * (2 + 1)
    assert len(said) == 2 * 2
    assert all("48-20, se" in line for line in said)
    for block in blocks:
        paths = [c.path for c in block.contenders]
        assert paths in (["auto", "factored", "materialised"], [None])
        assert (block.rival is None) == (paths[0] == "auto")


def test_presets_can_be_listed():
    for preset in PRESETS.values():
        assert list(preset.blocks())


def test_multiply_adds_of_a_linear_and_a_convolutional_layer_by_hand():
    case, batch = find_case("48-20"), 7
    model, _ = build(case, predicted("grouped", 0.25, 2))
    counts = count(model, case.inputs(batch), "factored")
    assert counts.dense == batch * 48 * 20
    assert counts.total == batch * 12 * 20  # selecting is free: V alone
    counts = count(model, case.inputs(batch), "materialised")
    assert counts.total == batch * 48 * 20  # V is put in its place
    assert counts.choice == "factored"
    case = find_case("conv5x5-64-64")
    dense = count(case.make(), case.inputs(2))
    assert dense.total == dense.dense == 2 * 16 * 16 * 64 * 64 * 25


def test_the_choice_is_that_of_the_layer_itself():
    case = find_case("48-20")
    model, _ = build(case, predicted("gaussian", 1.0, 1))
    (layer,) = predicted_layers(model).values()
    for batch in (1, 20, 5000):
        cheaper = min(("factored", "materialised"), key=lambda p: layer.multiply_adds(batch, p))
        assert count(model, case.inputs(batch)).choice == cheaper


def test_forced_paths_compute_the_same_and_merging_gives_plain_layers():
    case = find_case("48-20")
    model, _ = build(case, predicted())
    x = case.inputs(5)
    outputs = [force_path(model, path)(x) for path in ("factored", "materialised", "auto")]
    for y in outputs[1:]:
        assert torch.allclose(y, outputs[0], atol=1e-5)
    merged = merge(model)
    assert type(merged[0]) is nn.Linear
    assert torch.allclose(forward_pass(merged, x)(), outputs[0], atol=1e-5)


def test_a_training_step_trains_and_counts_its_state():
    case = find_case("48-20")
    model, _ = build(case, predicted("dct", 0.25, 2))
    x = case.inputs(6)
    training = training_step(case, model, x)
    assert training.state_bytes == 0
    before = float(case.loss(model(x)).detach())
    for _ in range(20):
        training.step()
    assert float(case.loss(model(x)).detach()) < before
    assert x.grad is not None
    n_learned = 12 * 20 + 20
    steps = 2  # AdamW counts the steps of V and of the bias
    assert training.state_bytes == 4 * (2 * n_learned + steps)


needs_proc = pytest.mark.skipif(not can_measure("cpu"), reason="peak memory is read on Linux")


@needs_proc
def test_peak_memory_sees_what_a_step_holds():
    mebibytes = 64

    def make():
        def step():
            torch.ones(mebibytes * 2**18).add_(1)

        return step

    # Of several the least: another thread of this process may hold something for a moment.
    least = min(peak_mebibytes(make) for _ in range(3))
    assert least == pytest.approx(mebibytes, rel=0.1)


@needs_proc
def test_the_child_measures_a_contender(capsys):
    main(["400-300", "16", predicted("grouped").to_json(), "--threads", "1"])
    few = float(capsys.readouterr().out)
    main(["2000-2000", "16", Contender().to_json(), "--threads", "1"])
    many = float(capsys.readouterr().out)
    # W, its gradient and AdamW's two moments at least: 4 x 16 MB.
    assert many > 4 * 2000 * 2000 * 4 / 2**20 * 0.9
    assert few < 10


def row(path, ratio, chosen="factored", **config):
    metrics = {"ratio_median": ratio, "ratio_min": ratio / 2, "ratio_max": 2 * ratio}
    common = {"layer": "48-20", "batch": 4, "device": "cpu", "threads": 1, "fused": False}
    own = {"kind": PREDICTED, "fraction": 0.1, "dictionary": "dct", "columns": 2, "path": path}
    return make_row(
        experiment="bench",
        variant=path,
        dataset="noise",
        seed=0,
        config=common | own | config,
        counts={"multiply_adds": 5, "dense_multiply_adds": 20, "learned": 1},
        metrics=metrics,
    ) | ({"chosen": chosen} if path == "auto" else {})


def test_the_table_says_when_the_cost_model_was_wrong():
    good = [row("auto", 0.52), row("factored", 0.5), row("materialised", 0.9)]
    bad = [
        row(p, r, columns=9) for p, r in (("auto", 0.5), ("factored", 0.5), ("materialised", 0.4))
    ]
    found = settings([*good, *bad])
    assert [one.faster for one in found] == ["factored", "materialised"]
    assert [one.loss for one in found] == pytest.approx([1.04, 1.25])
    text = render([*good, *bad])
    assert "in 1 of 2 settings" in text
    assert "at most 1.25 times" in text
    assert "materialised (!)" in text
    assert "0.52 (0.26-1.04)" in text
    assert "48-20, batch 4, 1 thread" in text
    assert "| dct | 10 % | 2 | 0.52 (0.26-1.04) |" in render(good, markdown=True)


def test_a_table_of_peers_alone_does_not_judge_the_cost_model():
    alone = row("auto", 0.2, kind="cp", rival="dct, 10 %")
    assert "not checked" in render([alone])


def block(*contenders):
    return BenchBlock(find_case("48-20"), 4, contenders)


def test_rows_that_are_there_are_not_measured_again(tmp_path, monkeypatch):
    file = tmp_path / "rows.jsonl"
    blocks = [
        block(predicted()),
        BenchBlock(find_case("48-20"), 4, (Contender("narrow", 0.1),), predicted()),
    ]
    first = run(blocks, QUICK, file)
    assert len(file.read_text().splitlines()) == len(first) == 2
    assert first[1]["metrics"]["rival_ratio_median"] > 0

    def refuse(*_):
        raise AssertionError("measured again")

    monkeypatch.setattr(run_module, "measure", refuse)
    again = run(blocks, QUICK, file)
    assert json.dumps(again) == json.dumps(first)
    with pytest.raises(AssertionError, match="measured again"):
        run([block(predicted(columns=4))], QUICK, file)


def test_a_block_that_fails_is_said_and_the_next_one_is_measured(monkeypatch):
    said, measured = [], []

    def measure(one, *_):
        if one.contenders[0].columns == 1:
            raise RuntimeError("not enough memory\nand a stack of frames")
        measured.append(one)
        return []

    monkeypatch.setattr(run_module, "measure", measure)
    run([block(predicted(columns=1)), block(predicted(columns=2))], QUICK, say=said.append)
    assert len(measured) == 1
    assert any(line.endswith("not enough memory") for line in said)


def test_a_peer_that_fails_does_not_take_the_others_down(monkeypatch):
    said = []

    def measure(one, *_):
        if any(contender.kind == "cp" for contender in one.contenders):
            raise RuntimeError("not enough memory")
        return [{"variant": contender.kind} for contender in one.contenders]

    monkeypatch.setattr(run_module, "measure", measure)
    rivals = tuple(Contender(kind, 0.05) for kind in ("narrow", "cp", "low-rank"))
    rows = run([BenchBlock(find_case("48-20"), 4, rivals)], QUICK, say=said.append)
    assert [row["variant"] for row in rows] == ["narrow", "low-rank"]
    assert [line for line in said if line.startswith("failed")] == [
        "failed: 48-20, batch 4: narrow, cp, low-rank: not enough memory",
        "failed: 48-20, batch 4: cp: not enough memory",
    ]


def test_nothing_to_measure_is_refused():
    with pytest.raises(ValueError, match="nothing to measure"):
        run([], QUICK)
