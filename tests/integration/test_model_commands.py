"""weightcast convert, compress, distil and probe, from the command line to folder and page."""

from __future__ import annotations

import json
import pickle
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import weightcast as wc
from weightcast.cli.main import main

FACTORY = """
import torch
from torch import nn

def make():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 12, 3), nn.ReLU(), nn.Conv2d(12, 16, 3), nn.ReLU(), nn.Flatten(),
        nn.Linear(64, 40), nn.ReLU(), nn.Linear(40, 5),
    )

def batches():
    generator = torch.Generator().manual_seed(1)
    return [torch.rand(30, 2, 6, 6, generator=generator) for _ in range(5)]

def number():
    return 3

def evaluate(model):
    with torch.no_grad():
        found = torch.cat([model(x) for x in batches()])
        return float((found - torch.cat([made(x) for x in batches()])).square().mean())

def finite_or_nan(model):
    found = evaluate(model)
    return found if found <= 4e-6 else float("nan")

def sized(width):
    return nn.Linear(width, width)

class Sized(nn.Module):
    def __init__(self, width):
        super().__init__()

made = make()
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a package, and a state dict in each format."""
    (tmp_path / "of_mine.py").write_text(FACTORY)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "of_mine", raising=False)
    state = _make(tmp_path).state_dict()
    save_file(state, tmp_path / "net.safetensors")
    torch.save({"epoch": 3, "state_dict": state}, tmp_path / "net.pt")
    x = torch.cat(_namespace()["batches"]())
    save_file({"input": x}, tmp_path / "x.safetensors")
    return tmp_path


def _namespace() -> dict:
    namespace: dict = {}
    exec(FACTORY, namespace)
    return namespace


def _make(_: Path) -> nn.Module:
    return _namespace()["make"]()


def _run(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> tuple[str, str]:
    assert main(arguments) == code
    captured = capsys.readouterr()
    return captured.out, captured.err


def test_compress_a_function_with_inputs(place, capsys):
    out, err = _run(
        capsys, "compress", "of_mine:make", "--allow-import", "--inputs", "x.safetensors",
        "--budget", "0.5", "--output", "small", "--rows", "rows.jsonl", "--seed", "2",
    )  # fmt: skip
    model = _make(place)
    small = wc.load("small", model)
    x = torch.cat(_namespace()["batches"]())
    assert wc.ledger(small).total.stored <= 0.5 * wc.ledger(small).total.dense
    row = json.loads((place / "rows.jsonl").read_text())
    report = wc.compression_report(model, small, list(x.split(100)))
    assert row["metrics"]["output_error"] == pytest.approx(report.rows[-1].output_error, rel=1e-4)
    assert row["experiment"] == "compress"
    assert row["seed"] == 2
    assert row["counts"]["stored"] == wc.ledger(small).total.stored
    assert row["dataset"] == "x.safetensors"
    assert "output lost" in out.splitlines()[0]
    assert "The model is in small" in out
    assert "compressing" in err


def test_distil_what_compress_saved(place, capsys):
    start = ["of_mine:make", "--allow-import", "--inputs", "x.safetensors"]
    _run(capsys, "compress", *start, "--budget", "0.4", "--output", "small")
    options = ["--small", "small", "--steps", "60", "--batch", "50", "--learning-rate", "0.003"]
    out, err = _run(
        capsys, "distil", *start, *options, "--train", "V", "--state", "state",
        "--output", "taught", "--rows", "rows.jsonl",
    )  # fmt: skip
    _run(capsys, "distil", *start, *options, "--train", "V", "--output", "eight", "--bits", "8")
    model = _make(place)
    small, taught = wc.load("small", model), wc.load("taught", model)
    batches = list(torch.cat(_namespace()["batches"]()).split(50))
    losses = wc.distil(
        small, model, batches, 60, learning_rate=0.003, train=["V"], progress=False
    ).losses
    for name, tensor in small.state_dict().items():
        assert torch.equal(tensor, taught.state_dict()[name]), name
    metrics = json.loads((place / "rows.jsonl").read_text())["metrics"]
    assert metrics == {"first_loss": losses[0], "last_loss": losses[-1]}
    assert losses[-1] < 0.7 * losses[0]
    assert "mean loss" in out.splitlines()[0]
    assert "The model is in taught" in out
    assert "distilling step 60 of 60" in err
    assert (place / "state" / "distillation.json").exists()
    sizes = [(place / n / "model.safetensors").stat().st_size for n in ("eight", "taught")]
    assert sizes[0] < 0.7 * sizes[1]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["net.pt", "--inputs", "x.safetensors"], "net.pt is a state dict, which has weights only"),
        (["of_mine:make"], "distil needs example inputs: --inputs FILE"),
        (["of_mine:make", "--inputs", "x.safetensors", "--loss", "mse"], "loss is 'mse': take"),
        (["of_mine:make", "--inputs", "x.safetensors", "--train", "U"], "train is ('U',): take"),
    ],
)
def test_what_cannot_be_distilled_is_said(words, message, place, capsys):
    start = ["--allow-import", "--budget", "0.4", "--output", "small"]
    _run(capsys, "compress", "of_mine:make", *start)
    options = ["--allow-import", "--small", "small", "--steps", "2", "--output", "taught"]
    _, err = _run(capsys, "distil", *words, *options, code=2)
    assert message in err
    assert not (place / "taught").exists()


@pytest.mark.parametrize("file", ["net.safetensors", "net.pt"])
def test_compress_a_state_dict_alone(place, capsys, file):
    out, _ = _run(capsys, "compress", file, "--fraction", "0.3", "--output", "small")
    model = _make(place)
    small = wc.load("small", model)

    assert type(small[7]) is nn.Linear  # nobody reads its units: the classifier
    W, predicted = model[5].weight, small[5].weight
    assert 0 < float((W - predicted).detach().square().sum() / W.detach().square().sum()) < 0.7
    torch.testing.assert_close(small[7].weight, model[7].weight)
    assert "weights lost" in out


class Turned(nn.Module):
    """A matrix that lies as those of transformers' GPT-2 do: inputs, units."""

    def __init__(self, n_inputs, n_units):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(n_inputs, n_units))
        self.bias = nn.Parameter(torch.zeros(n_units))


class Scaled(nn.Module):
    """A matrix of its own, and a layer below it."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(40, 50))
        self.inner = nn.Linear(50, 40)


def of(**modules):
    """A network of modules by name."""
    return nn.ModuleDict(modules)


STATE_DICTS = {
    "attention": (lambda: nn.TransformerEncoderLayer(32, 4, 64), ["linear1", "linear2"]),
    "transposed convolution": (
        lambda: of(a=nn.ConvTranspose2d(8, 24, 3), b=nn.Conv2d(24, 24, 3), c=nn.Conv2d(24, 8, 3)),
        ["c"],  # the square one may be transposed, too
    ),
    "transposed matrix": (
        lambda: of(c=Turned(48, 40), proj=Turned(40, 40), k=nn.Conv1d(9, 40, 5)),
        ["k"],
    ),
    "table": (lambda: of(emb=nn.Embedding(60, 32), out=nn.Linear(32, 40)), ["emb", "out"]),
    "wrapped": (lambda: nn.DataParallel(of(a=nn.Linear(40, 40), b=nn.Linear(40, 9))), ["a", "b"]),
    "weight and children": (lambda: of(a=Scaled(), z=nn.Linear(40, 9)), ["a.inner", "z"]),
}


@pytest.mark.filterwarnings("ignore:the predicted layers take:UserWarning")
@pytest.mark.parametrize("name", STATE_DICTS)
def test_the_real_model_loads_what_a_state_dict_gave(name, place, capsys):
    make, predicted = STATE_DICTS[name]
    torch.manual_seed(0)
    model = make()
    torch.save(model.state_dict(), "state.pt")
    (place / "plan.yaml").write_text('"*": {dictionary: {kind: DCT}, fraction: 0.3}')
    out, _ = _run(capsys, "compress", "state.pt", "--plan", "plan.yaml", "--output", "small")
    assert "guessed from shapes and names" in out
    assert "--factory package.module:function" in out
    model = model.module if name == "wrapped" else model
    loaded = wc.load("small", model)
    found = [n for n, m in loaded.named_modules() if isinstance(m, wc.PredictedLayer)]
    assert found == predicted
    for key, tensor in model.state_dict().items():  # what stayed dense is what it was
        assert key not in loaded.state_dict() or torch.equal(tensor, loaded.state_dict()[key])


def test_names_that_no_model_has_are_an_error(place, capsys):
    torch.save({"x": torch.ones(3), "x.y": torch.ones(3)}, "odd.pt")
    _, err = _run(capsys, "compress", "odd.pt", "--output", "small", code=2)
    assert "no model has a tensor called 'x.y'" in err


@pytest.mark.parametrize(
    ("model", "options", "message"),
    [
        (nn.LSTM(16, 16), (), "no layer to predict"),
        (nn.LSTM(16, 16), ("--budget", "0.5"), "no layer to predict"),
        (nn.TransformerEncoderLayer(32, 4, 64), ("--budget", "0.1"), "stay dense"),
    ],
)
def test_a_state_dict_of_unknown_layers_says_what_to_name(model, options, message, place, capsys):
    torch.save(model.state_dict(), "state.pt")
    _, err = _run(capsys, "compress", "state.pt", "--output", "small", *options, code=2)
    assert message in err
    assert "--factory package.module:function" in err


def test_a_wrapped_state_dict_fits_what_the_factory_makes(place, capsys):
    torch.save(nn.DataParallel(_make(place)).state_dict(), "wrapped.pt")
    _run(
        capsys, "compress", "wrapped.pt", "--factory", "of_mine:make", "--allow-import",
        "--fraction", "0.3", "--output", "small",
    )  # fmt: skip
    wc.load("small", _make(place))


@pytest.mark.filterwarnings("ignore:the predicted layers take:UserWarning")
def test_a_state_dict_and_its_factory(place, capsys):
    trained = _make(place)
    with torch.no_grad():
        trained[5].weight.mul_(2)
    torch.save(trained.state_dict(), "trained.pth")
    (place / "plan.yaml").write_text("""
        "5": {dictionary: {kind: DCT}, fraction: 1.0}
        "*": null
    """)
    _run(
        capsys, "compress", "trained.pth", "--factory", "of_mine:make", "--allow-import",
        "--inputs", "of_mine:batches", "--plan", "plan.yaml", "--output", "small",
    )  # fmt: skip
    small, x = wc.load("small", _make(place)), torch.rand(3, 2, 6, 6)
    torch.testing.assert_close(small(x), trained(x), rtol=1e-3, atol=1e-4)


def test_convert_draws_v_anew(place, capsys):
    out, _ = _run(
        capsys, "convert", "of_mine:make", "--allow-import", "--fraction", "0.2", "--output", "new"
    )
    plan = wc.suggest(_make(place), 0.2)
    expected, loaded = wc.convert(_make(place), plan), wc.load("new", _make(place))
    for key, tensor in expected.state_dict().items():
        torch.testing.assert_close(loaded.state_dict()[key], tensor)
    assert out.splitlines()[0].split()[:2] == ["layer", "kind"]


def test_probe_prints_rows_and_a_page(place, capsys):
    out, _ = _run(
        capsys, "probe", "net.safetensors", "--fractions", "0.1", "0.5", "--output", "page",
        "--rows", "rows.jsonl", "--layers", "2", "5",
    )  # fmt: skip
    found = wc.probe(_make(place), (0.1, 0.5), layers=["2", "5"], progress=False)
    assert str(found) in out
    row = json.loads((place / "rows.jsonl").read_text())
    assert row["probe"] == json.loads(json.dumps(found.to_dict()))
    page = (place / "page" / "index.html").read_text()
    assert "How predictable each layer&#x27;s weights are: net.safetensors" in page
    assert "ceiling" in page
    images = [file for file in (place / "page").iterdir() if file.suffix in (".svg", ".png")]
    assert len(images) == 2
    assert "2, 10 %" in next(file for file in images if file.suffix == ".svg").read_text()
    out, _ = _run(capsys, "report", "rows.jsonl", "--output", "again", "--images", "false")
    assert "How predictable" in out


def test_a_hub_folder_on_disk(place, capsys):
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(
        vocab_size=30, hidden_size=32, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=48, max_position_embeddings=16,
    )  # fmt: skip
    torch.manual_seed(0)
    transformers.BertForMaskedLM(config).save_pretrained(place / "bert")
    save_file({"input_ids": torch.randint(30, (40, 8))}, place / "tokens.safetensors")
    out, _ = _run(capsys, "probe", "bert", "--fractions", "0.25", "--inputs", "tokens.safetensors")
    assert "bert.encoder.layer.0.attention.self.query" in out
    assert "output at 0.25" in out


class Evil:
    """Runs code where a pickle is trusted."""

    def __reduce__(self):
        return (print, ("ran",))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("of_mine:make",), "add --allow-import if you trust it"),
        (("of_mine:nothing", "--allow-import"), "of_mine has no 'nothing'"),
        (("not_mine:make", "--allow-import"), "there is no module 'not_mine'"),
        (("of_mine:number", "--allow-import"), "returned a int: expected a module"),
        (("missing.pt",), "there is no missing.pt"),
        (("of_mine:sized", "--allow-import"), "of_mine:sized is called without arguments"),
        (("of_mine:Sized", "--allow-import"), "of_mine:Sized is called without arguments"),
        (("of_mine:FACTORY", "--allow-import"), "of_mine has no 'FACTORY'"),
        (("of_mine:torch", "--allow-import"), "is a module: expected a function"),
        (
            ("of_mine:make", "--allow-import", "--inputs", "of_mine:made"),
            "is a Sequential: expected a function",
        ),
        (
            ("of_mine:make", "--allow-import", "--factory", "of_mine:make"),
            "--factory makes the model of a state dict, and of_mine:make is none",
        ),
        (("unknown", "--factory", "of_mine:make"), "and unknown is none: leave it out"),
        (("net.pt", "--factory", "net.pt"), "net.pt holds tensors"),
        (("none.safetensors",), "none.safetensors holds no tensors"),
        (("none.pt",), "none.pt holds no tensors"),
        (("evil.pt",), "evil.pt holds pickled objects other than tensors"),
        (("damaged.safetensors",), "cannot read damaged.safetensors"),
        (("empty",), "is no Hub folder: it needs config.json"),
        (("net.pt", "--inputs", "x.safetensors"), "has weights only"),
        (("plan.yaml",), "is no .safetensors, .pt or .pth file"),
        (("unknown",), "transformers cannot read unknown"),
        (("other.pt", "--factory", "of_mine:make", "--allow-import"), "does not fit what"),
    ],
)
def test_what_cannot_be_read_is_said(place, capsys, arguments, message):
    torch.save(Evil(), "evil.pt", pickle_module=pickle)
    torch.save({"0.weight": torch.rand(3, 3)}, "other.pt")
    save_file({}, place / "none.safetensors")
    torch.save({"state_dict": {}}, "none.pt")
    (place / "damaged.safetensors").write_bytes(b"\x10")
    (place / "plan.yaml").write_text("rules: {}")
    (place / "empty").mkdir()
    (place / "unknown").mkdir()
    (place / "unknown" / "config.json").write_text(
        '{"model_type": "mine", "auto_map": {"AutoConfig": "code.Config"}}'
    )
    (place / "unknown" / "code.py").write_text("print('ran')")
    save_file({"x": torch.rand(2)}, place / "unknown" / "model.safetensors")
    for command in ("probe", "compress"):
        output = ("--output", "small") if command == "compress" else ()
        out, err = _run(capsys, command, *arguments, *output, code=2)
        assert message in err
        assert err.count("\n") == 1
        assert "ran" not in out.split()
    assert not (place / "small").exists()


def test_a_model_that_is_there_is_taken_as_it_is(place, capsys):
    given = ("--allow-import", "--fraction", "0.3", "--inputs", "of_mine:batches")
    _run(capsys, "compress", "of_mine:made", *given, "--output", "small")
    _run(capsys, "compress", "of_mine:make", *given, "--output", "same")
    small, same = wc.load("small", _make(place)), wc.load("same", _make(place))
    for key, tensor in same.state_dict().items():
        assert torch.equal(small.state_dict()[key], tensor)
    trained = {key: 2 * tensor for key, tensor in _make(place).state_dict().items()}
    torch.save(trained, "trained.pt")
    _run(
        capsys, "compress", "trained.pt", "--factory", "of_mine:made", "--allow-import",
        "--fraction", "0.3", "--output", "small",
    )  # fmt: skip
    assert torch.equal(wc.load("small", _make(place))[7].weight, trained["7.weight"])


OBJECTS = "holds pickled objects other than tensors and is not read, as that could run any code"
NO_FILE = "is no file of torch.save, or was cut short"


@pytest.mark.filterwarnings("ignore:`torch.jit.*is deprecated:DeprecationWarning")
@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda net, path: torch.save(net, path), OBJECTS),
        (lambda net, path: torch.save({"net": net, "state_dict": net.state_dict()}, path), OBJECTS),
        (
            lambda net, path: torch.save(net, path, _use_new_zipfile_serialization=False),
            OBJECTS,
        ),
        (lambda net, path: torch.jit.save(torch.jit.script(net), path), OBJECTS),
        (lambda net, path: path.write_text("hello\n"), NO_FILE),
        (lambda net, path: path.write_text("<!DOCTYPE html>"), NO_FILE),
        (lambda net, path: path.write_bytes(b""), NO_FILE),
        (lambda net, path: path.write_bytes(pickle.dumps({"a": 1})), NO_FILE),
        (lambda net, path: _write_half(net, path), NO_FILE),
    ],
    ids=["net", "checkpoint", "legacy", "script", "text", "page", "nothing", "pickle", "half"],
)
def test_what_torch_does_not_read_is_said_in_plain_words(write, message, place, capsys):
    write(_make(place), place / "odd.pt")
    _, err = _run(capsys, "probe", "odd.pt", code=2)
    assert err.startswith(f"weightcast: error: odd.pt {message}")
    assert ("model.state_dict()" in err) == (message == OBJECTS)
    assert err.count("\n") == 1
    assert "\x1b" not in err
    assert "weights_only" not in err


def _write_half(net: nn.Module, path: Path) -> None:
    torch.save(net.state_dict(), path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def test_a_damaged_file_of_torch_save_is_said_to_be_one(place, capsys):
    with zipfile.ZipFile("net.pt") as whole, zipfile.ZipFile("part.pt", "w") as part:
        for name in whole.namelist():
            if not name.endswith("data/0"):
                part.writestr(name, whole.read(name))
    _, err = _run(capsys, "probe", "part.pt", code=2)
    assert err.startswith("weightcast: error: part.pt is damaged: ")
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--budget", "2500.5"), "budget is 2500.5: give a share"),
        (("--budget", "1.0"), "budget is 1.0: give a share of all weights in (0, 1), or a whole"),
        (("--budget", "2000.0"), "budget is 2000.0: give a share"),
        (("--budget", "nan"), "--budget is 'nan': expected int or float"),
        (("--budget", "much"), "--budget is 'much': expected int or float"),
        (("--budget", "10"), "489 stay dense"),
        (("--budget", "0.5", "--count", "foo"), "count is 'foo': take 'learned' or 'stored'"),
        (("--fraction", "2"), "fraction is 2.0"),
        (("--fraction", "1e-4"), "no layer to predict at fraction 0.0001"),
        (("--fraction", "0.1", "--budget", "0.2"), "--fraction is 0.1 and --budget 0.2: give one"),
        (("--fraction", "0.1", "--count", "stored"), "--count says what a budget counts: give"),
        (("--count", "stored"), "--count says what a budget counts: give"),
        (("--plan", "none.yaml"), "none.yaml"),
        (("--plan", "damaged.yaml"), "damaged.yaml is no YAML"),
        (("--plan", "plan.yaml", "--columns", "10"), "leave out --columns"),
        (("--plan", "plan.yaml", "--count", "stored"), "leave out --count"),
        (
            ("--plan", "plan.yaml", "--fraction", "0.1", "--budget", "0.2"),
            "--plan says what is learned: leave out --fraction and --budget",
        ),
    ],
)
@pytest.mark.parametrize("command", ["convert", "compress"])
def test_options_that_cannot_be_used_are_named_and_nothing_else(
    command, options, message, place, capsys
):
    (place / "plan.yaml").write_text('"5": {dictionary: {kind: DCT}, fraction: 0.1}')
    (place / "damaged.yaml").write_text("[1, 2")
    _, err = _run(capsys, command, "net.pt", "--output", "small", *options, code=2)
    assert message in err
    assert err.count("\n") == 1
    assert "does not tell the classes" not in err
    assert not (place / "small").exists()


def test_a_budget_is_a_whole_number_too(place, capsys):
    _run(capsys, "compress", "net.pt", "--output", "small", "--budget", "2500")
    assert wc.ledger(wc.load("small", _make(place))).total.stored <= 2500


def test_what_a_budget_counts_by_default(place, capsys):
    given = ("net.pt", "--budget", "0.5", "--columns", "1")
    for command, count in (("convert", "learned"), ("compress", "stored")):
        _run(capsys, command, *given, "--output", f"{command}-default")
        _run(capsys, command, *given, "--count", count, "--output", f"{command}-named")
        plans = [
            json.loads((place / f"{command}-{name}" / "weightcast.json").read_text())
            for name in ("default", "named")
        ]
        assert plans[0] == plans[1]


def test_plans_and_outputs_that_cannot_be_used(place, capsys):
    (place / "plan.yaml").write_text('"7": {dictionary: {kind: DCTT}, fraction: 0.1}')
    given = ("net.safetensors", "--output", "small")
    _, err = _run(capsys, "compress", *given, "--plan", "plan.yaml", code=2)
    assert "did you mean 'DCT'?" in err
    _, err = _run(capsys, "compress", *given, "--plan", "plan.yaml", "--budget", "0.1", code=2)
    assert "leave out --budget" in err
    _, err = _run(capsys, "convert", "net.pt", "--output", ".", code=2)
    assert "holds no saved model: name a new folder" in err
    _, err = _run(capsys, "convert", "net.pt", "--output", "new", "--budget", "10", code=2)
    assert "stay dense" in err
    _, err = _run(capsys, "compress", *given, "--budgt", "0.1", code=2)
    assert "did you mean '--budget'?" in err


def test_help_names_the_sources(capsys):
    for command in ("convert", "compress", "probe"):
        with pytest.raises(SystemExit):
            main([command, "--help"])
        out = " ".join(capsys.readouterr().out.split())
        assert "package.module:function" in out
        assert "--allow-import" in out


def test_the_verdict_tells_bytes_error_and_metric(place, capsys):
    out, _ = _run(
        capsys, "compress", "of_mine:make", "--allow-import", "--inputs", "of_mine:batches",
        "--budget", "0.4", "--evaluate", "of_mine:evaluate", "--output", "small",
    )  # fmt: skip
    verdict = out[out.index("Verdict:") :]
    stored = sum(file.stat().st_size for file in Path("small").iterdir())
    dense = sum(t.nbytes for t in _make(place).state_dict().values())
    assert f"{stored / dense:.1%} of the dense network's bytes" in verdict
    assert "The network's output differs by" in verdict
    assert "The function gives 0 before and" in verdict


@pytest.mark.parametrize("inputs", [[], ["--inputs", "x.safetensors"]])
def test_a_fraction_makes_no_file_larger_than_the_dense_one(place, capsys, inputs):
    """The command once made a file 5.7 times as large as the dense network."""
    out, _ = _run(
        capsys, "compress", "net.safetensors", "--factory", "of_mine:make", "--allow-import",
        "--fraction", "0.1", "--output", "small", *inputs,
    )  # fmt: skip
    model = wc.load(place / "small", _make(place))
    dense = sum(p.numel() for p in _make(place).parameters())
    assert wc.ledger(model).total.stored <= dense
    assert "Verdict:" in out


def test_shrink_from_the_command_line(place, capsys):
    out, _ = _run(
        capsys, "shrink", "of_mine:make", "--allow-import", "--inputs", "of_mine:batches",
        "--evaluate", "of_mine:evaluate", "--tolerance", "4e-6", "--evaluations", "3",
        "--output", "small", "--rows", "rows.jsonl", "--report", "page",
    )  # fmt: skip
    small = wc.load(place / "small", _make(place))
    row = json.loads(Path("rows.jsonl").read_text())
    assert row["metrics"]["metric_after"] <= 4e-6
    assert row["shrink"]["higher_is_better"] is False
    assert len(row["shrink"]["trials"]) <= 4
    chosen = min(t["stored"] for t in row["shrink"]["trials"][1:] if t["holds"])
    assert wc.ledger(small).total.stored == chosen
    assert "\n*" in out
    assert "Verdict:" in out
    page = Path("page", "index.html").read_text()
    assert "How small the network can be: of_mine:make" in page
    assert f"{chosen:,} of {row['counts']['dense']:,}" in page
    svg = Path("page", "shrink-of-mine-make.svg").read_text()
    assert ">chosen<" in svg
    assert ">tolerance<" in svg
    assert Path("page", "shrink-of-mine-make.png").read_bytes().startswith(b"\x89PNG")


def test_shrink_writes_a_metric_that_is_no_number(place, capsys):
    out, _ = _run(
        capsys, "shrink", "of_mine:make", "--allow-import", "--inputs", "of_mine:batches",
        "--evaluate", "of_mine:finite_or_nan", "--tolerance", "4e-6", "--evaluations", "3",
        "--output", "small", "--rows", "rows.jsonl", "--report", "page",
    )  # fmt: skip
    tried = json.loads(Path("rows.jsonl").read_text())["shrink"]["trials"]
    assert [trial["holds"] for trial in tried if trial["metric"] is None] == [False]
    assert "nan" in out
    assert "Not drawn, without a finite metric" in Path("page", "index.html").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--inputs", "of_mine:batches"], "shrink needs --inputs, and --evaluate"),
        (["--evaluate", "of_mine:evaluate"], "shrink needs --inputs, and --evaluate"),
        (["--inputs", "x.safetensors", "--evaluate", "of_mine:made.weight"], "of_mine"),
        (["--inputs", "x.safetensors", "--evaluate", "evaluate"], "evaluate: name a function"),
    ],
)
def test_shrink_refuses_before_any_work(place, capsys, arguments, message):
    _, err = _run(
        capsys, "shrink", "of_mine:make", "--allow-import", "--output", "small", *arguments, code=2
    )
    assert message in err
    assert not Path("small").exists()
