"""Compression after training: V in closed form beside truncated and activation-aware SVD.

    python -m weightcast_lab.studies.compression --mnist path/to/mnist --cifar10 path/to/cifar10 \
        --text path/to/text --rows results/compression.jsonl

Trained networks are compressed to a share of the numbers that their layers (all but the classifier)
hold. Everything that a file must hold counts: V, indices, and dictionaries that cannot be rebuilt;
of an SVD both factors. Methods may look at 5,000 training images (convolutional networks: 500, the
GPT: 200 windows). What was chosen (ridge, target, rate of fine-tuning) was chosen for the MLP on
5,000 training images that were set aside (``--choose``), and is the same for all; the test data is
read once per row. Rows that are in the file already are not computed again.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from weightcast.dictionaries import LowRank
from weightcast.grid import Grid
from weightcast.inputs.batches import as_batches
from weightcast.inputs.gather import MOMENTS
from weightcast.inputs.walk import Walk
from weightcast.layers import view
from weightcast.layers.counts import ledger
from weightcast.layers.rule import Rule
from weightcast.plan.budget import gather_offers
from weightcast.plan.plan import Plan
from weightcast.plan.suggest import suggest
from weightcast.serialization import encode
from weightcast.transform.compress import compress
from weightcast_lab.bench.scripts import make_parser, markdown, mean_and_spread, read_finished, say
from weightcast_lab.studies.modern import PREDICTED
from weightcast_lab.sweeps.rows import Row, append_row, make_row, read_rows
from weightcast_lab.training import (
    Images,
    Text,
    TrainingSettings,
    convnet,
    fit,
    gpt,
    load_images,
    load_text,
    measure,
    mlp,
    resnet20,
)

BATCH, COLUMNS, CONTEXT = 250, 10, 64
FINE_TUNING = TrainingSettings(epochs=1, learning_rate=1e-3)


@dataclass(frozen=True)
class Network:
    """One of the networks that are compressed.

    Args:
        source: the option that names its data.
        make: data and seed to the network.
        training: how it is trained.
        n_train: training images or windows; None takes all.
        examples: of them, those that methods may look at.
        fractions: what is stored, of the weights of its layers.
        layers: a plan's key for the layers that are compressed.
        grids: of those whose inputs have coordinates.
    """

    source: str
    make: Callable[[Any, int], nn.Module]
    training: TrainingSettings
    n_train: int | None
    examples: int
    fractions: tuple[float, ...]
    layers: str
    grids: Mapping[str, Grid]


SMALL, LARGE = (0.02, 0.05, 0.1, 0.25), (0.1, 0.25, 0.5)  # of small layers a rank is more
NETWORKS = {
    "mlp": Network(
        "mnist",
        lambda data, seed: mlp(data.shape, data.n_classes, hidden=(500, 500), seed=seed),
        TrainingSettings(epochs=5),
        None,
        5_000,
        SMALL,
        r"re:hidden\d",
        {"hidden1": Grid((28, 28))},
    ),
    "convnet": Network(
        "cifar10",
        lambda data, seed: convnet(data.shape, data.n_classes, hidden=(24, 32, 32, 256), seed=seed),
        TrainingSettings(epochs=6),
        10_000,
        500,  # a convolution sees an image at hundreds of places
        SMALL,
        r"re:conv\d|hidden",
        {},
    ),
    "resnet20": Network(
        "cifar10",
        lambda data, seed: resnet20(data.shape, data.n_classes, seed=seed),
        TrainingSettings(epochs=6, batch_size=50, learning_rate=4e-3),
        10_000,
        500,
        LARGE,
        PREDICTED["resnet20"],
        {},
    ),
    "gpt": Network(
        "text",
        lambda data, seed: gpt(data.n_classes, CONTEXT, 64, seed=seed),
        TrainingSettings(epochs=1, batch_size=16, learning_rate=2e-3),
        12_000,
        200,
        LARGE,
        PREDICTED["gpt"],
        {},
    ),
}
SVD, ASVD, LOW_RANK, WEIGHTS, OUTPUTS, SHARED = (
    "truncated SVD",
    "activation-aware SVD",
    "compress with inputs, LowRank",
    "compress without inputs",
    "compress with inputs",
    "compress with inputs, shared budget",
)
TUNED = ", one epoch"
METHODS = ("dense", SVD, ASVD, ASVD + TUNED, LOW_RANK, WEIGHTS, OUTPUTS, OUTPUTS + TUNED, SHARED)
"""In the order of the table."""


def factorise(
    model: nn.Module, names: Mapping[str, Any], fraction: float, inputs: list[Tensor] | None
) -> nn.Module:
    """W = A B of the rank that a share of the weights pays for; with inputs, best for x W.

    Layer by layer on the inputs that the layers below leave, with S from x^T x = S^T S and the SVD
    of S W (Wang et al. 2024, SVD-LLM).
    """
    small = copy.deepcopy(model)
    for name in names:
        layer: Any = small.get_submodule(name)
        W = layer.weight.detach().double().flatten(1).t()  # (n_visible, n_units)
        rank = max(1, int(fraction * W.numel() / sum(W.shape)))
        if inputs is None:
            left, values, right = torch.linalg.svd(W, full_matrices=False)
            A, B = left[:, :rank] * values[:rank], right[:rank]
        else:
            C = second_moment(small, layer, inputs)
            S = torch.linalg.cholesky(C + 1e-6 * C.diagonal().mean() * torch.eye(len(C))).mT
            left, values, right = torch.linalg.svd(S @ W, full_matrices=False)
            scaled = left[:, :rank] * values[:rank]
            A, B = torch.linalg.solve_triangular(S, scaled, upper=True), right[:rank]
        small.set_submodule(name, factors(layer, A.float(), B.float()))
    return small


def second_moment(model: nn.Module, layer: nn.Module, inputs: list[Tensor]) -> Tensor:
    """E[x^T x] of the rows that a layer is given."""
    total, n_rows = torch.zeros((), dtype=torch.float64), 0

    def hook(module: nn.Module, arguments: Any) -> None:
        nonlocal total, n_rows
        rows = view(module).input_rows(arguments[0]).double()
        total, n_rows = total + rows.t() @ rows, n_rows + len(rows)

    handle = layer.register_forward_pre_hook(hook)
    with torch.no_grad():
        for batch in inputs:
            model(batch)
    handle.remove()
    return total / n_rows


def factors(layer: Any, A: Tensor, B: Tensor) -> nn.Sequential:
    """Two layers in place of one: A's columns as units, then B."""
    rank = A.shape[1]
    if isinstance(layer, nn.Linear):
        first: Any = nn.Linear(layer.in_features, rank, bias=False)
        second: Any = nn.Linear(rank, layer.out_features)
    else:
        first = nn.Conv2d(
            layer.in_channels, rank, layer.kernel_size, layer.stride, layer.padding, bias=False
        )
        second = nn.Conv2d(rank, layer.out_channels, 1, bias=layer.bias is not None)
    with torch.no_grad():
        first.weight.copy_(A.t().reshape(first.weight.shape))
        second.weight.copy_(B.t().reshape(second.weight.shape))
        if layer.bias is not None:
            second.bias.copy_(layer.bias)
    return nn.Sequential(first, second)


def low_rank(model: nn.Module, grids: Mapping[str, Any], fraction: float) -> Plan:
    """The ranks of the SVDs, with the dense network's outputs as targets and biases fitted anew."""
    rules: dict[str, Any] = {}
    for name in grids:
        weight: Any = model.get_submodule(name).weight
        n_units, n_visible = weight.shape[0], weight[0].numel()
        rank = max(1, int(fraction * weight.numel() / (n_units + n_visible + 1)))  # and an index
        rules[name] = Rule(LowRank(), rank / n_visible)
    return Plan(rules)


def equal_shares(
    model: nn.Module, grids: Mapping[str, Grid | None], fraction: float, inputs: Any, seed: int
) -> Plan:
    """Every layer the best dictionary for its own share, as an SVD gets it."""
    rules: dict[str, Any] = {}
    needs = dict.fromkeys(grids, (MOMENTS, "covariance"))
    with ExitStack() as stack:
        walk = None
        if inputs is not None:
            batches = as_batches(inputs)
            walk = stack.enter_context(Walk(model, grids, batches, needs, seed, refresh="never"))
        how: dict[str, Any] = {"count": "stored", "seed": seed, "progress": False}
        offers = gather_offers(model, grids, walk, COLUMNS, **how)
    for name, grid in grids.items():
        weight = model.get_submodule(name).weight.numel()  # pyright: ignore
        budget = ledger(model).total.stored - weight + int(fraction * weight)
        one = {name: offers.by_layer[name]}
        alone = replace(offers, grids={name: grid}, sites={name: offers.sites[name]}, by_layer=one)
        rules |= alone.for_budget(budget).rules
    return Plan(rules)


def shared_budget(
    model: nn.Module, grids: Mapping[str, Grid | None], fraction: float, inputs: Any, seed: int
) -> Plan:
    """The same numbers in all, shared as ``suggest`` shares them."""
    weights = sum(model.get_submodule(name).weight.numel() for name in grids)  # pyright: ignore
    budget = ledger(model).total.stored - weights + int(fraction * weights)
    return suggest(
        model, None, inputs, COLUMNS, budget=budget, count="stored", seed=seed, progress=False
    )


class CompressionStudy:
    """One trained network with all that is made of it.

    Args:
        network: of ``NETWORKS``.
        data: its own; with a validation split where choices are made.
        seed: of the network.
        folder: where trained networks are kept.
    """

    def __init__(self, network: str, data: Images | Text, seed: int, folder: Path) -> None:
        self.network, self.data, self.seed, kind = network, data, seed, NETWORKS[network]
        self.settings, self.fractions = kind.training, kind.fractions
        self.trained_on = data if kind.n_train is None else data.fewer(kind.n_train)
        kept = "all" if data.validation is None else "chosen"
        file = folder / f"{network}-{seed}-{kept}.safetensors"
        self.model = kind.make(data, seed)
        layers = Plan({kind.layers: Rule(LowRank(), 0.5), "*": None}).resolve(self.model)
        self.grids = {name: kind.grids.get(name) for name in layers}
        if file.exists():
            self.model.load_state_dict(load_file(file))
        else:
            say(f"training {network}, seed {seed}")
            fit(self.model, self.trained_on, self.settings, seed=seed, progress=False)
            folder.mkdir(parents=True, exist_ok=True)
            save_file(self.model.state_dict(), file)
        self.model.eval()
        self.inputs = list(self.trained_on.train[0][: kind.examples].split(BATCH))

    def make(self, method: str, fraction: float, **options: Any) -> nn.Module:
        """The compressed network."""
        if method in (SVD, ASVD):
            inputs = self.inputs if method == ASVD else None
            return factorise(self.model, self.grids, fraction, inputs)
        inputs = None if method == WEIGHTS else self.inputs
        if method == LOW_RANK:
            self.plan = low_rank(self.model, self.grids, fraction)
            return compress(self.model, self.plan, inputs, progress=False, **options)
        planned = shared_budget if method == SHARED else equal_shares
        plan = planned(self.model, self.grids, fraction, inputs, self.seed)
        self.plan = plan
        return compress(self.model, plan, inputs, seed=self.seed, progress=False, **options)

    def tune(self, model: nn.Module, settings: TrainingSettings = FINE_TUNING) -> nn.Module:
        """One epoch more."""
        model = copy.deepcopy(model).train()
        fit(model, self.trained_on, settings, seed=self.seed, progress=False)
        return model

    def rows(self, done: set[tuple[Any, ...]]) -> Iterator[Row]:
        """What is missing."""

        def missing(method: str, fraction: float) -> bool:
            return (self.network, method, fraction, self.seed) not in done

        if missing("dense", 1.0):
            yield self.row("dense", 1.0, self.model)
        for fraction in self.fractions:
            for method in (SVD, ASVD, LOW_RANK, WEIGHTS, OUTPUTS, SHARED):
                tunes = method in (ASVD, OUTPUTS) and missing(method + TUNED, fraction)
                if not (tunes or missing(method, fraction)):
                    continue
                small = self.make(method, fraction)
                if missing(method, fraction):
                    yield self.row(method, fraction, small)
                if tunes:
                    yield self.row(method + TUNED, fraction, self.tune(small))

    def row(self, method: str, fraction: float, model: nn.Module) -> Row:
        """A row: how it does on the test split, and the numbers that the network stores."""
        total, score = ledger(model).total, measure(model, self.data.test)
        config: dict[str, Any] = {
            "network": self.network,
            "training": encode(self.settings),
            "examples": NETWORKS[self.network].examples,
        }
        if method.endswith(TUNED):
            config["fine_tuning"] = encode(FINE_TUNING)
        row = make_row(
            experiment="compression",
            variant=f"{self.network}, {method}, {100 * fraction:g} %",
            dataset=self.data.name,
            seed=self.seed,
            config=config,
            counts={"dense": ledger(self.model).total.dense, "learned": total.learned}
            | {"stored": total.stored},
            metrics={"test_error": score.error, "test_loss": score.loss},
        )
        row["labels"] = {"network": self.network, "curve": method, "fraction": fraction}
        if method.startswith("compress"):  # a result: what was chosen depends on the network
            row["plan"] = self.plan.to_dict()
        return row


def choose(study: CompressionStudy) -> Iterator[tuple[str, float]]:
    """Validation errors of what was chosen."""
    part = study.data.validation
    assert part is not None
    tried: list[dict[str, Any]] = [{"target": value} for value in ("dense", "compressed")]
    tried += [{"ridge": value} for value in (1e-5, 1e-4, 1e-3, 1e-2, 1e-1)]
    tried += [{"selection": value} for value in ("fitted", "plan")]
    for fraction in (0.02, 0.05):
        for options in tried:
            (name, value), *_ = options.items()
            small = study.make(OUTPUTS, fraction, **options)
            yield f"{fraction:.0%}, {name} {value}", measure(small, part).error
    for method in (ASVD, OUTPUTS):
        small = study.make(method, 0.05)
        for rate in (2e-4, 5e-4, 1e-3, 2e-3):
            tuned = study.tune(small, replace(FINE_TUNING, learning_rate=rate))
            yield f"5%, {method}, rate {rate:g}", measure(tuned, part).error


def table(rows: Sequence[Row], network: str) -> str:
    """One network's test errors in percent, of text its losses in nats, as a table in Markdown."""
    metric = "test_loss" if NETWORKS[network].source == "text" else "test_error"
    cells: dict[str, dict[float, list[float]]] = {}
    for row in rows:
        labels = row["labels"]
        if labels["network"] == network:
            line = cells.setdefault(labels["curve"], {})
            line.setdefault(labels["fraction"], []).append(row["metrics"][metric])
    fractions = NETWORKS[network].fractions
    head = [f"{network}, {metric}", *(f"{100 * fraction:g} %" for fraction in fractions), "100 %"]
    lines = [head]
    for method in filter(cells.get, METHODS):
        errors = cells[method]
        values = [errors.get(fraction, []) for fraction in (*fractions, 1.0)]
        lines.append([method, *map(mean_and_spread, values)])
    return markdown(lines)


def main() -> None:
    """Compute what is missing, row by row."""
    parser = make_parser(__doc__)
    parser.add_argument("--mnist", help="folder, prepared file or Hub name; leave out: no mlp")
    parser.add_argument("--cifar10", help="the same; leave out: no convnet, no resnet20")
    parser.add_argument("--text", help="a file; leave out: no gpt")
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--rows", type=Path, default=Path("results/compression.jsonl"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--choose", action="store_true", help="print validation errors instead")
    parser.add_argument("--table", action="store_true", help="print the rows as a table instead")
    parser.add_argument("--folder", type=Path, default=Path("runs/compression-study"))
    options = parser.parse_args()
    if options.table:
        rows = read_rows(options.rows)
        print(*(table(rows, network) for network in options.networks), sep="\n\n")
        return
    done: set[tuple[Any, ...]] = set()
    for row in read_finished(options.rows):
        labels = row["labels"]
        done.add((labels["network"], labels["curve"], labels["fraction"], row["seed"]))
    for network in options.networks:
        source = getattr(options, NETWORKS[network].source)
        if source is None:
            continue
        data = read(NETWORKS[network].source, source, aside=options.choose)
        for seed in options.seeds[:1] if options.choose else options.seeds:
            study = CompressionStudy(network, data, seed, options.folder)
            if options.choose:
                for what, error in choose(study):
                    print(f"{network}  {what:40s} {error:6.2f} %", flush=True)
                continue
            for row in study.rows(done):
                append_row(options.rows, row)
                metrics = row["metrics"]
                found = f"{metrics['test_error']:.2f} %, {metrics['test_loss']:.4f} nats"
                say(f"{row['variant']}, seed {seed}: {found}")


def read(kind: str, source: str, *, aside: bool) -> Images | Text:
    """The data of one option; with ``aside`` a validation split too."""
    if kind == "text":
        return load_text(source, context=CONTEXT, n_validation=500 if aside else 0)
    images = load_images(source, n_validation=5_000 if aside else 0)
    return replace(images, name={"mnist": "mnist", "cifar10": "cifar10 (JPEG copy)"}[kind])


if __name__ == "__main__":
    main()
