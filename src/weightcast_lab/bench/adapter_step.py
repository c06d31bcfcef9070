"""A step of training of an adapted encoder, and what memory it takes, beside LoRA's.

    python -m weightcast_lab.bench.adapter_step --rows results/adapter_step.ndjson

Six blocks of MiniLM's sizes with random weights, 32 texts of 32 tokens; all methods learn as many
weights. Steps are timed in turn in one process. Counted are the bytes that a forward pass leaves
for the backward pass, and the most that a step has allocated at a time. Measured is the peak of
what network, gradients, optimiser and two steps add to a process of their own: with what C's
allocator does not give back.
"""

from __future__ import annotations

import importlib
import tempfile
from collections.abc import Callable
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

import weightcast as wc
from weightcast.storage import checkpoint_bytes, saved_bytes
from weightcast_lab.bench.memory import can_measure, peak_mebibytes
from weightcast_lab.bench.scripts import make_parser, run_module
from weightcast_lab.bench.timing import Spread, alternate, ratios
from weightcast_lab.sweeps.rows import Row, append_row, make_row

LINEAR = ["query", "key", "value", "dense"]
MODULE, N_ATOMS = "weightcast_lab.bench.adapter_step", 4


def encoder(width: int = 384, n_blocks: int = 6) -> Any:
    """Random weights, for time and memory do not depend on them."""
    transformers = importlib.import_module("transformers")
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=3000,
        hidden_size=width,
        num_hidden_layers=n_blocks,
        num_attention_heads=12,
        intermediate_size=4 * width,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    return transformers.BertModel(config, add_pooling_layer=False)


def ours(network: nn.Module, columns: int = 16) -> nn.Module:
    """U from inputs, V of four atoms for each unit."""
    rule = wc.Rule(wc.dictionaries.PCA(whiten=True), n_atoms=N_ATOMS, columns=columns)
    batches = [{"input_ids": batch} for batch in torch.randint(3000, (4, 32, 32))]
    return wc.adapt(network, {"re:encoder.*": rule}, inputs=batches)


def relative(network: nn.Module) -> nn.Module:
    """V as large, whose U V is a share of W0."""
    rule = wc.Rule(wc.dictionaries.DCT(), n_atoms=N_ATOMS, relative=True)
    return wc.adapt(network, {"re:encoder.*": rule})


def lora(network: nn.Module, rank: int = N_ATOMS // 2) -> nn.Module:
    """PEFT's, of half as many ranks, for it learns both factors."""
    peft = importlib.import_module("peft")
    return peft.get_peft_model(network, peft.LoraConfig(r=rank, target_modules=LINEAR))


def fixed(network: nn.Module) -> nn.Module:
    """LoRA whose A stays as it was drawn, as LoRA-FA."""
    model = lora(network, N_ATOMS)
    for name, parameter in model.named_parameters():
        if "lora_A" in name:
            parameter.requires_grad_(False)
    return model


def frozen(network: nn.Module) -> nn.Module:
    """Nothing added, and a gradient that goes all the way, to the first bias."""
    network.requires_grad_(False)
    network.get_parameter("embeddings.LayerNorm.bias").requires_grad_(True)
    return network


CONTENDERS: dict[str, Callable[[nn.Module], nn.Module]] = {
    "frozen": frozen,
    "LoRA": lora,
    "LoRA, A fixed": fixed,
    "weightcast, 16 columns": ours,
    "weightcast, 32 columns": partial(ours, columns=32),
    "weightcast, relative": relative,
    "all weights": lambda network: network,
}


def learned(model: nn.Module) -> list[nn.Parameter]:
    """What a step moves."""
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def step_of(model: nn.Module, tokens: Tensor) -> Callable[[], None]:
    """A training step by Adam, which the network's sum of squares is to lessen."""
    optimiser = torch.optim.Adam(learned(model), 1e-4)

    def step() -> None:
        model(input_ids=tokens).last_hidden_state.square().mean().backward()
        optimiser.step()
        optimiser.zero_grad()

    return step


def kept_bytes(model: nn.Module, tokens: Tensor) -> int:
    """What a forward pass leaves behind for the backward pass, its outcome included."""
    outcome = []
    return sum(_allocations(lambda: outcome.append(model(input_ids=tokens))))


def allocated_bytes(step: Callable[[], None]) -> int:
    """The most that a step holds at a time of what it has allocated itself."""
    step()  # the optimiser makes its state
    return max(accumulate(_allocations(step)))


def _allocations(run: Callable[[], None]) -> list[int]:
    """Bytes that are allocated, and below zero that are freed, one after the other."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        run()
    profiler: Any = seen.profiler
    changes = [event for event in profiler.kineto_results.events() if event.name() == "[memory]"]
    return [event.nbytes() for event in sorted(changes, key=lambda event: event.start_ns())]


def sizes(adapted: nn.Module) -> dict[str, int]:
    """Bytes of an adapter's folder, as we keep it and as PEFT does."""
    with tempfile.TemporaryDirectory() as folder:
        wc.export_peft(adapted, Path(folder) / "lora")
        lora = saved_bytes(Path(folder) / "lora")
    own = {"saved": checkpoint_bytes(adapted), "in 8 bits": checkpoint_bytes(adapted, bits=8)}
    return own | {"as PEFT's": lora}


def rows_of(rounds: int) -> list[Row]:
    """A row for each contender: its step in LoRA's, what is kept, and the peak."""
    models = {name: make(encoder()) for name, make in CONTENDERS.items()}
    tokens = torch.randint(3000, (32, 32))
    seconds = alternate({name: step_of(model, tokens) for name, model in models.items()}, rounds)
    made = []
    for name, model in models.items():
        over, peak = ratios(seconds[name], seconds["LoRA"]), None
        if can_measure("cpu"):
            peak = float(run_module(MODULE, "--contender", name).split()[-1])
        metrics = {
            "seconds": Spread.of(seconds[name]).median, "over_lora": over.median,
            "over_lora_low": over.low, "over_lora_high": over.high,
            "kept_megabytes": kept_bytes(model, tokens) / 1e6,
            "step_megabytes": allocated_bytes(step_of(model, tokens)) / 1e6,
            "peak_mebibytes": peak,
        }  # fmt: skip
        row = make_row(
            experiment="adapter_step", variant=name, dataset="random tokens", seed=0,
            config={"threads": torch.get_num_threads(), "rounds": rounds}, metrics=metrics,
            counts={"learned": sum(p.numel() for p in learned(model))},
        )  # fmt: skip
        made.append(row)
    return made


def main() -> None:
    """Time all in turn, print what was found, and write its rows."""
    parser = make_parser(__doc__)
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--rows", type=Path, help="file to append to; none")
    parser.add_argument("--contender", choices=CONTENDERS, help="print the peak of one, MiB")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.contender is not None:
        make = CONTENDERS[options.contender]
        print(peak_mebibytes(lambda: step_of(make(encoder()), torch.randint(3000, (32, 32)))))
        return
    for name, make in {"of directions": ours, "relative": relative}.items():
        made = sizes(make(encoder())).items()
        print(f"bytes {name}:", ", ".join(f"{kind} {size:,}" for kind, size in made))
    for row in rows_of(options.rounds):
        print(row["variant"], row["counts"], row["metrics"])
        if options.rows is not None:
            append_row(options.rows, row)


if __name__ == "__main__":
    main()
