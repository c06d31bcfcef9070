"""A network of the Hub from a folder on disk, and its answers to padded tokens or pixels."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers.utils import logging

from weightcast_lab.data.examples import PADDING, Task

_CLASSES: dict[str, Any] = {
    "text-classification": transformers.AutoModelForSequenceClassification,
    "text-generation": transformers.AutoModelForCausalLM,
    "image-classification": transformers.AutoModelForImageClassification,
}
_SAFE = {"trust_remote_code": False, "local_files_only": True}
AT_ONCE = 32  # examples where nothing is learned
LIKE_LENGTHS = 8  # texts that go together, on the CPU, where padding costs more than calls do


class Answers(nn.Module):
    """A network's logits for x as :class:`~weightcast_lab.data.examples.Examples` has it.

    Args:
        network: of transformers.
        padding: the token by which the network knows the end of shorter texts.
    """

    def __init__(self, network: nn.Module, padding: int) -> None:
        super().__init__()
        self.network, self.padding = network, padding

    def forward(self, x: Tensor) -> Tensor:
        """Logits (n, n_classes), or (n, length, n_tokens), float32.

        Texts of like length go through the network together: much of a drawn batch is padding.
        """
        if x.device.type == "cpu" and not x.is_floating_point() and (x == PADDING).any():
            order = (x != PADDING).sum(1).argsort(stable=True)
            return self._in_parts(x[order], LIKE_LENGTHS)[order.argsort()]
        return self._in_parts(x, len(x) if self.training else AT_ONCE)

    def _in_parts(self, x: Tensor, most: int) -> Tensor:
        """Logits of so many examples at a time; those of one part are not copied."""
        found = [self.network(**self.batch(part)).logits.float() for part in x.split(most)]
        return torch.cat(found) if len(found) > 1 else found[0]

    def batch(self, x: Tensor) -> dict[str, Any]:
        """What the network is called with."""
        if x.is_floating_point():
            return {"pixel_values": x}
        there = x != PADDING
        there = there[:, : int(there.sum(1).max())]
        tokens = x[:, : there.shape[1]].masked_fill(~there, self.padding)
        cache = {"use_cache": False} if hasattr(self.network.config, "use_cache") else {}
        return {"input_ids": tokens, "attention_mask": there.long(), **cache}


def load_reader(task: Task, folder: Path) -> tuple[Any, dict[str, Any]]:
    """The folder's tokenizer, or what prepares its images, and its config.json.

    Raises:
        ValueError: no folder from the Hub, or one that transformers cannot read.
    """
    if not (folder / "config.json").is_file() or not list(folder.glob("*.safetensors")):
        raise ValueError(f"{folder} is no Hub folder: it needs config.json and .safetensors files")
    images = task == "image-classification"
    kind = transformers.AutoImageProcessor if images else transformers.AutoTokenizer
    with _reading(folder):
        return kind.from_pretrained(folder, **_SAFE), json.loads(
            (folder / "config.json").read_bytes()
        )


def load_network(
    task: Task, folder: Path, n_classes: int, dtype: torch.dtype, seed: int
) -> tuple[Any, list[str]]:
    """A network with a head for so many classes, and the names of the head's modules.

    Args:
        task: which head it has.
        folder: config.json and safetensors; no code of it is run, and nothing is downloaded.
        n_classes: of labels, or of tokens.
        dtype: of its weights.
        seed: of a head that the folder lacks.

    Raises:
        ValueError: a folder that transformers cannot read, or lacks what has no head's place.
    """
    sized = {} if task == "text-generation" else {"num_labels": n_classes}
    with _reading(folder), torch.random.fork_rng():
        torch.manual_seed(seed)
        network, found = _CLASSES[task].from_pretrained(
            folder, use_safetensors=True, ignore_mismatched_sizes=bool(sized), dtype=dtype,
            output_loading_info=True, **sized, **_SAFE,
        )  # fmt: skip
    fresh = {*found["missing_keys"], *(key for key, *_ in found["mismatched_keys"])}
    if not sized:
        if fresh:
            raise ValueError(f"{folder} has no weights for {min(fresh)}: it generates no text")
        return network, []
    own = network.base_model_prefix
    heads = [n for n, child in network.named_children() if n != own and list(child.parameters())]
    # Such as a pooler, which an encoder's folder often lacks.
    lacking = sorted({key.rpartition(".")[0] for key in fresh})
    return network, heads + [n for n in lacking if n.partition(".")[0] not in heads]


@contextmanager
def _reading(folder: Path) -> Iterator[None]:
    """Without announcements; what is wrong with a folder in one line."""
    shown = logging.get_verbosity()
    logging.set_verbosity_error()
    bar = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    except (OSError, ValueError, KeyError, RuntimeError, ImportError, SafetensorError) as error:
        why = str(error).strip().partition("\n")[0]
        raise ValueError(f"transformers cannot read {folder}: {why}") from error
    finally:
        logging.set_verbosity(shown)
        if bar:
            logging.enable_progress_bar()
