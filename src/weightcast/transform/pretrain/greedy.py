"""pretrain: greedy layer-wise autoencoders, each on the codes of the layers below."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from weightcast.inputs.batches import (
    as_batches,
    cut,
    device_of,
    given_tensors,
    model_input,
    on_device,
)
from weightcast.inputs.gather import collect_rows, collect_statistics, naming_layer
from weightcast.inputs.progress import Progress
from weightcast.inputs.replay import Replay
from weightcast.layers import PredictedLayer
from weightcast.layers.rule import layer_seed
from weightcast.serialization import Plain
from weightcast.transform.pretrain.autoencoder import Activation, Loss, TiedAutoencoder
from weightcast.transform.pretrain.chain import find_activations, layers_in_order
from weightcast.transform.pretrain.describe import changed, describe, remade
from weightcast.transform.state_folder import StateFolder


@dataclass(frozen=True)
class PretrainedLayer:
    """How one layer was pre-trained.

    Args:
        name: of the layer.
        losses: the mean loss of each epoch.
        reconstructed: share of its inputs' variance that the trained autoencoder reconstructs.
        n_rows: rows that it was trained on.
    """

    name: str
    losses: tuple[float, ...]
    reconstructed: float
    n_rows: int


@dataclass(frozen=True)
class PretrainSettings(Plain):
    """How every layer is trained; the arguments of :func:`pretrain`."""

    epochs: int
    batch_size: int
    learning_rate: float
    loss: Loss
    seed: int
    max_rows: int

    def __post_init__(self) -> None:
        for name, least in (("epochs", 1), ("batch_size", 1), ("max_rows", 2)):
            value = getattr(self, name)
            if value < least:
                raise ValueError(f"{name} is {value!r}: it must be a whole number, {least} or more")
        if not 0 < self.learning_rate < math.inf:
            raise ValueError(
                f"learning_rate is {self.learning_rate}: it must be above 0, for example 0.001"
            )


def pretrain(
    model: nn.Module,
    inputs: Any,
    *,
    epochs: int = 10,
    batch_size: int = 100,
    learning_rate: float = 1e-3,
    loss: Literal["squared", "cross-entropy"] = "squared",
    activation: Activation | Mapping[str, Activation] | None = None,
    layers: Sequence[str] | None = None,
    seed: int = 0,
    max_rows: int = 100_000,
    folder: str | os.PathLike[str] | None = None,
    progress: bool = True,
) -> list[PretrainedLayer]:
    """Train layer after layer as a tied autoencoder of its inputs, h = g(x W + b), x' = h W^T + c.

    Layers follow in the order in which the model calls them. A data-driven dictionary is made anew
    from the layer's inputs in the network whose lower layers are pre-trained already, and V drawn
    anew, as ``convert`` draws it; then V and the bias learn to reconstruct the inputs (LowRank: its
    U too), and the next layer sees the new codes. The layers are changed in place, and nothing else
    of the model: an interrupted call leaves it half trained.

    Args:
        model: with predicted layers.
        inputs: example inputs: one tensor, or an iterable of tensors, of ``(input, target)`` pairs
            or of mappings of keyword arguments; at most 1,000 of them where they have no length, as
            for ``convert``. They are moved to the model's device.
        epochs: passes over each layer's rows.
        batch_size: rows per step.
        learning_rate: Adam's for a dense layer's weights; V's follows from it, so that different
            dictionaries train alike (see ``parameter_groups``).
        loss: ``squared`` error, or ``cross-entropy`` with a sigmoid decoder where all layers'
            inputs lie in [0, 1].
        activation: g, elementwise: one function, or some by layer name. What is not given is the
            module that follows the layer in its ``nn.Sequential``.
        layers: names of the layers to train, dense ones too; None takes all predicted layers.
        seed: of all draws; a layer's draw depends on the seed and its name alone.
        max_rows: rows of a layer's inputs (a convolution has one per output position) that are
            held in memory at most: a uniform sample of them.
        folder: for the state after every epoch. The same call goes on from there, and gives
            bit-equal results.
        progress: whether to show a bar on a terminal, a line per epoch elsewhere, on stderr.

    Returns:
        One record for each layer, in the order of training.

    Raises:
        ValueError: what an argument cannot be, a layer that the model lacks or does not call, an
            activation that is not known, inputs that a loss cannot take, or a folder of another
            pre-training.

    References: Denil et al. 2013, section 4; Bengio et al. 2007.
    """
    settings = PretrainSettings(epochs, batch_size, learning_rate, loss, seed, max_rows)
    batches = _Inputs(inputs, model, progress)
    chosen = layers_in_order(model, layers, batches)
    activations = find_activations(model, chosen, activation)
    states = None
    if folder is not None:
        inputs = batches.tensors()
        config = describe(model, vars(settings), inputs, chosen, activations)
        states = StateFolder(folder, "pre-training", config)
    records, replay = [], Replay(batches, chosen, {})
    with Progress("pre-training", len(chosen) * epochs, show=progress) as shown, replay:
        for number, (name, layer) in enumerate(chosen.items()):
            job = _Job(model, replay, settings, name, layer, activations[name], states, number)
            with naming_layer(name):
                records.append(job.run(shown))
            replay.settle(name)
    return records


@dataclass(frozen=True)
class _Job:
    """One layer's pre-training."""

    model: nn.Module
    replay: Replay
    settings: PretrainSettings
    name: str
    layer: Any
    activation: Activation
    states: StateFolder | None
    number: int

    def run(self, shown: Progress) -> PretrainedLayer:
        """Train the layer from its start, or from its state; return at once if it is trained."""
        name, epochs = self.name, self.settings.epochs
        state = self.states and self.states.load(self.number)
        if state is None:
            if remade(self.layer):
                self._remake()
            trainer = self._trainer()
            facts = {"layer": name, "n_rows": len(trainer.rows), "rates": trainer.rates}
            facts |= {"epochs": 0, "losses": [], "reconstructed": None}
            self._save(facts, trainer)
        else:
            facts, tensors = state
            self._restore(tensors)
            shown.step(facts["epochs"])
            shown.say(f"{name}: {facts['epochs']} of {epochs} epochs were done before")
            if facts["epochs"] == epochs:
                return self._record(facts)
            trainer = self._trainer()
            trainer.load_state(tensors, facts["rates"])
        for epoch in range(facts["epochs"], epochs):
            generator = self._generator(f"epoch {epoch}")
            loss = trainer.train_epoch(generator, self.settings.batch_size, shown.step)
            facts = facts | {"epochs": epoch + 1, "losses": [*facts["losses"], loss]}
            if epoch + 1 == epochs:
                facts["reconstructed"] = trainer.reconstructed()
            self._save(facts, trainer)
            shown.say(f"{name}: epoch {epoch + 1} of {epochs}, loss {loss:.4f}")
        return self._record(facts)

    def _remake(self) -> None:
        """Make a data-driven dictionary from the codes of the layers below."""
        seed, needs = layer_seed(self.settings.seed, self.name), self.layer.rule.dictionary.needs
        draws = torch.Generator().manual_seed(int(seed))
        found = collect_statistics(self.model, self.name, self.replay, needs, draws)
        self.layer.remake(seed=seed, statistics=found)

    def _trainer(self) -> TiedAutoencoder:
        weight = self.layer.V if isinstance(self.layer, PredictedLayer) else self.layer.weight
        if not weight.requires_grad:
            raise ValueError(
                "its weights require no gradient: call requires_grad_(True), or leave the layer "
                "out by layers="
            )
        how, generator = self.settings, self._generator("rows")
        rows = collect_rows(self.model, self.name, self.replay, how.max_rows, generator).to(weight)
        return TiedAutoencoder(self.layer, self.activation, rows, how.loss, how.learning_rate)

    def _generator(self, purpose: str) -> torch.Generator:
        """Draws that depend on seed, layer and purpose alone: a resumed run draws the same."""
        seed = layer_seed(layer_seed(self.settings.seed, self.name), purpose)
        return torch.Generator().manual_seed(int(seed))

    def _save(self, facts: dict[str, Any], trainer: TiedAutoencoder) -> None:
        if self.states is not None:
            state = {f"layer.{key}": value for key, value in changed(self.layer).items()}
            self.states.save(self.number, facts, state | trainer.state())

    def _restore(self, tensors: dict[str, Tensor]) -> None:
        own_keys = [key for key in tensors if key.startswith("layer.")]
        state = {key.removeprefix("layer."): tensors[key] for key in own_keys}
        own = self.layer.state_dict()
        if remade(self.layer) and any(own[key].shape != state[key].shape for key in own):
            self._remake()  # the number of its atoms depends on the data
        self.layer.load_state_dict(state, strict=False)

    def _record(self, facts: dict[str, Any]) -> PretrainedLayer:
        return PretrainedLayer(
            self.name, tuple(facts["losses"]), facts["reconstructed"], facts["n_rows"]
        )


class _Inputs:
    """The batches, again and again, moved to the model's device one at a time."""

    def __init__(self, inputs: Any, model: nn.Module, progress: bool) -> None:
        self.batches = as_batches(cut(inputs), progress=progress)
        self.device = device_of(model)

    def __iter__(self) -> Iterator[Any]:
        for batch in self.batches:
            yield on_device(model_input(batch), self.device)

    def tensors(self) -> Iterator[tuple[str, Any]]:
        """What the model is called with, by place and name."""
        for number, batch in enumerate(self):
            arguments = batch if isinstance(batch, Mapping) else {"": batch}
            for key in sorted(arguments):
                yield from ((f"{number}{key}", x) for x in given_tensors(arguments[key]))
