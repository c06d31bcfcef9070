"""weightcast export: a saved network as a file for other runtimes, compared with the network."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from weightcast.cli.installed import extension
from weightcast.cli.parsing import integers
from weightcast.cli.sources import load_source
from weightcast.files import check_place, user_path
from weightcast.layers.counts import ledger
from weightcast.storage import JSON_NAME, load
from weightcast.storage.export import Format, export

SUMMARY = "Write a saved network as an ONNX file or a torch.export program."
HELP = """FOLDER is what weightcast train wrote, or wc.save; for the latter, --factory names a
function that makes the dense network, and --input-shape one of its inputs. The file is run and
compared with the network."""

_MODEL = "model"  # the folder of a saved network within that of a run


def add_options(parser: ArgumentParser) -> None:
    """Add the command's options."""
    parser.add_argument("folder", metavar="FOLDER", help="of a run, or of a saved model")
    parser.add_argument("--output", required=True, metavar="FILE", help="the file to write")
    parser.add_argument("--format", default="onnx", help="onnx, or torch for a .pt2 program")
    parser.add_argument(
        "--form", default="factored", help="factored: small; merged: the dense network"
    )
    parser.add_argument(
        "--fixed-batch", type=int, metavar="N", help="for batches of N only; any size by default"
    )
    parser.add_argument(
        "--factory", metavar="PACKAGE:FUNCTION", help="makes the dense network, without arguments"
    )
    parser.add_argument(
        "--allow-import", action="store_true", help="let --factory import and run its code"
    )
    parser.add_argument(
        "--input-shape", type=integers, metavar="[N,...]", help="of one example, without the batch"
    )


def run(options: Namespace) -> None:
    """Export a saved network, run the file and print how far it is from the network."""
    folder = user_path(options.folder)
    check_place(options.output)
    saved = folder / _MODEL if (folder / _MODEL / JSON_NAME).is_file() else folder
    if options.factory is None:
        purpose = f"the network of {folder}, whose --factory is not named,"
        dense, shape, alphabet = extension("trained_network", purpose)(folder)
    else:
        dense, shape, alphabet = load_source(options.factory, options.allow_import), None, None
    if not isinstance(dense, nn.Module):
        raise ValueError(f"{options.factory} holds tensors: name what makes the dense network")
    shape = options.input_shape or shape
    if shape is None:
        raise ValueError("say what one example looks like, such as --input-shape [1,28,28]")
    model = load(saved, dense).eval()
    sizes = [options.fixed_batch] if options.fixed_batch else [2, 1, 5]
    examples = [
        torch.rand(size, *shape) if alphabet is None else torch.randint(alphabet, (size, *shape))
        for size in sizes
    ]
    how = {"format": options.format, "form": options.form}
    path = export(model, options.output, examples[0], dynamic_batch=not options.fixed_batch, **how)
    print(_report(path, model, examples, **how))


def _report(
    path: Path, model: nn.Module, examples: Sequence[Tensor], format: Format, form: str
) -> str:
    """What was written, and how far it is from the network, as text."""
    total, runner = ledger(model).total, _runner(path, format)
    numbers = total.learned + total.static
    lines = [
        f"{path}: {path.stat().st_size:,} bytes, {format}, {form}",
        f"{'learned and static':<19} {numbers:,} numbers, {4 * numbers:,} bytes as float32",
        f"{'dense':<19} {total.dense:,} numbers, {4 * total.dense:,} bytes as float32",
    ]
    if runner is None:
        return "\n".join([*lines, "not compared with the network: onnxruntime is not installed"])
    with torch.no_grad():
        pairs = [(runner(x), model(x)) for x in examples]
    worst = max(float((y - expected).abs().max() / expected.abs().max()) for y, expected in pairs)
    sizes = ", ".join(str(len(x)) for x in examples)
    lines.append(
        f"{'largest difference':<19} {worst:.1e} of the largest output; batches of {sizes}"
    )
    return "\n".join(lines)


def _runner(path: Path, format: Format) -> Callable[[Tensor], Tensor] | None:
    """The file as a function; None where there is nothing to run it with."""
    if format == "torch":
        return torch.export.load(path).module()
    try:
        import onnxruntime
    except ModuleNotFoundError:
        return None
    session: Any = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda x: torch.from_numpy(session.run(None, {name: x.numpy()})[0])
