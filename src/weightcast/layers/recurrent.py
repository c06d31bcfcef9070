"""PredictedRecurrent: W = U V of every gate, in place of ``nn.LSTM``, ``nn.GRU`` and ``nn.RNN``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pad_packed_sequence
from typing_extensions import override

from weightcast.layers.composite import Part, PredictedModule, plain_parameter
from weightcast.layers.parameter import DenseParameter

Sequences = Tensor | PackedSequence
States = Tensor | tuple[Tensor, ...]
"""What a recurrent layer starts from; an LSTM has two, h_0 and c_0."""


class PredictedRecurrent(PredictedModule[nn.RNNBase]):
    """A recurrent network whose weights are layers, named as in torch without ``weight_``.

    ``ih_l0`` (of the inputs, n_visible = input_size) and ``hh_l0`` (of the hidden state, n_visible
    = hidden_size) hold the units of all gates, 4 hidden_size for an LSTM, 3 for a GRU; ``hr_l0`` is
    an LSTM's projection; ``_reverse`` is the other direction. W is computed once for each call, not
    at every time step, and given to torch's own function.

    Args:
        module: the ``nn.LSTM``, ``nn.GRU`` or ``nn.RNN``.
    """

    @classmethod
    @override
    def weights_of(cls, module: nn.RNNBase) -> dict[str, Part]:
        """The weights of all layers and directions."""
        found: dict[str, Part] = {}
        for name in module._flat_weights_names:
            if name.startswith("weight_"):
                hidden = "the projected cell outputs are seen by torch's own function only"
                layer = DenseParameter(
                    plain_parameter(module, name),
                    variance=1 / (3 * module.hidden_size),
                    hidden_inputs=hidden if "_hr_" in name else None,
                )
                found[name.removeprefix("weight_")] = layer, {name: "weight"}
        return found

    @override
    def _lend(self, tensors: Mapping[str, Tensor]) -> None:
        super()._lend(tensors)
        self.module._init_flat_weights()  # the list that torch's function is given

    @override
    def observe(self, input: Sequences, hx: States | None = None) -> None:
        """Layer by layer: its inputs, and the hidden states that its steps start from."""
        module = self.module
        layers, directions = self.layers(), 2 if module.bidirectional else 1
        if not isinstance(input, PackedSequence):
            if input.dim() == 2:
                input = input.unsqueeze(0 if module.batch_first else 1)
                hx = _each(hx, lambda h: h.unsqueeze(1))
            if module.batch_first:
                input = input.transpose(0, 1)
        for number in range(module.num_layers):
            part = slice(number * directions, (number + 1) * directions)
            start = _each(hx, lambda h, part=part: h[part])
            output = self._run_layer(number, input, start)
            rows, (states, valid) = _data(input), _padded(output)
            h_0 = start[0] if isinstance(start, tuple) else start
            for direction, suffix in enumerate(("", "_reverse")[:directions]):
                layers[f"ih_l{number}{suffix}"](rows)
                h = states.chunk(directions, dim=-1)[direction]
                first = torch.zeros_like(h[:1]) if h_0 is None else h_0[direction : direction + 1]
                layers[f"hh_l{number}{suffix}"](_previous(h, first, valid, reverse=direction == 1))
            input = output

    def _run_layer(self, number: int, x: Sequences, start: States | None) -> Sequences:
        """One layer's outputs, time first, all directions side by side."""
        module = self.module
        options: dict[str, Any] = {"bias": module.bias, "bidirectional": module.bidirectional}
        if module.proj_size:
            options["proj_size"] = module.proj_size
        if module.mode.startswith("RNN"):
            options["nonlinearity"] = module.mode.removeprefix("RNN_").lower()
        size = _data(x).shape[-1]
        kind: Any = type(module)  # LSTM, GRU or RNN, whose arguments differ from their base's
        single = kind(size, module.hidden_size, **options, device="meta")
        tensors = self._tensors() | dict(module.named_parameters())
        mine = {n: n.replace("_l0", f"_l{number}") for n in single._flat_weights_names}
        return torch.func.functional_call(
            single, {n: tensors[m] for n, m in mine.items()}, (x, start)
        )[0]


def _each(hx: States | None, change: Callable[[Tensor], Tensor]) -> States | None:
    """``change`` of a state, or of both states of an LSTM; None stays None."""
    return tuple(map(change, hx)) if isinstance(hx, tuple) else None if hx is None else change(hx)


def _data(x: Sequences) -> Tensor:
    return x.data if isinstance(x, PackedSequence) else x


def _padded(x: Sequences) -> tuple[Tensor, Tensor]:
    """(time, batch, ...) and how many steps of each sequence count, (batch,)."""
    if isinstance(x, PackedSequence):
        return pad_packed_sequence(x)
    return x, torch.full((x.shape[1],), len(x))


def _previous(h: Tensor, first: Tensor, valid: Tensor, reverse: bool) -> Tensor:
    """The state before each step: (time, batch, size) to (steps that count, size)."""
    time = torch.arange(len(h)).unsqueeze(1)
    counts = (time < valid).to(h.device)
    if not reverse:
        return torch.cat([first, h[:-1]])[counts]
    last = (time == valid - 1).to(h.device).unsqueeze(2)  # where the reverse direction starts
    later = torch.cat([h[1:], first])
    return torch.where(last, first, later)[counts]
