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
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError
from torch import nn

from weightcast.checkpoint import FormatError, load, load_files
from weightcast.checkpoint.format import JSON_NAME, TENSORS_NAME
from weightcast.checkpoint.replace import replacing
from weightcast.checkpoint.write import is_saved_model, write_model
from weightcast.ledger import LedgerRow, ledger

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

It is loaded with the package [weightcast](https://pypi.org/project/weightcast/), into the class
that it was saved from:

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
    """What a model class needs to be kept in a folder and on the Hub, dictionaries included.

    A class that takes it needs no more.
    """

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
        with replacing(target, is_saved_model) as part:
            if kept is not None:
                (part / CARD_NAME).write_bytes(kept)
            super().save_pretrained(
                part,
                config=options.get("config"),
                model_card_kwargs=options.get("model_card_kwargs"),
            )
        if not push_to_hub:
            return None
        return self.push_to_hub(repo_id or target.name, **options)

    def push_to_hub(self, repo_id: str, **options: Any) -> str:
        """Push the model's folder to a repository on the Hub.

        Args:
            repo_id: of the repository, which is made where there is none.
            options: as huggingface_hub's ``ModelHubMixin.push_to_hub`` takes them.

        Returns:
            The address of the commit.
        """
        card = {"repo_id": repo_id} | (options.pop("model_card_kwargs", None) or {})
        return super().push_to_hub(repo_id, model_card_kwargs=card, **options)

    def _save_pretrained(self, save_directory: Path) -> None:
        write_model(_as_module(self), save_directory)

    @classmethod
    def _from_pretrained(
        cls,
        *,
        model_id: str,
        revision: str | None,
        cache_dir: str | Path | None,
        force_download: bool,
        local_files_only: bool,
        token: str | bool | None,
        **model_kwargs: Any,
    ) -> Self:
        """Make the dense model by the class's constructor, and load into it, in evaluation mode."""
        dense = _as_module(cls(**model_kwargs))
        if os.path.isdir(model_id):
            return load(model_id, dense).eval()  # pyright: ignore[reportReturnType]
        try:
            facts, tensors = (
                hf_hub_download(
                    repo_id=model_id,
                    filename=name,
                    revision=revision,
                    cache_dir=cache_dir,
                    force_download=force_download,
                    token=token,
                    local_files_only=local_files_only,
                )
                for name in (JSON_NAME, TENSORS_NAME)
            )
        except LocalEntryNotFoundError:  # there may be one, but it cannot be reached
            raise
        except EntryNotFoundError as error:
            raise FormatError(f"{model_id} is no saved model: {error}") from error
        return load_files(facts, tensors, dense).eval()  # pyright: ignore[reportReturnType]

    def generate_model_card(self, *args: Any, **kwargs: Any) -> ModelCard:
        """The card, with the ledger as a table; arguments fill the template."""
        name = type(self).__name__
        facts = {"ledger": ledger_table(_as_module(self)), "model_name": name, "repo_id": name}
        return super().generate_model_card(*args, **(facts | kwargs))


def ledger_table(model: nn.Module) -> str:
    """The ledger of a model as a Markdown table.

    Args:
        model: with predicted layers, or none.
    """
    counts = ledger(model)
    head = "| layer | kind | dense | learned | share | stored |\n|---|---|--:|--:|--:|--:|"
    return "\n".join([head, *map(_table_row, (*counts.rows, counts.total))])


def _table_row(row: LedgerRow) -> str:
    name = row.layer.replace("|", "\\|")
    return (
        f"| {name} | {row.kind} | {row.dense:,} | {row.learned:,} | "
        f"{row.proportion_learned:.1%} | {row.stored:,} |"
    )


def _as_module(model: Any) -> nn.Module:
    if not isinstance(model, nn.Module):
        raise TypeError(f"{type(model).__name__} takes HubMixin but is no nn.Module")
    return model
