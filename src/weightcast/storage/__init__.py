"""save and load: a folder of JSON and safetensors that holds what cannot be rebuilt.

    weightcast.json    schema, plan, facts and fingerprint of every predicted layer, tied names,
                       checksums of all tensors and of itself
    model.safetensors  V, biases, dense tensors, indices; bases of dictionaries made from data or
                       at random

A folder is replaced whole or left alone (``replace``), and what is read is checked before it is
used: names and sizes against the model that is to be filled (``read``, ``rebuild``), the work of
building dictionaries against what it may take (``cost``), contents against their checksums
(``tensors``), rebuilt dictionaries against their fingerprints. Nothing in a folder is executed.
"""

from weightcast.storage.load import load, load_files
from weightcast.storage.manifest import JSON_NAME, FormatError
from weightcast.storage.save import Bases, checkpoint_bytes, save, saved_bytes

__all__ = [
    "JSON_NAME",
    "Bases",
    "FormatError",
    "checkpoint_bytes",
    "load",
    "load_files",
    "save",
    "saved_bytes",
]
