"""A compressed language model at inference: tokens a second, as it is and merged.

    python -m weightcast_lab.studies.compress_speed --rows results/compress_speed.ndjson

SmolLM2-135M continues a prompt with a cache of keys and values, one token at a time, and reads the
prompt at once. Its blocks' matrices are compressed without inputs, for the values of V do not
matter here: to singular vectors, which cost what V and the atoms do, and to sparse atoms. Each
is timed as compress returns it and after ``merge``, beside the dense network; all in turn in one
process, and ratios are formed round by round.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

import weightcast as wc
from weightcast_lab.bench.scripts import make_parser, say
from weightcast_lab.bench.timing import Spread, alternate, ratios
from weightcast_lab.networks.pretrained.language import smollm2
from weightcast_lab.sweeps.rows import Row, append_row, make_row

SHARES = {"singular vectors": (0.4, 0.25), "sparse atoms": (0.6,)}
"""Atoms over inputs; at 0.4 singular vectors of a square matrix store 80 % of its numbers."""

MATRICES = "re:.*(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"


def networks(dense: nn.Module) -> dict[str, nn.Module]:
    """The dense network and every compressed one, factored and merged."""
    kinds = {
        "singular vectors": wc.dictionaries.SingularVectors(),
        "sparse atoms": wc.dictionaries.SparseAtoms(),
    }
    found = {"dense": dense}
    for name, shares in SHARES.items():
        for share in shares:
            small = wc.compress(dense, {MATRICES: wc.Rule(kinds[name], share)}, progress=False)
            stored = wc.ledger(small).total.stored / wc.ledger(dense).total.stored
            say(f"{name} at {share:.0%}: {stored:.1%} of the network's numbers")
            found[f"{name}, {share:.0%}"] = small.eval()
            found[f"{name}, {share:.0%}, merged"] = wc.merge(small).eval()
    return found


def reader(model: Any, prompt: torch.Tensor) -> Callable[[], None]:
    """Reads the prompt at once."""

    def read() -> None:
        with torch.inference_mode():
            model(prompt, use_cache=True)

    return read


def writer(model: Any, prompt: torch.Tensor, n_tokens: int) -> Callable[[], None]:
    """Adds tokens to a prompt that has been read, its own likeliest, one at a time."""
    with torch.inference_mode():
        first = model(prompt, use_cache=True)

    def write() -> None:
        with torch.inference_mode():
            cache, token = first.past_key_values, first.logits[:, -1:].argmax(-1)
            for _ in range(n_tokens):
                token = model(token, past_key_values=cache, use_cache=True).logits.argmax(-1)
            cache.crop(-n_tokens)  # the next time begins where this one did

    return write


def rows_of(rounds: int, n_prompt: int, n_tokens: int) -> list[Row]:
    """One row for each network: tokens a second, and times over the dense network's."""
    dense, _ = smollm2()
    prompt = torch.randint(1000, 20000, (1, n_prompt), generator=torch.Generator().manual_seed(0))
    models = networks(dense)
    tasks: dict[str, tuple[int, dict[str, Callable[[], None]]]] = {
        "read": (n_prompt, {name: reader(model, prompt) for name, model in models.items()}),
        "write": (n_tokens, {name: writer(m, prompt, n_tokens) for name, m in models.items()}),
    }
    metrics: dict[str, dict[str, float | None]] = {name: {} for name in models}
    for task, (n, actions) in tasks.items():
        seconds = alternate(actions, rounds)
        for name, own in seconds.items():
            over = ratios(own, seconds["dense"])
            metrics[name] |= {
                f"{task}_tokens_per_second": n / Spread.of(own).median,
                f"{task}_time_over_dense": over.median,
                f"{task}_time_over_dense_low": over.low,
                f"{task}_time_over_dense_high": over.high,
            }
    config = {"threads": torch.get_num_threads(), "rounds": rounds}
    config |= {"prompt": n_prompt, "tokens": n_tokens}
    made = []
    for name, model in models.items():
        counts = wc.ledger(model).total
        row = make_row(
            experiment="compress_speed", variant=name, dataset="random tokens", seed=0,
            config=config, metrics=metrics[name],
            counts={"dense": counts.dense, "stored": counts.stored},
        )  # fmt: skip
        made.append(row)
    return made


def main() -> None:
    """Time all networks, print a line for each, and write their rows."""
    parser = make_parser(__doc__)
    parser.add_argument("--rows", type=Path, help="file to append to; none")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--prompt", type=int, default=128, help="tokens that are read")
    parser.add_argument("--tokens", type=int, default=16, help="tokens that are written")
    options = parser.parse_args()
    for row in rows_of(options.rounds, options.prompt, options.tokens):
        figures = ", ".join(f"{name} {value:.3g}" for name, value in row["metrics"].items())
        print(f"{row['variant']}: {figures}")
        if options.rows is not None:
            append_row(options.rows, row)


if __name__ == "__main__":
    main()
