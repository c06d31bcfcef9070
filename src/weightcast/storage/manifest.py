"""Manifest: all that weightcast.json says of a saved model, written and read with its checksum."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from weightcast.dictionaries.fingerprint import Fingerprint
from weightcast.dictionaries.packing import BaseSpec
from weightcast.plan.plan import Plan
from weightcast.serialization import Configuration, decode, encode
from weightcast.storage.few_bits import FewBits
from weightcast.storage.format_error import FormatError, excerpt, parse_json, refusing
from weightcast.storage.origin import Origin

SCHEMA = 2
JSON_NAME, TENSORS_NAME = "weightcast.json", "model.safetensors"

_BYTES, _BYTES_PER_NAME = 1 << 16, 1 << 12


@dataclass(frozen=True)
class LayerManifest(Configuration):
    """What is known of one predicted layer before it is made."""

    layer: str  # its class
    dtype: str  # of its weights
    n_visible: int
    n_units: int
    learned: int  # how many numbers it learns
    base: BaseSpec | None = None  # how its base is stored; None where it is rebuilt from the rule
    mixed: bool = False  # whether its mixing is stored too
    fingerprint: Fingerprint | None = None  # of what is to be rebuilt; None where nothing is


@dataclass(frozen=True)
class Manifest(Configuration):
    """Everything about a saved model but its tensors."""

    KIND = "Facts"  # in error messages, as ever

    schema: int  # version of this format
    versions: dict[str, str]  # of the packages that wrote it
    plan: Plan  # the rule of every predicted layer, by its name
    layers: dict[str, LayerManifest]
    counts: dict[str, int]  # of the whole model: ``learned`` and ``saved`` numbers
    tensors: dict[str, str]  # names in the tensors' file to checksums
    ties: dict[str, str]  # names of tensors that are the same as another's, to that one's name
    packed: dict[str, FewBits] = field(default_factory=dict)  # tensors that are kept in few bits
    origin: Origin | None = None  # of what an adapter was made for; its layers end in ``delta``

    def __post_init__(self) -> None:
        if self.plan.rules.keys() != self.layers.keys() or None in self.plan.rules.values():
            odd = sorted(self.plan.rules.keys() ^ self.layers.keys())[:3]
            raise ValueError(f"plan and layers differ in {excerpt(odd)}")


def max_bytes(names: Iterable[str]) -> int:
    """How many bytes the manifest of a model with modules of these names may take."""
    return _BYTES + sum(_BYTES_PER_NAME + 12 * len(name) for name in names)


def write_manifest(manifest: Manifest) -> bytes:
    """JSON text, with a checksum of all else in it."""
    data = _without_kind(manifest) | {"plan": manifest.plan.to_dict()}
    for name in ("packed", "origin"):  # so that earlier versions read what they can
        if not data[name]:
            del data[name]
    data["layers"] = {name: _without_kind(layer) for name, layer in manifest.layers.items()}
    data["checksum"] = text_checksum(json.dumps(data))
    return json.dumps(data, indent=1, allow_nan=False).encode()


def read_manifest(text: bytes) -> Manifest:
    """Undo :func:`write_manifest`; what is made of a text takes up to 30 times as much memory."""
    data = parse_json(text, JSON_NAME)
    schema = data.get("schema") if isinstance(data, dict) else None
    if type(schema) is not int or schema != SCHEMA:
        newer = isinstance(schema, int) and schema > SCHEMA
        remedy = ": a newer weightcast wrote it, and can read it" if newer else ""
        raise FormatError(
            f"has schema {excerpt(schema)}, this version of weightcast reads schema "
            f"{SCHEMA}{remedy}"
        )
    with refusing("cannot be read"):
        if data.pop("checksum", None) != text_checksum(json.dumps(data)):
            raise FormatError(f"is damaged: {JSON_NAME} was changed after it was saved (checksum)")
        _check_keys(data)
        plan = Plan.from_dict(data.get("plan", {}))
        return decode(Manifest, data | {"plan": plan}, JSON_NAME)


def _check_keys(data: dict[str, Any]) -> None:
    """Refuse rules of no layer before they are read: a regular expression would be compiled."""
    plan, layers = data.get("plan"), data.get("layers")
    rules = plan.get("rules") if isinstance(plan, dict) else None
    if isinstance(rules, dict) and isinstance(layers, dict):
        odd = [key for key in rules if key not in layers or key == "*" or key.startswith("re:")]
        if odd:
            raise FormatError(f"cannot be read: plan and layers differ in {excerpt(odd[:3])}")


def _without_kind(value: Any) -> dict[str, Any]:
    """The fields of an object whose class is known anyway."""
    return {name: field for name, field in encode(value).items() if name != "kind"}


def text_checksum(text: str) -> str:
    """CRC-32 of a text."""
    return f"{zlib.crc32(text.encode()):08x}"
