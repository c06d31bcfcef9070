"""save and load: a folder of JSON and safetensors that holds what cannot be rebuilt.

    weightcast.json    the manifest: schema, plan, sizes and fingerprint of every predicted layer,
                       tied names, checksums of all tensors and of itself
    model.safetensors  V, biases, dense tensors, indices; bases of dictionaries made from data or
                       at random

``save`` gathers what is to be saved (``state``), writes both files (``tensors``, ``manifest``) and
puts the folder in place in one step (``weightcast.files``). ``load`` opens it (``open_files``) and
checks what it reads before it is used: names and sizes against the model that is to be filled
(``load``, ``rebuild``), the work of building dictionaries against what it may take (``allowance``),
contents against their checksums, rebuilt dictionaries against their fingerprints. Nothing in a
folder is executed.
"""

from weightcast.storage.format_error import FormatError
from weightcast.storage.load import load, load_files
from weightcast.storage.manifest import JSON_NAME
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
