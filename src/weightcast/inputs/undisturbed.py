"""evaluating: run a model and leave it, and all random states, as they were."""

from __future__ import annotations

import random
from collections.abc import Collection, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import numpy as np
import torch
from torch import nn

from weightcast.dictionaries.constants import Constants
from weightcast.inputs.contents import Contents


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients, after which everything that modules hold is as it was.

    That is: modes, attributes, buffers, and what is in the lists, dictionaries, sets, arrays,
    tensors, generators and objects that they hold; and torch's, NumPy's and Python's random states.

    Attention runs in plain torch: its fast path calls no module, and so no hook, and makes nested
    tensors of padded sequences, of which rows cannot be taken. What was compiled runs as it was
    written, since hooks that come later are not called in compiled code.
    """
    contents, kept = Contents(), [_Kept(module) for module in model.modules()]
    for module in model.modules():
        if not isinstance(module, Constants):  # which nobody writes into
            contents.note(v for name, v in vars(module).items() if name not in _OF_ALL_MODULES)
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        model.eval()
        with torch.no_grad(), randomness_kept(model), _eagerly(model):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        contents.restore()
        for module in kept:
            module.restore()


@contextmanager
def randomness_kept(model: nn.Module) -> Iterator[None]:
    """Draws within leave the states of the CPU, Python, NumPy and the model's devices alone."""
    devices = sorted({p.device.index or 0 for p in model.parameters() if p.is_cuda})
    python, numpy = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(devices=devices):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)


@contextmanager
def gradients_kept(parameters: Collection[nn.Parameter]) -> Iterator[None]:
    """Within, ``.grad`` of the parameters is theirs who enter; afterwards it is what it was."""
    before = [p.grad for p in parameters]
    try:
        for parameter in parameters:
            parameter.grad = None
        yield
    finally:
        for parameter, gradient in zip(parameters, before, strict=True):
            parameter.grad = gradient


def let_recurrent_learn(model: nn.Module) -> None:
    """Set recurrent layers to training, without dropout: in evaluation cuDNN has no gradient."""
    for module in model.modules():
        if isinstance(module, nn.RNNBase):
            module.training, module.dropout = True, 0.0


_OF_ALL_MODULES = frozenset(vars(nn.Module()))


class _Kept:
    """What a forward pass may change of one module: attributes, such as its mode, and buffers.

    Both, for they may belong together, as a table and the length up to which it is filled do.
    """

    def __init__(self, module: nn.Module) -> None:
        self.module, self.kind, self.training = module, type(module), module.training
        self.attributes, self.buffers = dict(vars(module)), dict(module._buffers)
        self.values = [
            (buffer, buffer.clone(), buffer._version)
            for buffer in self.buffers.values()
            if buffer is not None and not buffer.is_inference()
        ]

    @torch.no_grad()
    def restore(self) -> None:
        self.module.training = self.training
        if type(self.module) is not self.kind:
            return  # a lazy module, which has its sizes and its final class now
        own: dict[str, Any] = vars(self.module)
        for name in own.keys() - self.attributes.keys():
            del own[name]
        own.update(self.attributes)
        if isinstance(self.module._buffers, dict):  # a TorchScript module's are no dictionary
            self.module._buffers.clear()
            self.module._buffers.update(self.buffers)
        for buffer, value, version in self.values:
            if buffer._version != version:  # a copy where nothing changed would upset autograd
                buffer.copy_(value)


def _eagerly(model: nn.Module) -> AbstractContextManager[Any]:
    """Within, nothing of the model runs compiled."""
    compiled = any(
        hasattr(module, "_orig_mod") or module._compiled_call_impl is not None
        for module in model.modules()
    )
    return torch.compiler.set_stance("force_eager") if compiled else nullcontext()
