"""What the benchmark's preset gpu measures, small on the CPU: the same code as on a GPU."""

import dataclasses
from pathlib import Path

import pytest
import torch

from weightcast.cli.main import main as weightcast
from weightcast.layers import predicted_layers
from weightcast_lab.bench import memory
from weightcast_lab.bench.bench_presets import PRESETS, BenchGrid
from weightcast_lab.bench.block import BenchBlock
from weightcast_lab.bench.cases import find_case
from weightcast_lab.bench.contenders import PREDICTED, Contender, build
from weightcast_lab.bench.counts import count
from weightcast_lab.bench.protocol import Protocol, training_step
from weightcast_lab.bench.run import run
from weightcast_lab.sweeps.rows import read_rows

CPU_ROWS = Path(__file__).parents[2] / "results" / "bench_cpu.jsonl"
SMALL = Contender(PREDICTED, 0.1, "dct-folded", 4, "auto")


def test_the_blocks_are_those_of_a_llama_with_a_billion_weights():
    shapes = find_case("llama-2048").shapes()
    assert len(shapes) == 2 * 7
    block = {name.rpartition(".")[2]: shape for name, shape in shapes.items() if ".1." in name}
    assert block == {
        "q_proj": (2048, 2048), "k_proj": (2048, 512), "v_proj": (2048, 512),
        "o_proj": (2048, 2048), "gate_proj": (2048, 8192), "up_proj": (2048, 8192),
        "down_proj": (8192, 2048),
    }  # fmt: skip
    with pytest.raises(ValueError, match="N of llama-N must be a multiple of 256"):
        find_case("llama-300")


def test_a_llama_counts_tokens_and_none_sees_the_next():
    case = find_case("llama-256")
    assert tuple(case.inputs(4096).shape) == (2, 2048, 256)
    with pytest.raises(ValueError, match="3000 tokens are no whole number of sequences of 2048"):
        case.inputs(3000)
    model, _ = build(case, SMALL)
    x = case.inputs(12).detach()
    other = x.clone()
    other[:, 8:] += 1
    with torch.no_grad():
        difference = (model(x) - model(other)).abs().amax(dim=(0, 2))
    assert float(difference[:8].max()) < 1e-4 < float(difference[8:].min())
    counted = count(model, x, "factored")
    layers = predicted_layers(model).values()
    assert counted.dense == 12 * sum(one.n_visible * one.n_units for one in layers)
    assert counted.total == sum(one.multiply_adds(12, "factored") for one in layers)


def test_a_step_in_bfloat16_keeps_weights_and_state_in_single_precision():
    case = find_case("llama-256")
    model, _ = build(case, SMALL)
    before = [p.clone() for p in model.parameters()]
    seen = []
    model.decoder.layers[0].mlp.down_proj.register_forward_hook(lambda *a: seen.append(a[2].dtype))
    training = training_step(case, model, case.inputs(16), fused=True, bf16=True)
    training.step()
    assert seen == [torch.bfloat16]
    learned = [p for p in model.parameters() if p.requires_grad]
    assert {p.dtype for p in learned} == {torch.float32}
    assert training.state_bytes == sum(2 * 4 * p.numel() + 4 for p in learned)
    changed = [not torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True)]
    assert sum(changed) == len(learned)


@pytest.mark.skipif(not memory.can_measure("cpu"), reason="peak memory is read on Linux")
def test_peak_memory_is_that_of_the_same_step(capsys):
    memory.main(["1000-1000", "4000", Contender().to_json()])
    single = float(capsys.readouterr().out)
    memory.main(["1000-1000", "4000", Contender().to_json(), "--bf16", "--fused"])
    assert float(capsys.readouterr().out) < single + 20  # x and its gradient stay as they are


def test_rows_that_were_measured_before_are_known_still():
    config = read_rows(CPU_ROWS)[0]["config"]
    assert Protocol().to_dict().keys() <= config.keys()
    assert not {"bf16", "compiled"} & config.keys()
    own = Protocol(bf16=True, compiled=True).to_dict()
    assert own["bf16"] is own["compiled"] is True


def test_the_preset_is_the_regime_of_those_who_train_on_a_gpu():
    preset = PRESETS["gpu"]
    assert preset.batches == (16_384,)
    assert preset.fractions == (0.05, 0.1)
    said = []
    blocks = list(dataclasses.replace(preset, layers=("64-64",)).blocks(said.append))
    assert {one.batch for one in blocks} == {16_384}
    assert any(line.startswith("left out: path fused needs") for line in said)
    with pytest.raises(ValueError, match="there is no path 'fusd'; did you mean 'fused'"):
        BenchGrid(("64-64",), (0.1,), (1,), paths=("fusd",))  # pyright: ignore[reportArgumentType]


def test_a_kernel_that_fails_leaves_the_other_paths():
    said = []
    paths = (SMALL, dataclasses.replace(SMALL, path="fused"))  # on a CPU, which it is not for
    quick = Protocol(rounds=1, memory=False, min_seconds=0.001)
    rows = run([BenchBlock(find_case("64-64"), 4, paths)], quick, say=said.append)
    assert [row["config"]["path"] for row in rows] == ["auto"]
    assert any(line.startswith("failed: 64-64, batch 4") for line in said)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("options", [[], ["--device", "cpu"], ["--layers", "64-64"]])
def test_without_a_gpu_the_preset_says_how_it_runs_small(options, capsys):
    assert weightcast(["bench", "--preset", "gpu", *options]) == 2
    error = capsys.readouterr().err
    assert "torch finds no GPU: --device cpu --layers 64-64 --batches 32 runs" in error


@pytest.mark.slow
@pytest.mark.timeout(900)  # a compiler of C++ beside other work
def test_the_preset_runs_small_on_the_cpu(tmp_path, capsys):
    file = tmp_path / "rows.jsonl"
    command = "bench --preset gpu --device cpu --layers 32-48 --batches 8 24 --fractions 0.1"
    command += " --columns 2 --dictionaries grouped --paths auto --peers none --rounds 1"
    assert weightcast([*command.split(), "--min-seconds", "0.001", "--rows", str(file)]) == 0
    rows = read_rows(file)
    assert [row["config"]["batch"] for row in rows] == [8, 24]
    for row in rows:
        assert all(row["config"][name] for name in ("bf16", "compiled", "fused"))
        assert row["metrics"]["ratio_median"] > 0
        assert row["metrics"]["peak_mebibytes"] is None
    moments = 2 * 4 * (3 * 48 + 48)
    assert rows[0]["metrics"]["optimiser_bytes"] == moments + 2 * 4
    assert rows[0]["counts"]["multiply_adds"] == 8 * 3 * 48
    shown = capsys.readouterr()
    assert ", fused AdamW, bfloat16, compiled" in shown.out
    assert "no peak memory on the CPU: the compiler's own would be in it" in shown.err
