"""Contenders: the dense network, a predicted one, or a peer, and how each is built."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import time
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, Literal

import torch
from torch import Tensor, nn

from weightcast.layers import predicted_layers
from weightcast.plan.plan import Plan
from weightcast.transform.convert import convert
from weightcast.weight import ExecutionPath
from weightcast_lab.bench.cases import Case
from weightcast_lab.bench.peers import build_peer, find_peer
from weightcast_lab.bench.recipes import make_plan

DENSE, PREDICTED = "dense", "predicted"

BenchPath = ExecutionPath | Literal["fused"]
"""``fused`` is the factored path by the kernel in ``bench/fused.py``."""


@dataclass(frozen=True)
class Contender:
    """One way to compute a case.

    Args:
        kind: ``dense``, ``predicted``, or a peer's name.
        fraction: share of each predicted layer's weights that is learned; of a peer, the share of
            the predicted network that it matches.
        dictionary: of a predicted network, the recipe's name.
        columns: of a predicted network.
        path: of a predicted network.
    """

    kind: str = DENSE
    fraction: float | None = None
    dictionary: str | None = None
    columns: int | None = None
    path: BenchPath | None = None

    @property
    def label(self) -> str:
        """What it is called in rows and tables."""
        if self.kind == DENSE:
            return DENSE
        share = f"{100 * (self.fraction or 0):g} %"
        if self.kind != PREDICTED:
            return f"{self.kind}, {share}"
        columns = "1 column" if self.columns == 1 else f"{self.columns} columns"
        return f"{self.dictionary}, {share}, {columns}, {self.path}"

    def to_dict(self) -> dict[str, Any]:
        """JSON data, without what does not apply."""
        return {k: v for k, v in dataclasses.asdict(self).items() if v is not None}

    def to_json(self) -> str:
        """One line of JSON."""
        return json.dumps(self.to_dict())

    @classmethod
    def from_json(cls, text: str) -> Contender:
        """Read what :meth:`to_json` wrote."""
        return cls(**json.loads(text))


def build(
    case: Case, contender: Contender, device: torch.device | str = "cpu", seed: int = 0
) -> tuple[nn.Module, float]:
    """Build a contender.

    Args:
        case: the dense network.
        contender: what to make of it.
        device: where it is wanted.
        seed: of weights and atoms.

    Returns:
        The network, and the seconds that its dictionaries and V took to make (0 for others).

    Raises:
        ValueError: what the plan or a dictionary cannot do.
    """
    if contender.kind == DENSE:
        return case.make(seed).to(device), 0.0
    fraction = contender.fraction or 1.0
    if contender.kind != PREDICTED:
        model = build_peer(case, find_peer(contender.kind), fraction, seed)
        return model.to(device), 0.0
    columns, path = contender.columns or 1, contender.path or "auto"
    plan = make_plan(case, str(contender.dictionary), fraction, columns)
    model = case.make(seed)
    inputs = example_inputs(case, plan)
    start = time.perf_counter()
    convert(model, plan, inputs=inputs, seed=seed, inplace=True)
    seconds = time.perf_counter() - start
    return force_path(model.to(device), path), seconds


def force_path(model: nn.Module, path: BenchPath) -> nn.Module:
    """Let all predicted layers of a model compute along one path; the model is returned."""
    for layer in predicted_layers(model).values():
        layer.path, layer.product = counted_path(path), None
    if path == "fused":
        from weightcast_lab.bench.fused import use_kernel  # imports Triton

        use_kernel(model)
    return model


def counted_path(path: BenchPath) -> ExecutionPath:
    """The path whose multiply-adds these are."""
    return "factored" if path == "fused" else path


def no_kernel(case: Case, device: str) -> str | None:
    """Why ``fused`` cannot be measured; None where it can."""
    if find_spec("triton") is None:
        return "path fused needs triton: pip install 'weightcast[gpu]'"
    if device != "cuda" and os.environ.get("TRITON_INTERPRET") != "1":
        return "path fused needs a GPU, or TRITON_INTERPRET=1 to be checked slowly"
    if not case.only_linear:
        return f"path fused does not know the convolutions of {case.name}"
    return None


def example_inputs(case: Case, plan: Plan) -> list[Tensor] | None:
    """Noise for covariances, about two rows per input; None where the plan needs no data.

    Args:
        case: the network; a single convolution has a row for every output position.
        plan: its rules.
    """
    rules = {name: rule for name, rule in plan.rules.items() if rule is not None}
    driven = {name for name, rule in rules.items() if rule.dictionary.needs}
    if not driven:
        return None
    widest = max(n_visible for name, (n_visible, _) in case.shapes().items() if name in driven)
    positions = math.prod(case.input_shape[1:]) if len(rules) == 1 else 1
    return list(case.inputs(-(-2 * widest // positions)).detach().split(1024))
