"""MiniLM learns WordNet's classes from clients that keep their glosses; what learns travels alone.

    python -m weightcast_lab.studies.adapting.federated --method LoRA --rates 0.005 0.01
    python examples/federated/run.py --method weightcast LoRA --rows results/federated.ndjson

The engine, Flower's, stands in that example; here is what it moves: clients' parts, what learns as
named tensors, a client's steps, and how far an average is from the average of what clients learned.
The first command tries rates without it, on validation data.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from weightcast.layers import adapted_layers
from weightcast.optim import parameter_groups
from weightcast.serialization import Configuration
from weightcast_lab.bench.scripts import make_parser
from weightcast_lab.data.glosses import Gloss, draw_glosses, read_glosses, split_by_word
from weightcast_lab.networks.pretrained.language import minilm
from weightcast_lab.studies.adapting.methods import METHODS, OURS, SIZES
from weightcast_lab.studies.adapting.on_glosses import AdaptConfig, Classifier, Encoder
from weightcast_lab.studies.adapting.trained import measure

N_PUBLIC, N_MEASURED, LENGTH = 256, 1_000, 24
LORA, FIXED = "LoRA", "LoRA-FA"
NAMES = {
    OURS: "weightcast, V averaged",
    LORA: "LoRA, A and B averaged",
    FIXED: "LoRA, A fixed, B averaged",
}
"""The methods, as tables name them."""
RATES = {OURS: 0.01, LORA: 0.005, FIXED: 0.01}

State = dict[str, Tensor]


@dataclass(frozen=True)
class FederatedConfig(Configuration):
    """One run.

    Args:
        method: of ``NAMES``; A fixed is drawn from the seed by everybody, and never sent.
        rate: of what is learned in the encoder.
        learned: the size, of ``SIZES``.
        n_clients: each of them takes part in every round.
        rounds: of local steps and one average.
        steps: of a client in a round, 32 glosses each, from a new optimiser.
        n_examples: glosses of all clients together.
        concentration: of the Dirichlet distribution of a class's glosses over clients; the smaller,
            the less alike the clients are.
        seed: of all draws.
        validation: measure on what rates are chosen by, and not on the test glosses.
    """

    method: str = OURS
    rate: float = 0.01
    learned: int = SIZES[2]
    n_clients: int = 8
    rounds: int = 5
    steps: int = 4
    n_examples: int = 4_000
    concentration: float = 0.5
    seed: int = 0
    validation: bool = False

    def __post_init__(self) -> None:
        if self.method not in NAMES or self.learned not in METHODS[self.method].settings:
            raise ValueError(f"no {self.method!r} of size {self.learned}: take one of {[*NAMES]}")


def dirichlet_parts(
    labels: Sequence[int], n_clients: int, concentration: float, seed: int
) -> list[list[int]]:
    """Deal examples to clients, those of each class by shares that are drawn for that class.

    Returns:
        For each client the places of its examples; every example is somebody's.

    Raises:
        ValueError: a client gets nothing.
    """
    generator = np.random.default_rng(seed)
    parts: list[list[int]] = [[] for _ in range(n_clients)]
    for label in sorted(set(labels)):
        own = [place for place, other in enumerate(labels) if other == label]
        shares = generator.dirichlet([concentration] * n_clients)
        for place, client in zip(
            own, generator.choice(n_clients, len(own), p=shares).tolist(), strict=True
        ):
            parts[client].append(place)
    if not all(parts):
        raise ValueError(
            f"{len(labels)} examples leave client {parts.index([])} of {n_clients} without any: "
            f"take more examples, or a concentration above {concentration}"
        )
    return parts


@functools.lru_cache(maxsize=1)
def clients_glosses(config: FederatedConfig) -> list[list[Gloss]]:
    """Every client's own."""
    train, _, _ = _split()
    drawn = draw_glosses(train, config.n_examples, config.seed)
    labels = [gloss.label for gloss in drawn]
    parts = dirichlet_parts(labels, config.n_clients, config.concentration, config.seed)
    return [[drawn[place] for place in part] for part in parts]


def public_texts(config: FederatedConfig) -> tuple[str, ...]:
    """The server's own texts, of words that no client has, for U; LoRA needs none."""
    return tuple(gloss.text for gloss in _held()[:N_PUBLIC]) if config.method == OURS else ()


def measured_glosses(config: FederatedConfig) -> list[Gloss]:
    """What the server measures on, of words that no client has."""
    return _held()[N_PUBLIC:] if config.validation else draw_glosses(_split()[2], N_MEASURED, 0)


@functools.cache
def _split() -> tuple[list[Gloss], list[Gloss], list[Gloss]]:
    return split_by_word(read_glosses())


def _held() -> list[Gloss]:
    return draw_glosses(_split()[1], N_PUBLIC + N_MEASURED, 0)


class Member:
    """The server's network, or a client's: the same W0, and the same U from the same texts.

    Args:
        config: the run's.
        texts: that U is made from.
    """

    def __init__(self, config: FederatedConfig, texts: Sequence[str]) -> None:
        self.config = config
        network, tokenizer = minilm()
        self.encode, method = Encoder(tokenizer, LENGTH), METHODS[config.method]
        glosses = [Gloss(text, 0) for text in texts]
        inputs = [tokens for _, tokens in self.encode.batches(glosses)] if texts else []
        setting = method.settings[config.learned]
        adapted = method.adapt(network, setting, inputs, config.seed)
        if config.method == FIXED:
            for name, p in adapted.named_parameters():
                p.requires_grad_("lora_B" in name)
        self.model = Classifier(adapted, config.seed)

    def state(self) -> State:
        """What travels: all that learns, by name; copies."""
        named = self.model.named_parameters()
        return {name: p.detach().clone() for name, p in named if p.requires_grad}

    @torch.no_grad()
    def take(self, state: Mapping[str, Tensor]) -> None:
        """Go on from what was sent.

        Raises:
            ValueError: it is not what learns here.
        """
        own = {name: p for name, p in self.model.named_parameters() if p.requires_grad}
        if odd := own.keys() ^ state.keys():
            raise ValueError(f"{min(odd)!r} is not on both sides: use one config everywhere")
        for name, p in own.items():
            p.copy_(state[name])

    def fingerprint(self) -> str:
        """SHA-256 of all that does not travel, W0 and U: averages of the same are exact."""
        digest, travels = hashlib.sha256(), self.state().keys()
        for name, tensor in sorted(self.model.state_dict().items()):
            if name not in travels:
                digest.update(name.encode() + tensor.contiguous().numpy().tobytes())
        return digest.hexdigest()

    def check_same(self, client: int, fingerprint: str) -> None:
        """Refuse a client with another fingerprint, by a ValueError."""
        if fingerprint != self.fingerprint():
            raise ValueError(
                f"client {client} has another network or another U, and an average would not be "
                "exact: send it U itself, in the folder that wc.save writes"
            )

    def learn(self, glosses: Sequence[Gloss], client: int, round_number: int) -> float:
        """Take a client's steps of one round; the mean loss in nats."""
        config, head = self.config, self.model.head
        groups = [g for g in parameter_groups(self.model.encoder, config.rate) if g["params"]]
        groups.append({"params": list(head.parameters()), "lr": AdaptConfig.head_rate})
        optimiser = torch.optim.AdamW(groups, weight_decay=0.0)
        draw = torch.Generator().manual_seed((config.seed * 1_000 + client) * 10_000 + round_number)
        total = 0.0
        for places in torch.randint(len(glosses), (config.steps, 32), generator=draw).tolist():
            [(x, labels)] = self.encode.drawn([glosses[place] for place in places])
            loss = F.cross_entropy(self.model(*x), labels)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            total += loss.item() / config.steps
        return total

    @torch.no_grad()
    def gap(
        self, mean: Mapping[str, Tensor], states: Sequence[State], weights: Sequence[float]
    ) -> float:
        """How far the average's change of W0 is from the average of the clients' changes.

        Args:
            mean: the average of the states, which is taken.
            states: the clients'.
            weights: of the average.

        Returns:
            The norm of the difference over all layers, as a share of the latter's norm.
        """
        wanted: State = {}
        for state, weight in zip(states, weights, strict=True):
            self.take(state)
            for name, change in _changes(self.model).items():
                share = weight / sum(weights) * change.double()
                wanted[name] = wanted[name] + share if name in wanted else share
        self.take(mean)
        off = sum((x.double() - wanted[n]).square().sum() for n, x in _changes(self.model).items())
        return float((off / sum(x.square().sum() for x in wanted.values())) ** 0.5)


def _changes(model: nn.Module) -> State:
    """What is added to each weight: ours, or PEFT's."""
    ours = {name: layer.delta.multiply_out() for name, layer in adapted_layers(model).items()}
    return ours | {
        name: module.get_delta_weight("default")  # pyright: ignore[reportCallIssue]
        for name, module in model.named_modules()
        if hasattr(module, "get_delta_weight")
    }


@functools.lru_cache(maxsize=1)
def client_member(config: FederatedConfig, texts: tuple[str, ...]) -> Member:
    """One network for all clients of a process, in turn: each takes what the server sends first."""
    return Member(config, texts)


def average(states: Sequence[State], weights: Sequence[float]) -> State:
    """The weighted mean of what clients learned, as an engine takes it."""
    shares = [weight / sum(weights) for weight in weights]
    pairs = [*zip(shares, states, strict=True)]
    return {name: sum(share * state[name] for share, state in pairs) for name in states[0]}  # pyright: ignore


def rehearse(member: Member) -> State:
    """All rounds without an engine, clients in turn in one network; what the server ends with."""
    config, state = member.config, member.state()
    parts = clients_glosses(config)
    for number in range(1, config.rounds + 1):
        states = []
        for client, mine in enumerate(parts):
            member.take(state)
            member.learn(mine, client, number)
            states.append(member.state())
        state = average(states, [len(mine) for mine in parts])
    return state


def main() -> None:
    """Print the validation error at each rate."""
    parser = make_parser(__doc__)
    parser.add_argument("--method", nargs="+", choices=[*NAMES], default=[*NAMES])
    parser.add_argument("--rates", nargs="+", type=float, default=[0.005, 0.01, 0.02])
    options = parser.parse_args()
    for method in options.method:
        for rate in options.rates:
            config = FederatedConfig(method, rate, validation=True)
            member = Member(config, public_texts(config))
            member.take(rehearse(member))
            error, nats = measure(member.model, member.encode.whole(measured_glosses(config)))
            print(f"{NAMES[method]}, rate {rate}: {error:.1f} %, {nats:.3f} nats", flush=True)


if __name__ == "__main__":
    main()
