"""Peak memory of loading corrupted folders, each beside the size of its files, as lines of JSON.

python -m tests.fuzz.peaks FOLDER
"""

from __future__ import annotations

import gc
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import nn

import weightcast as wc
from tests.fuzz.corruptions import JSON_NAME, TENSORS_NAME, Files, sealed

WIDTH, MEBIBYTE = 1024, 2**20


def make_dense() -> nn.Module:
    # Its own weights are small, so that what loading allocates is what the file asks for.
    return nn.Sequential(nn.Linear(WIDTH, 64), nn.Embedding(4 * WIDTH, WIDTH))


def cases(files: Files) -> Iterator[tuple[str, Files]]:
    """The folder as it is, and what asks for far more memory than it has."""
    yield "as saved", files
    data = files[TENSORS_NAME]
    n_header = int.from_bytes(data[:8], "little")
    header, body = json.loads(data[8 : 8 + n_header]), data[8 + n_header :]

    def with_header(changed: dict) -> Files:
        text = json.dumps(changed).encode()
        return files | {TENSORS_NAME: len(text).to_bytes(8, "little") + text + body}

    weight = header["1.weight"]
    yield "a giant shape", with_header(header | {"1.weight": weight | {"shape": [2**20, 2**20]}})
    giant = weight | {"data_offsets": [weight["data_offsets"][0], 2**40]}
    yield "a giant place", with_header(header | {"1.weight": giant})
    yield "cut off", files | {TENSORS_NAME: data[: len(data) // 2]}
    many = {f"{n}": {"dtype": "U8", "shape": [0], "data_offsets": [0, 0]} for n in range(300_000)}
    yield "many tensors", with_header(header | many)
    facts = json.loads(files[JSON_NAME])
    lists = {"versions": {}, "lists": [[]] * 4_000_000}
    yield "many lists", files | {JSON_NAME: sealed(facts | lists)}
    for key, value in (("n_units", 10**9), ("n_visible", 10**9)):
        layers = {"0": facts["layers"]["0"] | {key: value}}
        yield f"a giant {key}", files | {JSON_NAME: sealed(facts | {"layers": layers})}
    rule = facts["plan"]["rules"]["0"]
    for change in ({"columns": 10**9}, {"grid": {"kind": "Grid", "shape": [10**9], "channels": 1}}):
        plan = facts["plan"] | {"rules": {"0": rule | change}}
        yield f"a giant {next(iter(change))}", files | {JSON_NAME: sealed(facts | {"plan": plan})}


def resident(name: str) -> float:
    line = next(x for x in Path("/proc/self/status").read_text().splitlines() if name in x)
    return int(line.split()[1]) / 1024


def main() -> None:
    torch.set_num_threads(1)
    folder = Path(sys.argv[1]) / "model"
    dense = make_dense()
    model = wc.convert(dense, {"0": wc.Rule(wc.dictionaries.Kernel(), 0.1, 2, (32, 32))})
    wc.save(model, folder)
    wc.load(folder, dense)  # libraries warm up
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    for what, case in cases(files):
        for name, data in case.items():
            (folder / name).write_bytes(data)
        size = sum(len(data) for data in case.values()) / MEBIBYTE
        del case
        gc.collect()
        before = resident("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")
        try:
            loaded, refused = wc.load(folder, dense), False
        except wc.FormatError:
            loaded, refused = None, True
        peak = resident("VmHWM") - before
        print(json.dumps({"what": what, "mebibytes": peak, "files": size, "refused": refused}))
        del loaded


if __name__ == "__main__":
    main()
