"""What two processes send per step, and where equal steps lead: fewer weights against PowerSGD.

    python -m weightcast_lab.bench.distributed --table results/distributed.csv

Every network is trained by DDP on the packaged digits with the same global batches, optimiser and
schedule, two processes over gloo. PowerSGD (Vogels, Karimireddy and Jaggi 2019) learns all weights
of the dense network but sends a low-rank approximation of the gradient, whose error is added to
the next one. It is torch's own hook, which sends whole gradients in the first two steps.

Sent bytes are those of the tensors that one process hands to all-reduces, PowerSGD's factors P and
Q among them; written bytes are what the system says that the process wrote, message heads and all.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.algorithms.ddp_comm_hooks import default_hooks, powerSGD_hook
from torch.multiprocessing.spawn import spawn
from torch.nn.parallel import DistributedDataParallel

import weightcast as wc
from weightcast.cli.result_rows import row_counts
from weightcast_lab.bench.scripts import make_parser, write_csv
from weightcast_lab.data.batches import Batches
from weightcast_lab.data.images import Split
from weightcast_lab.sweeps.rows import Row, append_row, make_row
from weightcast_lab.sweeps.variants import make_config, make_variants
from weightcast_lab.training import Images, TrainingSettings, load_images
from weightcast_lab.training.build import build_model
from weightcast_lab.training.module import Classifier, measure_error

PROCESSES, BATCH = 2, 100
FIRST_COMPRESSED = 2  # the earliest that PowerSGD's error feedback allows
SEND = dist.all_reduce


@dataclass(frozen=True)
class SentNetwork:
    """A network of the demo, and the rank of PowerSGD's approximation, or None for all-reduce."""

    network: str
    rank: int | None = None

    @property
    def name(self) -> str:
        """What rows and tables call it."""
        return self.network if self.rank is None else f"{self.network}, PowerSGD rank {self.rank}"


NETWORKS_SENT = (
    SentNetwork("dense"),
    SentNetwork("dense", 1),
    SentNetwork("dense", 2),
    SentNetwork("dense", 4),
    SentNetwork("5 % learned"),
    SentNetwork("5 % learned", 1),
)


class Counted:
    """``dist.all_reduce`` that counts what it is given; every hook here sends through it."""

    def __init__(self) -> None:
        self.bytes = 0

    def __call__(self, tensor: Tensor, *args: Any, **kwargs: Any) -> Any:
        """Count the tensor's bytes and send it."""
        self.bytes += tensor.numel() * tensor.element_size()
        return SEND(tensor, *args, **kwargs)


def written_bytes() -> int:
    """What this process has written so far, to sockets too; 0 where the system does not say."""
    file = Path("/proc/self/io")
    return int(file.read_text().split("wchar:")[1].split()[0]) if file.is_file() else 0


def global_batches(data: Split, steps: int, seed: int) -> Iterator[Split]:
    """The batches of all processes together, in the order of an ordinary training."""
    batches, epoch = Batches(data, BATCH, seed, per_list=1), 0
    while True:
        batches.set_epoch(epoch)
        for one in batches:
            yield from one
            steps -= 1
            if steps == 0:
                return
        epoch += 1


def run(entry: SentNetwork, images: Images, steps: int, seed: int) -> Row:
    """Train one network on this process's share of every batch.

    Args:
        entry: which network, and how it sends its gradients.
        images: standardised.
        steps: of the optimiser; one learning-rate schedule spans them all.
        seed: of the weights, the dictionaries and the order of the images.
    """
    settings = TrainingSettings(batch_size=BATCH, epochs=1)
    variant = next(v for v in make_variants(images) if v.name == entry.network)
    config = make_config(variant, "digits", settings, seed)
    model = build_model(config, images)
    made: Any = Classifier(model, settings, steps).configure_optimizers()
    batches = global_batches(images.train, steps, seed)
    trained = train(share_gradients(model, entry, seed), made, batches)
    last = torch.stack(trained.losses[-len(images.train[1]) // BATCH :]).mean()  # one pass, or less
    dist.all_reduce(last)
    steady = slice(FIRST_COMPRESSED + 1, None)
    return make_row(
        experiment="distributed",
        variant=entry.name,
        dataset=images.name,
        seed=seed,
        config=config.to_dict()
        | {"steps": steps, "processes": PROCESSES, "backend": "gloo", "powersgd_rank": entry.rank},
        counts=row_counts(wc.ledger(model, batch=BATCH)),
        metrics={
            "sent_bytes_per_step": statistics.fmean(trained.sent[steady]),
            "sent_bytes": float(sum(trained.sent)),
            "written_bytes_per_step": statistics.fmean(trained.written[steady]) or None,
            "train_loss": float(last) / PROCESSES,
            "test_error": measure_error(model, images.test),
            "step_milliseconds": statistics.median(trained.seconds) * 1e3,
            "train_seconds": sum(trained.seconds),
        },
    )


def share_gradients(model: nn.Module, entry: SentNetwork, seed: int) -> DistributedDataParallel:
    """The model with gradients sent as the entry says."""
    ddp = DistributedDataParallel(model)
    if entry.rank is None:
        ddp.register_comm_hook(None, default_hooks.allreduce_hook)
    else:
        state = powerSGD_hook.PowerSGDState(
            None, entry.rank, start_powerSGD_iter=FIRST_COMPRESSED, random_seed=seed
        )
        ddp.register_comm_hook(state, powerSGD_hook.powerSGD_hook)
    return ddp


@dataclass
class Steps:
    """What each training step gave: loss, bytes sent and written, seconds."""

    losses: list[Tensor] = field(default_factory=list)
    sent: list[int] = field(default_factory=list)
    written: list[int] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)


def train(ddp: DistributedDataParallel, made: Any, batches: Iterator[Split]) -> Steps:
    """Take all steps, and count what each one sends.

    Args:
        ddp: the network.
        made: its optimiser and schedule, as ``configure_optimizers`` returns them.
        batches: of all processes together.
    """
    (optimiser,), (schedule,) = made
    rank, steps = dist.get_rank(), Steps()
    dist.all_reduce = counted = Counted()
    dist.barrier()
    try:
        for x, y in batches:
            counted.bytes, before, start = 0, written_bytes(), time.perf_counter()
            optimiser.zero_grad()
            loss = nn.functional.cross_entropy(ddp(x[rank::PROCESSES]), y[rank::PROCESSES])
            loss.backward()
            optimiser.step()
            schedule.step()
            steps.seconds.append(time.perf_counter() - start)
            steps.losses.append(loss.detach())
            steps.sent.append(counted.bytes)
            steps.written.append(written_bytes() - before)
    finally:
        dist.all_reduce = SEND
    return steps


def work(rank: int, meeting: str, options: argparse.Namespace) -> None:
    """One process: train every network for every seed; process 0 keeps the rows."""
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{meeting}", rank=rank, world_size=PROCESSES
    )
    images = load_images("digits").standardised()
    found: dict[str, list[Row]] = {entry.name: [] for entry in NETWORKS_SENT}
    for seed in range(options.seeds):
        for entry in NETWORKS_SENT:
            row = run(entry, images, options.steps, seed)
            found[entry.name].append(row)
            if rank == 0 and options.rows is not None:
                append_row(options.rows, row)
    if rank == 0:
        print_table(found)
        if options.table is not None:
            rows = sorted((row for rows in found.values() for row in rows), key=lambda r: r["seed"])
            write_csv(options.table, [table_line(row) for row in rows])
    dist.monitored_barrier()  # gloo's threads end their last work before Python ends
    dist.destroy_process_group()


def table_line(row: Row) -> dict[str, Any]:
    """A run as a line of a table: without its configuration, and no row of results."""
    line = {"variant": row["variant"], "seed": row["seed"]}
    line |= {name: row["config"][name] for name in ("steps", "processes")}
    line |= {name: row["counts"][name] for name in ("learned", "dense")}
    return line | {k: v for k, v in row["metrics"].items() if k != "train_seconds"}


def print_table(found: dict[str, list[Row]]) -> None:
    """Means and standard deviations over the seeds, a line for each network."""
    heads = ("sent bytes/step", "share", "written", "training loss", "test error %", "ms/step")
    print(f"{'network':28}" + "".join(f"{head:>17}" for head in heads))
    dense = _mean(found["dense"], "sent_bytes_per_step")[0]
    for name, rows in found.items():
        sent = _mean(rows, "sent_bytes_per_step")[0]
        written = _mean(rows, "written_bytes_per_step")[0]
        cells = [f"{sent:,.0f}", f"{sent / dense:.2%}", f"{written:,.0f}"]
        cells += [f"{m:.4f} ± {s:.4f}" for m, s in [_mean(rows, "train_loss")]]
        cells += [f"{m:.2f} ± {s:.2f}" for m, s in [_mean(rows, "test_error")]]
        cells += [f"{m:.2f} ± {s:.2f}" for m, s in [_mean(rows, "step_milliseconds")]]
        print(f"{name:28}" + "".join(f"{cell:>17}" for cell in cells))
    n = len(found["dense"])
    print(f"means and standard deviations over {n} seed{'s' * (n > 1)}; {PROCESSES} processes")


def _mean(rows: list[Row], metric: str) -> tuple[float, float]:
    values = [row["metrics"][metric] or 0.0 for row in rows]
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else 0.0


def main() -> None:
    """Start the processes that train."""
    parser = make_parser(__doc__)
    parser.add_argument("--steps", type=int, default=1000, help="of each training (default 1000)")
    parser.add_argument("--seeds", type=int, default=5, help="trainings of each (default 5)")
    parser.add_argument("--rows", type=Path, help="append result rows to this file")
    parser.add_argument("--table", type=Path, help="write a line for every run here, as CSV")
    options = parser.parse_args()
    if options.steps <= FIRST_COMPRESSED + 1 or options.seeds < 1:
        parser.error(f"take more than {FIRST_COMPRESSED + 1} steps and at least 1 seed")
    with tempfile.TemporaryDirectory() as folder:
        passed = (f"{folder}/meeting", options)
        spawn(work, passed, nprocs=PROCESSES)


if __name__ == "__main__":
    main()
