"""Exported files, run by onnxruntime and torch.export, beside the networks that were exported."""

import importlib
import math
import zipfile
from pathlib import Path

import pytest
import torch
from torch import nn

import weightcast as wc
from tests.contract.table import DICTIONARIES, LAYERS
from weightcast.cli.main import main
from weightcast_lab.training import convnet, mlp

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

FORMATS = {"onnx": "model.onnx", "torch": "model.pt2"}
pytestmark = pytest.mark.filterwarnings("ignore:.*LeafSpec.* is deprecated:FutureWarning")


def run(path, *inputs):
    """What the file makes of the inputs, a list of tensors."""
    if path.suffix == ".pt2":
        outputs = torch.export.load(path).module()(*inputs)
        return list(outputs) if isinstance(outputs, tuple) else [outputs]
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [node.name for node in session.get_inputs()]
    feed = {name: x.numpy() for name, x in zip(names, inputs, strict=True)}
    return [torch.from_numpy(y) for y in session.run(None, feed)]


def initialisers(path):
    """Names, shapes and bytes of an ONNX file's constants."""
    graph = onnx.load(path).graph
    size = {
        i.name: onnx.helper.tensor_dtype_to_np_dtype(i.data_type).itemsize
        for i in graph.initializer
    }
    return {i.name: (tuple(i.dims), math.prod(i.dims) * size[i.name]) for i in graph.initializer}


def float32_bytes(model):
    """Of the learned and static numbers."""
    total = wc.ledger(model).total
    return 4 * (total.learned + total.static)


class Side(nn.Module):
    """Layers that look at the same inputs, each with an output of its own."""

    def __init__(self, layers):
        super().__init__()
        self.names = list(layers)
        self.layers = nn.ModuleList(layers.values())

    def forward(self, x):
        return tuple(layer(x) for layer in self.layers)


def all_dictionaries():
    """A linear layer of every kind of dictionary; with few and with many atoms."""
    row = LAYERS["Linear"]
    layers = {name: row.build(name, 0.25, columns=3, dtype=torch.float32) for name in DICTIONARIES}
    more = {f"{name}, more": row.build(name, 0.75, dtype=torch.float32) for name in DICTIONARIES}
    return Side(layers | more), (24,)


def convolutions(kind):
    """Convolutions of every way to move, with bases that part channels and such that do not."""
    names = [n for n in LAYERS if n.startswith(kind)]
    layers = {}
    for name in names:
        for dictionary in (
            "DCT",
            "Kernel-orthonormal",
            "Covariance",
            "RandomConnections",
            "LowRank",
        ):
            for columns in (1, 3):
                layer = LAYERS[name].build(dictionary, columns=columns, dtype=torch.float32)
                layers[f"{name}, {dictionary}, {columns} columns"] = layer
    return Side(layers), LAYERS[names[0]].input_shape[1:]


class Last(nn.Module):
    """A recurrent network's outputs without its state."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, x):
        return self.network(x)[0]


def sequences():
    """Modules that read their own weights: attention, recurrent networks, a transformer's block."""
    torch.manual_seed(4)
    dense = {
        "attention": nn.TransformerEncoderLayer(16, 4, 32, 0.0, batch_first=True),
        "LSTM": Last(nn.LSTM(16, 12, num_layers=2, batch_first=True)),
        "GRU": Last(nn.GRU(16, 12, batch_first=True, bidirectional=True)),
        "RNN": Last(nn.RNN(16, 12, batch_first=True)),
    }
    rule = wc.Rule(wc.dictionaries.RandomGaussian("orthonormal"), 0.25, columns=2)
    return Side({name: wc.convert(m, {"*": rule}, seed=0) for name, m in dense.items()}), (5, 16)


MODELS = {
    "sequences": sequences,
    "every dictionary": all_dictionaries,
    "Conv1d": lambda: convolutions("Conv1d"),
    "Conv2d": lambda: convolutions("Conv2d"),
    "Conv3d": lambda: convolutions("Conv3d"),
}
SLOW = {"Conv2d", "Conv3d", "every dictionary"}  # half a minute and more to trace
TRIED = [pytest.param(name, marks=pytest.mark.slow if name in SLOW else ()) for name in MODELS]


@pytest.fixture(scope="module")
def model(request):
    torch.manual_seed(3)
    model, shape = MODELS[request.param]()
    return model.eval(), shape


@pytest.mark.parametrize("form", ["factored", "merged"])
@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("model", TRIED, indirect=True)
def test_a_file_computes_what_the_layers_compute(model, form, format, tmp_path):
    side, shape = model
    path = wc.export(
        side, tmp_path / FORMATS[format], torch.zeros(4, *shape), format=format, form=form
    )
    for batch in (1, 2, 7):
        x = torch.randn(batch, *shape)
        with torch.no_grad():
            expected = side(x)
        for name, y, right in zip(side.names, run(path, x), expected, strict=True):
            assert y.shape == right.shape, name
            difference = float((y.detach() - right).abs().max() / right.abs().max())
            assert difference < 1e-5, (name, batch, difference)
    if (format, form) == ("onnx", "factored"):
        constants = sum(n_bytes for _, n_bytes in initialisers(path).values())
        assert constants < 1.1 * float32_bytes(side)


def make_mlp():
    kernel = wc.kernels.SquaredExponential(3.0)
    plan = {
        "hidden1": wc.Rule(wc.dictionaries.LocalKernel(kernel), 0.05, columns=20, grid=(28, 28)),
        "hidden2": wc.Rule(wc.dictionaries.RandomConnections("grouped"), 0.05, columns=20),
        "*": None,
    }
    return wc.convert(mlp(seed=0), plan, seed=0).eval(), (1, 28, 28)


def make_convnet():
    rule = wc.Rule(wc.dictionaries.DCT(selection="leading"), 0.25)
    plan = {"re:conv.": rule, "hidden": wc.Rule(rule.dictionary, 0.25, grid=(64, 16)), "*": None}
    return wc.convert(convnet(seed=0), plan, seed=0).eval(), (3, 32, 32)


def make_blocks():
    """A convolution whose mixing is in blocks, one a channel, and takes more than V does."""
    torch.manual_seed(5)
    rule = wc.Rule(wc.dictionaries.Kernel(), 0.25, columns=10)
    return wc.convert(nn.Conv2d(64, 64, 5), {"*": rule}, seed=0).eval(), (64, 6, 6)


def make_columns():
    """A convolution with as many indices as learned numbers."""
    torch.manual_seed(5)
    rule = wc.Rule(wc.dictionaries.DCT(), 0.25, columns=64)
    return wc.convert(nn.Conv2d(64, 64, 5), {"*": rule}, seed=0).eval(), (64, 6, 6)


@pytest.mark.parametrize("make", [make_mlp, make_convnet, make_blocks, make_columns])
@pytest.mark.parametrize("format", FORMATS)
def test_reference_networks_run_elsewhere_and_stay_small(make, format, tmp_path):
    network, shape = make()
    generator = torch.Generator().manual_seed(1)
    x = torch.rand(3, *shape, generator=generator)
    for form in ("factored", "merged"):
        path = wc.export(network, tmp_path / FORMATS[format], x[:2], format=format, form=form)
        [y] = run(path, x)
        with torch.no_grad():
            torch.testing.assert_close(
                y, network(x), rtol=0, atol=1e-5 * float(network(x).abs().max())
            )
        if form == "factored":
            assert path.stat().st_size < 1.1 * float32_bytes(network)
            factored = path.stat().st_size
    dense = 4 * wc.ledger(network).total.dense
    assert dense > 1.5 * factored
    if format == "onnx":  # the other is compressed where W is zero nearly everywhere
        assert path.stat().st_size >= dense


def test_the_exporters_own_folding_would_make_the_file_dense(tmp_path, monkeypatch):
    network, shape = make_convnet()
    monkeypatch.setattr(importlib.import_module("weightcast.storage.export"), "_GROWTH", 512 * 512)
    path = wc.export(network, tmp_path / "model.onnx", torch.zeros(2, *shape))
    assert path.stat().st_size > 1.1 * float32_bytes(network)


def test_a_base_that_layers_share_is_in_the_file_once(tmp_path):
    rule = wc.Rule(wc.dictionaries.Kernel(), 0.25, grid=(16, 8))
    dense = nn.Sequential(*(nn.Linear(128, 128) for _ in range(4)))
    network = wc.convert(dense, {"*": rule}).eval()
    path = wc.export(network, tmp_path / "model.onnx", torch.zeros(2, 128))
    shapes = [shape for shape, _ in initialisers(path).values()]
    assert shapes.count((16, 16)) == shapes.count((8, 8)) == 1
    path = wc.export(network, tmp_path / "model.pt2", torch.zeros(2, 128), format="torch")
    constants = torch.export.load(path).constants.values()
    factors = [c for c in constants if c.shape == (16, 16)]
    assert len({c.untyped_storage().data_ptr() for c in factors}) == 1


class Tied(nn.Module):
    """Words in and out by one table."""

    def __init__(self):
        super().__init__()
        self.words, self.out = nn.Embedding(300, 64), nn.Linear(64, 300)
        self.out.weight = self.words.weight

    def forward(self, tokens):
        return self.out(self.words(tokens))


@pytest.mark.parametrize("format", FORMATS)
def test_a_tied_embedding_is_in_the_file_once(format, tmp_path):
    rule = wc.Rule(wc.dictionaries.Kernel(), 0.5, columns=3, grid=(8, 8))
    network = wc.convert(Tied(), {"*": rule}, seed=0).eval()
    assert network.words.V is network.out.V
    path = wc.export(
        network, tmp_path / FORMATS[format], torch.zeros(2, 5, dtype=torch.int64), format=format
    )
    assert network.words.atoms.mixing is not None  # the model is left as it is
    for batch in (1, 7):
        tokens = torch.randint(300, (batch, 5))
        with torch.no_grad():
            torch.testing.assert_close(run(path, tokens)[0], network(tokens), rtol=1e-4, atol=1e-5)
    assert path.stat().st_size < 1.5 * 4 * network.words.V.numel()


def test_a_fixed_batch_is_the_only_one(tmp_path):
    network, shape = make_mlp()
    path = wc.export(network, tmp_path / "m.onnx", torch.zeros(2, *shape), dynamic_batch=False)
    assert len(run(path, torch.zeros(2, *shape))[0]) == 2
    with pytest.raises(Exception, match="Got: 3 Expected: 2"):
        run(path, torch.zeros(3, *shape))


def test_one_example_is_example_enough(tmp_path):
    network, shape = make_mlp()
    path = wc.export(network, tmp_path / "m.onnx", torch.zeros(1, *shape))
    assert [len(run(path, torch.zeros(n, *shape))[0]) for n in (1, 6)] == [1, 6]


class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = wc.PredictedLinear(6, 4, dictionary=wc.dictionaries.DCT(), fraction=0.5)

    def forward(self, x, offset):
        return self.layer(x) + offset


def test_a_model_of_two_arguments_takes_two_inputs(tmp_path):
    path = wc.export(Two(), tmp_path / "m.onnx", (torch.zeros(3, 6), torch.zeros(4)))
    x, offset = torch.randn(5, 6), torch.randn(4)
    model = Two()
    torch.testing.assert_close(run(path, x, offset)[0], model(x, offset).detach())


@pytest.mark.parametrize("format", FORMATS)
def test_the_model_stays_as_it_is_and_the_file_tells_nothing_of_this_machine(format, tmp_path):
    network = nn.Sequential(make_mlp()[0], nn.Dropout(0.5)).train()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    paths = [network[0].hidden1.path, network[0].hidden1.choose_path(1)]
    file = tmp_path / FORMATS[format]
    wc.export(network, file, torch.full((2, 1, 28, 28), math.pi), format=format)
    assert network.training
    assert network[1].training
    assert [network[0].hidden1.path, network[0].hidden1.choose_path(1)] == paths
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, before[name])
    data = file.read_bytes()
    if format == "torch":
        with zipfile.ZipFile(file) as archive:
            data = b"".join(archive.read(name) for name in archive.namelist())
    assert str(Path(wc.__file__).parent).encode() not in data
    assert str(Path(torch.__file__).parent).encode() not in data
    assert torch.full((100,), math.pi).numpy().tobytes() not in data  # the example


class Asks(nn.Module):
    def forward(self, x):
        return x if bool(x.sum() > 0) else -x


class Repeats(nn.Module):
    def forward(self, x):
        return x.new_ones(len(x), 1)


class Misfits(nn.Module):
    def forward(self, x):
        return x @ x.new_ones(7, 7)


class Detaches(nn.Module):
    def forward(self, x):
        return torch.from_numpy(x.numpy())


def above(module):
    """A network with a module in the midst of it."""
    return nn.Sequential(nn.ReLU(), nn.ModuleDict({"part": module})["part"])


@pytest.mark.parametrize(
    ("model", "options", "message"),
    [
        (
            Asks(),
            {},
            r"torch.export cannot trace this model with a free batch: Asks, line \d+: .*"
            r"data-dependent .* What it computes depends on the numbers .* choose with torch.where",
        ),
        (above(Asks()), {"dynamic_batch": False}, r"this model: '1' \(Asks\), line \d+: Could not"),
        (
            above(Repeats()),
            {},
            r"Constraints violated \(.*\)\. .* write x.shape\[0\] there, or take",
        ),
        (
            above(Detaches()),
            {},
            r"batch: '1' \(Detaches\), .*numpy.* Write that part in operations",
        ),
        (
            above(Misfits()),
            {},
            r"the model itself fails on inputs of shape \(2, 3\): '1' \(Misfits\), line \d+: .*"
            r"2x3 and 7x7\)\. Give inputs that it takes",
        ),
    ],
)
def test_what_cannot_be_traced_is_named_with_a_remedy(model, options, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        wc.export(model, tmp_path / "m.onnx", torch.ones(2, 3), **options)


@pytest.mark.parametrize(
    ("model", "name", "options", "message"),
    [
        (nn.ReLU(), "m.onnx", {"format": "tflite"}, "format is 'tflite': take 'onnx' or 'torch'"),
        (nn.ReLU(), "m.onnx", {"form": "dense"}, "form is 'dense': take 'factored' or 'merged'"),
        (nn.ReLU(), "m.pt", {"format": "torch"}, r"m\.pt must end in \.pt2"),
        (Asks(), "m.onnx", {}, "torch.export cannot trace this model with a free batch: "),
    ],
)
def test_what_cannot_be_exported_is_refused(model, name, options, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        wc.export(model, tmp_path / name, torch.ones(2, 3), **options)
    assert list(tmp_path.iterdir()) == []


def test_inputs_are_tensors(tmp_path):
    for inputs, kinds in ([], r"\[\]"), ([1.0], r"\['float'\]"):
        with pytest.raises(ValueError, match=f"inputs are {kinds}: give a tensor"):
            wc.export(nn.ReLU(), tmp_path / "m.onnx", inputs)


@pytest.fixture
def command(tmp_path, monkeypatch, capsys):
    """Run the command in a folder of its own; returns code, stdout, stderr."""
    monkeypatch.chdir(tmp_path)

    def command(*arguments):
        code = main([str(argument) for argument in arguments])
        return code, *capsys.readouterr()

    return command


CONFIG = """
model: {hidden: [60, 40]}
plan:
  rules:
    hidden1: {dictionary: {kind: Kernel}, fraction: 0.05, columns: 4, grid: [28, 28]}
training: {epochs: 1}
n_train: 500
output: run
"""


def test_the_command_exports_a_run(command, tmp_path):
    (tmp_path / "run.yaml").write_text(CONFIG)
    assert command("train", "run.yaml")[0] == 0
    for format, name in FORMATS.items():
        for form in ("factored", "merged"):
            how = ("--output", name, "--format", format, "--form", form)
            code, out, err = command("export", "run", *how)
            assert (code, err) == (0, "")
            first, *_, last = out.splitlines()
            size = (tmp_path / name).stat().st_size
            assert first == f"{name}: {size:,} bytes, {format}, {form}"
            assert last.startswith("largest difference  ")
            assert float(last.split()[2]) < 1e-5
            assert last.endswith("of the largest output; batches of 2, 1, 5")
    (tmp_path / "run" / "data.json").unlink()
    code, _, err = command("export", "run", "--output", "m.onnx")
    assert code == 2
    assert "run is no run of weightcast train: data.json is missing. Name" in err


FACTORY = """
from torch import nn

def make():
    return nn.Sequential(nn.Linear(24, 7))

def number():
    return 7
"""


def test_the_command_imports_a_factory_only_when_it_may(command, tmp_path):
    layer = LAYERS["Linear"].build(dtype=torch.float32)
    wc.save(nn.Sequential(layer), tmp_path / "saved")
    (tmp_path / "mine.py").write_text(FACTORY)
    export = ("export", "saved", "--output", "m.onnx", "--factory")
    allowed = ("--allow-import", "--input-shape", "[24]")
    refused = {
        (
            "mine:make",
            "--input-shape",
            "[24]",
        ): "mine:make is a function, and to import it",
        ("mine:make", "--allow-import"): "say what one example looks like",
        ("mine", *allowed): "there is no mine: name a .safetensors, .pt or .pth file",
        ("mine:mak", *allowed): "mine:mak: mine has no 'mak'",
        ("nowhere:make", *allowed): "nowhere:make: there is no module 'nowhere'",
        ("mine:number", *allowed): "mine:number returned a int: expected a module",
    }
    for words, message in refused.items():
        code, out, err = command(*export, *words)
        assert (code, out) == (2, "")
        assert err.startswith(f"weightcast: error: {message}"), err
    code, out, err = command(*export, "mine:make", *allowed, "--fixed-batch", 3)
    assert code == 0, err
    assert out.endswith("batches of 3\n")
    x = torch.randn(3, 24)
    torch.testing.assert_close(run(tmp_path / "m.onnx", x)[0], layer(x).detach())


def test_a_file_that_the_runtime_cannot_run_is_refused_and_not_written(tmp_path):
    class Projected(nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn = nn.LSTM(8, 12, proj_size=4, batch_first=True)

        def forward(self, x):
            return self.rnn(x)[0]

    model = wc.convert(Projected(), {"*": wc.Rule(wc.dictionaries.DCT(), 0.5)})
    with pytest.raises(ValueError, match=r"onnxruntime cannot run .*: take format='torch'"):
        wc.export(model, tmp_path / "model.onnx", torch.randn(3, 5, 8))
    assert not list(tmp_path.iterdir())
    assert wc.export(model, tmp_path / "model.pt2", torch.randn(3, 5, 8), format="torch").exists()


def test_a_file_that_cannot_be_tried_here_is_written_with_a_warning(tmp_path):
    model = wc.convert(nn.Linear(8, 4).bfloat16(), {"": wc.Rule(wc.dictionaries.DCT(), 0.5)})
    with pytest.warns(UserWarning, match="was not tried: .*NOT_IMPLEMENTED"):
        wc.export(model, tmp_path / "model.onnx", torch.randn(3, 8).bfloat16())
    assert (tmp_path / "model.onnx").exists()
