"""HubMixin: save_pretrained, from_pretrained and push_to_hub for models with predicted layers.

Needs the extra ``hub``. A model class takes the mixin and keeps its constructor::

    class Digits(HubMixin, nn.Module):
        def __init__(self, hidden: int = 500) -> None: ...

    model = wc.convert(Digits(hidden=500), plan)
    model.save_pretrained("digits")
    model = Digits.from_pretrained("digits")

The folder is what :func:`weightcast.save` writes, with the constructor's arguments in config.json
and a model card that carries the ledger. Nothing but JSON and safetensors is written or read, and
every name must fit: there is no other way in, whatever a repository holds.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Self

from huggingface_hub import ModelCard, ModelHubMixin, hf_hub_download
from huggingface_hub.constants import CONFIG_NAME
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, LocalEntryNotFoundError
from torch import nn

from weightcast.files import atomic_folder
from weightcast.layers.counts import ledger
from weightcast.storage import FormatError, load, load_files
from weightcast.storage.format_error import naming, parse_json, refusing
from weightcast.storage.manifest import JSON_NAME, TENSORS_NAME
from weightcast.storage.open_files import open_regular
from weightcast.storage.save import is_saved_model, refuse_others, write_model

LARGEST_CONFIG = 1 << 16  # bytes of a config.json
# What a constructor raises is the fault of the arguments that it got.
_NOT_MADE = f"is not loaded: no model can be made of {CONFIG_NAME} and the arguments given"
# How a file is fetched: what huggingface_hub passes on beside a constructor's arguments.
_DOWNLOAD = ("revision", "cache_dir", "force_download", "local_files_only", "token")

CARD_NAME = "README.md"
CARD = """---
{{ card_data }}
---

# {{ model_name }}

This network's weights are predicted: in each layer below with fewer learned than dense weights,
W = U V, the dictionary U is fixed and only V was learned (Denil et al. 2013,
[Predicting Parameters in Deep Learning](https://arxiv.org/abs/1306.0543)).

{{ ledger }}

*dense*: weights that the layer would have. *learned*: weights that were trained. *stored*: numbers
in this repository.

## Use

It is loaded with the Python package `weightcast`, into the class that it was saved from:

```python
model = {{ model_name }}.from_pretrained("{{ repo_id }}")
```
"""


class HubMixin(
    ModelHubMixin,
    library_name="weightcast",
    tags=["weightcast"],
    paper_url="https://arxiv.org/abs/1306.0543",
    model_card_template=CARD,
):
    """All that a model class needs to be kept in a folder and on the Hub, dictionaries included."""

    def save_pretrained(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        save_directory: str | Path,
        *,
        push_to_hub: bool = False,
        repo_id: str | None = None,
        **options: Any,
    ) -> str | None:
        """Write a folder, whole or not at all; an existing one is replaced, but for its README.md.

        Args:
            save_directory: the folder; folders above it are made.
            push_to_hub: push it as well.
            repo_id: the repository to push to; None takes the folder's name.
            options: ``config``, ``model_card_kwargs``, and what ``push_to_hub`` takes.

        Returns:
            The address of what was pushed, or None.

        Raises:
            ValueError: the folder exists and was not written so.
        """
        target = Path(save_directory)
        target.parent.mkdir(parents=True, exist_ok=True)
        card = target / CARD_NAME
        kept = card.read_bytes() if card.is_file() and is_saved_model(target) else None
        with atomic_folder(target, refuse_others) as part:
            if kept is not None:
                (part / CARD_NAME).write_bytes(kept)
            super().save_pretrained(
                part,
                config=options.get("config"),
                model_card_kwargs=options.get("model_card_kwargs"),
            )
            _check_config(str(part), {})
        if not push_to_hub:
            return None
        return self.push_to_hub(repo_id or target.name, **options)

    def push_to_hub(self, repo_id: str, **options: Any) -> str:
        """Push the model's folder to a repository, which is made where there is none.

        It takes the options of huggingface_hub's ``ModelHubMixin.push_to_hub``, and returns the
        address of the commit.
        """
        card = {"repo_id": repo_id} | (options.pop("model_card_kwargs", None) or {})
        return super().push_to_hub(repo_id, model_card_kwargs=card, **options)

    @classmethod
    def from_pretrained(  # pyright: ignore[reportIncompatibleMethodOverride]
        cls, pretrained_model_name_or_path: str | Path, **options: Any
    ) -> Self:
        """Make a model of this class from a folder or a repository, in evaluation mode.

        Args:
            pretrained_model_name_or_path: the folder, or the repository's name on the Hub.
            options: ``force_download``, ``token``, ``cache_dir``, ``local_files_only``,
                ``revision``, as huggingface_hub takes them; and arguments of the constructor, in
                place of those in config.json.

        Raises:
            FormatError: what :func:`weightcast.load` refuses, or a config.json from which this
                class cannot be made.
        """
        name = str(pretrained_model_name_or_path)
        with naming(name):
            _check_config(name, options)
        return super().from_pretrained(name, **options)

    @classmethod
    def _decode_arg(cls, expected_type: Any, value: Any) -> Any:
        with refusing(_NOT_MADE):
            return super()._decode_arg(expected_type, value)

    def _save_pretrained(self, save_directory: Path) -> None:
        write_model(_as_module(self), save_directory)

    @classmethod
    def _from_pretrained(cls, *, model_id: str, **options: Any) -> Self:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Make the dense model by the class's constructor, and load into it, in evaluation mode."""
        download = {key: options.pop(key) for key in _DOWNLOAD if key in options}
        with naming(model_id), refusing(_NOT_MADE):
            made = cls(**options)
        dense = _as_module(made)
        if os.path.isdir(model_id):
            return load(model_id, dense).eval()  # pyright: ignore[reportReturnType]
        try:
            manifest, tensors = (
                hf_hub_download(repo_id=model_id, filename=name, **download)
                for name in (JSON_NAME, TENSORS_NAME)
            )
        except LocalEntryNotFoundError:  # there may be one, but it cannot be reached
            raise
        except EntryNotFoundError as error:
            raise FormatError(f"{model_id} is no saved model: {error}") from error
        return load_files(manifest, tensors, dense).eval()  # pyright: ignore[reportReturnType]

    def generate_model_card(self, *args: Any, **kwargs: Any) -> ModelCard:
        """The card, with the ledger as a table; arguments fill the template."""
        name = type(self).__name__
        fields = {"ledger": ledger_table(_as_module(self)), "model_name": name, "repo_id": name}
        return super().generate_model_card(*args, **(fields | kwargs))


def _check_config(name: str, options: dict[str, Any]) -> None:
    """Refuse a config.json that is no short JSON object, before huggingface_hub reads it."""
    path = Path(name, CONFIG_NAME)
    if not os.path.isdir(name):
        download = {key: options[key] for key in _DOWNLOAD if key in options}
        try:
            path = Path(hf_hub_download(repo_id=name, filename=CONFIG_NAME, **download))
        except (HfHubHTTPError, EntryNotFoundError):  # which huggingface_hub will meet again
            return
        path = path.resolve()  # a link of the cache
    try:
        with open_regular(path) as file:
            text = file.read(LARGEST_CONFIG + 1)
    except FileNotFoundError:
        return
    if len(text) > LARGEST_CONFIG:
        raise FormatError(f"is not read: {CONFIG_NAME} has more than {LARGEST_CONFIG} bytes")
    config = parse_json(text, CONFIG_NAME)
    if not isinstance(config, dict):
        raise FormatError(f"is damaged: {CONFIG_NAME} is no object")
    if odd := sorted({"model_id", *_DOWNLOAD} & config.keys()):
        raise FormatError(
            f"is not read: {CONFIG_NAME} has {odd}, which are no arguments of a model"
        )


def ledger_table(model: nn.Module) -> str:
    """The ledger of a model as a Markdown table."""
    counts = ledger(model)
    lines = ["| layer | kind | dense | learned | share | stored |", "|---|---|--:|--:|--:|--:|"]
    for row in (*counts.rows, counts.total):
        name, share = row.layer.replace("|", "\\|"), f"{row.proportion_learned:.1%}"
        cells = (name, row.kind, f"{row.dense:,}", f"{row.learned:,}", share, f"{row.stored:,}")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _as_module(model: Any) -> nn.Module:
    if not isinstance(model, nn.Module):
        raise TypeError(f"{type(model).__name__} takes HubMixin but is no nn.Module")
    return model
