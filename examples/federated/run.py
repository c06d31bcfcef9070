"""MiniLM learns WordNet's 45 classes from clients that keep their glosses, on Flower's simulation.

    python examples/federated/run.py --method weightcast LoRA --seeds 0 1 2 --rows federated.ndjson

Clients are Flower's, each in turn in a process of Ray; averages are those of its FedAvg, weighed by
examples. Before the first round the server sends the config and some texts of its own, once: each
client makes U from them and answers with a checksum of all that is not to travel. From then on V
and the head alone go to and fro. See the section in docs/adapt.md.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Iterable, Sequence
from typing import Any

os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")  # both are read when they are imported
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.common.serde import message_to_proto
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from flwr.simulation import run_simulation

from weightcast_lab.studies.adapting.federated import (
    NAMES,
    RATES,
    FederatedConfig,
    Member,
    client_member,
    clients_glosses,
    measured_glosses,
    public_texts,
)
from weightcast_lab.studies.adapting.trained import measure
from weightcast_lab.sweeps.rows import Row, append_row, make_row

client = ClientApp()


@client.query()
def agree(message: Message, context: Context) -> Message:
    """Keep what the run is about, and tell what was made of it."""
    context.state["agreed"] = message.content["agreed"]
    found = ConfigRecord({"fingerprint": _own(context).fingerprint()})
    return Message(RecordDict({"agreed": found}), reply_to=message)


@client.train()
def learn(message: Message, context: Context) -> Message:
    """Take some steps on one's own glosses, from what the server sent."""
    member, number = _own(context), int(context.node_config["partition-id"])
    member.take(message.content["arrays"].to_torch_state_dict())
    mine = clients_glosses(member.config)[number]
    loss = member.learn(mine, number, message.content["config"]["server-round"])
    told = MetricRecord({"num-examples": len(mine), "loss": loss})
    content = RecordDict({"arrays": ArrayRecord(member.state()), "metrics": told})
    return Message(content, reply_to=message)


def _own(context: Context) -> Member:
    torch.set_num_threads(1)
    agreed = context.state["agreed"]
    config = FederatedConfig.from_dict(json.loads(agreed["config"]))
    return client_member(config, tuple(agreed["texts"]))


class Counted(FedAvg):
    """Flower's average, with what it took and how good it is."""

    def __init__(self, member: Member) -> None:
        n = member.config.n_clients
        super().__init__(fraction_evaluate=0.0, min_train_nodes=n, min_available_nodes=n)
        self.member, self.metrics = member, {}

    def configure_train(self, *given: Any) -> Iterable[Message]:
        """Flower's messages, counted."""
        messages = list(super().configure_train(*given))
        self.metrics = {"bytes_down": n_bytes(messages)}
        return messages

    def aggregate_train(self, server_round: int, replies: Iterable[Message]) -> Any:
        """Flower's mean, and its distance from the mean of what the clients learned."""
        replies = answered(replies, self.member.config.n_clients)
        mean, metrics = super().aggregate_train(server_round, replies)
        states = [reply.content["arrays"].to_torch_state_dict() for reply in replies]
        weights = [reply.content["metrics"]["num-examples"] for reply in replies]
        gap = self.member.gap(mean.to_torch_state_dict(), states, weights)
        self.metrics |= {"bytes_up": n_bytes(replies), "gap": gap}
        return mean, metrics


def n_bytes(messages: Sequence[Message]) -> int:
    """As Flower sends them over a network, in its protocol buffers."""
    return sum(message_to_proto(message).ByteSize() for message in messages)


def answered(replies: Iterable[Message], n: int) -> list[Message]:
    """All clients' answers; a RuntimeError for one that failed or is missing."""
    replies = list(replies)
    for failed in (reply for reply in replies if reply.has_error()):
        raise RuntimeError(f"client {failed.metadata.src_node_id} failed: {failed.error.reason}")
    if len(replies) != n:
        raise RuntimeError(f"{len(replies)} of {n} clients answered")
    return replies


def agree_on(member: Member, texts: Sequence[str], grid: Grid) -> dict[str, float]:
    """Send the config and the texts, once, and compare what the clients made; the bytes it took."""
    n, deadline = member.config.n_clients, time.monotonic() + 60
    while len(nodes := list(grid.get_node_ids())) < n:
        if time.monotonic() > deadline:
            raise RuntimeError(f"{len(nodes)} of {n} clients came")
        time.sleep(0.1)
    agreed = ConfigRecord({"config": json.dumps(member.config.to_dict()), "texts": [*texts]})
    content = RecordDict({"agreed": agreed})
    sent = [Message(content, dst_node_id=node, message_type="query") for node in nodes]
    replies = answered(grid.send_and_receive(sent), n)
    for reply in replies:
        member.check_same(reply.metadata.src_node_id, reply.content["agreed"]["fingerprint"])
    return {"bytes_down": n_bytes(sent), "bytes_up": n_bytes(replies)}


def run(config: FederatedConfig) -> Row:
    """One federation; its row, with what each round came to, and round 0 for what was before."""
    server, rounds, own = ServerApp(), {}, []

    @server.main()
    def serve(grid: Grid, context: Context) -> None:
        torch.set_num_threads(1)
        texts = public_texts(config)
        own.append(member := Member(config, texts))
        strategy = Counted(member)
        strategy.metrics = agree_on(member, texts, grid)
        measured = measured_glosses(config)

        def evaluate(number: int, arrays: ArrayRecord) -> MetricRecord:
            if number:  # before, the head is as it was drawn
                member.take(arrays.to_torch_state_dict())
                error, nats = measure(member.model, member.encode.whole(measured))
                split = "validation" if config.validation else "test"
                strategy.metrics |= {f"{split}_error": error, f"{split}_loss": nats}
            rounds[str(number)] = strategy.metrics
            return MetricRecord(strategy.metrics)

        strategy.start(
            grid, ArrayRecord(member.state()), num_rounds=config.rounds, evaluate_fn=evaluate
        )

    run_simulation(
        server, client, config.n_clients, backend_config={
            "client_resources": {"num_cpus": 1},
            "init_args": {"num_cpus": 1, "object_store_memory": 2**28},
        },
    )  # fmt: skip
    sums = {way: sum(one[way] for one in rounds.values()) for way in ("bytes_down", "bytes_up")}
    row = make_row(
        experiment="federated",
        variant=f"{NAMES[config.method]}, rate {config.rate:g}",
        dataset="WordNet glosses, 45 classes, parted by word",
        seed=config.seed,
        config=config.to_dict(),
        counts={"learned": sum(tensor.numel() for tensor in own[0].state().values())},
        metrics=rounds[str(config.rounds)] | sums,
    )
    return row | {"rounds": rounds}


def main() -> None:
    """Run all that is asked for, and append its rows to a file."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    default = FederatedConfig()
    parser.add_argument("--method", nargs="+", choices=[*NAMES], default=[*NAMES])
    parser.add_argument("--rate", type=float, help="default: the method's own")
    parser.add_argument("--n_clients", type=int, default=default.n_clients)
    parser.add_argument("--rounds", type=int, default=default.rounds)
    parser.add_argument("--steps", type=int, default=default.steps, help="of a client in a round")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument(
        "--validation", action="store_true", help="measure what rates are chosen by"
    )
    parser.add_argument("--rows", default="federated.ndjson", help="a file to append rows to")
    chosen = vars(parser.parse_args())
    methods, seeds, rate, file = map(chosen.pop, ("method", "seeds", "rate", "rows"))
    for seed in seeds:
        for method in methods:
            own = {"method": method, "rate": rate or RATES[method], "seed": seed}
            append_row(file, run(FederatedConfig(**chosen, **own)))


if __name__ == "__main__":
    main()
