"""weightcast export: a saved network as a file for other runtimes, compared with the network."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from weightcast.cli.sources import load_source
from weightcast.layers.counts import ledger
from weightcast.storage import JSON_NAME, load
from weightcast.storage.export import Form, Format, export

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser

SUMMARY = "Write a saved network as an ONNX file or a torch.export program."
HELP = """FOLDER is what weightcast train wrote, or wc.save; for the latter, --factory names a
function that makes the dense network, and --input-shape one of its inputs. The file is run and
compared with the network."""

_CONFIG, _DATA, _MODEL = "config.json", "data.json", "model"


def add_options(parser: ArgumentParser) -> None:
    """Add the options to the command's parser."""
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
        "--input-shape", type=list[int], metavar="[N,...]", help="of one example, without the batch"
    )


def run_export(
    folder: str | Path,
    output: str | Path,
    format: Format = "onnx",
    form: Form = "factored",
    fixed_batch: int | None = None,
    factory: str | None = None,
    allow_import: bool = False,
    input_shape: Sequence[int] | None = None,
) -> None:
    """Export a saved network, run the file and print how far it is from the network.

    Args:
        folder: a run's, or one that :func:`weightcast.save` wrote.
        output: the file to write.
        format: ``onnx`` or ``torch``.
        form: ``factored`` or ``merged``.
        fixed_batch: the only batch size; None lets it be any.
        factory: ``package:function``, for the dense network; None takes the run's config.
        allow_import: whether the factory may be imported.
        input_shape: of one example; None takes that of the run's data.

    Raises:
        ValueError: a folder that cannot be read, a factory that cannot or must not be imported, or
            what :func:`weightcast.export` refuses.
    """
    folder = Path(folder)
    saved = folder / _MODEL if (folder / _MODEL / JSON_NAME).is_file() else folder
    if factory is None:
        dense, shape, alphabet = _dense_of_run(folder)
    else:
        dense, shape, alphabet = load_source(factory, allow_import), None, None
    if not isinstance(dense, nn.Module):
        raise ValueError(f"{factory} holds tensors: name what makes the dense network")
    shape = input_shape or shape
    if shape is None:
        raise ValueError("say what one example looks like, such as --input-shape [1,28,28]")
    model = load(saved, dense).eval()
    sizes = [fixed_batch] if fixed_batch else [2, 1, 5]
    examples = [_example((size, *shape), alphabet) for size in sizes]
    path = export(
        model, output, examples[0], format=format, form=form, dynamic_batch=not fixed_batch
    )
    print(_report(path, model, examples, format, form))


def _example(shape: Sequence[int], alphabet: int | None) -> Tensor:
    """Noise of this shape, or characters of an alphabet of this size."""
    if alphabet is None:
        return torch.rand(*shape)
    return torch.randint(alphabet, tuple(shape))


def _dense_of_run(folder: Path) -> tuple[nn.Module, list[int], int | None]:
    """The dense network that a run's config describes, an example's shape, a text's alphabet."""
    try:
        config, data = (json.loads((folder / name).read_text()) for name in (_CONFIG, _DATA))
    except FileNotFoundError as error:
        raise ValueError(
            f"{folder} is no run of weightcast train: {Path(error.filename).name} is missing. Name "
            "the dense network of a saved model with --factory PACKAGE:FUNCTION"
        ) from error
    from weightcast_lab.training import TrainConfig
    from weightcast_lab.training.build import dense_model

    config = TrainConfig.from_dict(config, str(folder / _CONFIG))
    shape, n_classes = data["shape"], data["n_classes"]
    alphabet = n_classes if config.model.reads_text else None
    return dense_model(config, shape, n_classes), shape, alphabet


def _report(
    path: Path, model: nn.Module, examples: Sequence[Tensor], format: Format, form: Form
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
        worst = max(_difference(runner(x), model(x)) for x in examples)
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


def _difference(a: Tensor, b: Tensor) -> float:
    return float((a - b).abs().max() / b.abs().max())
