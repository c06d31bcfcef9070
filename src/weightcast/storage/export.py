"""export: a model for other runtimes, as an ONNX file or a ``torch.export`` program."""

from __future__ import annotations

import os
import shutil
import warnings
import zlib
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryFile
from typing import TYPE_CHECKING, Any, Literal
from zipfile import ZIP_DEFLATED, ZIP_STORED, ZipFile, ZipInfo

import torch
from torch import Tensor, nn

from weightcast.files import atomic_write
from weightcast.layers.layer import full_precision
from weightcast.layers.models import copied
from weightcast.storage.tracing import quiet, trace
from weightcast.transform.convert import merge
from weightcast.weight import PredictedWeight

if TYPE_CHECKING:
    from torch.export import ExportedProgram

Format = Literal["onnx", "torch"]
Form = Literal["factored", "merged"]

_GROWTH = 64  # numbers by which folding a constant of an ONNX graph may make the file larger
_SAMPLE = 2**16  # bytes of a .pt2 file's entry that tell whether to compress it


def export(
    model: nn.Module,
    path: str | os.PathLike[str],
    inputs: Tensor | Sequence[Tensor],
    *,
    format: Format = "onnx",
    form: Form = "factored",
    dynamic_batch: bool = True,
) -> Path:
    """Write a model as a file that runs without weightcast, whole or not at all.

    ``factored`` keeps the file small: it holds M_j V_j, biases and dense weights, and of every
    dictionary the base and indices. All predicted layers then take the factored path, whatever the
    batch (a layer's own choice depends on it), save those that are slower so at any batch.
    ``merged`` is the dense network.

    Args:
        model: with predicted layers, or none; it is left as it is, and exported in evaluation mode.
        path: of the file, which is returned; one that is there is replaced.
        inputs: an example tensor, or one for each argument; their numbers do not matter.
        format: ``onnx`` (extra ``onnx``), or ``torch``: a .pt2 file for ``torch.export.load``.
        form: ``factored`` or ``merged``.
        dynamic_batch: let the first axis have any length; else the file is for that of ``inputs``.

    Raises:
        ValueError: an unknown format or form, a model that cannot be traced, or an ONNX file above
            the 2 GiB that its format can hold, or one that onnxruntime, if it is there, cannot run.
        ModuleNotFoundError: ONNX without the extra ``onnx``.
    """
    if format not in ("onnx", "torch"):
        raise ValueError(f"format is {format!r}: take 'onnx' or 'torch'")
    path = Path(path)
    if format == "torch" and path.suffix != ".pt2":
        raise ValueError(f"{path} must end in .pt2, by which torch.export.load knows such a file")
    examples = _as_tuple(inputs)
    program = trace(_prepare(model, form), examples, dynamic_batch)
    data = _onnx_bytes(program) if format == "onnx" else None
    if data is not None:
        _try(data, examples)
    with atomic_write(path) as partial:
        if data is None:
            _write_program(program, partial)
        else:
            partial.write_bytes(data)
    return path


def _prepare(model: nn.Module, form: Form) -> nn.Module:
    """A copy that computes in one way only, in evaluation mode."""
    if form == "merged":
        return merge(model).eval()
    if form != "factored":
        raise ValueError(f"form is {form!r}: take 'factored' or 'merged'")
    model = copied(model).eval()
    layers = [module for module in model.modules() if isinstance(module, PredictedWeight)]
    _fold_mixing([layer for layer in layers if layer.atoms.pending_mixing is not None])
    for layer in layers:
        layer.path = "materialised" if layer.never_factored else "factored"
    return model


@torch.no_grad()
def _fold_mixing(layers: Sequence[PredictedWeight]) -> None:
    """Let V be M_j V_j, as many numbers, and every M_j the identity, which no file need hold."""
    mixed: dict[tuple[int, int], nn.Parameter] = {}  # tied layers have one V and one M
    for layer in layers:
        key = id(layer.V), id(layer.atoms)
        if key not in mixed:
            with full_precision(layer.V):
                mixed[key] = nn.Parameter(layer.coefficients(), layer.V.requires_grad)
    for layer in layers:
        layer.V = mixed[id(layer.V), id(layer.atoms)]
    for layer in layers:
        layer.atoms.mixing = None
        layer.atoms.refresh()


def _as_tuple(inputs: Tensor | Sequence[Tensor]) -> tuple[Tensor, ...]:
    inputs = (inputs,) if isinstance(inputs, Tensor) else tuple(inputs)
    if not inputs or not all(isinstance(x, Tensor) for x in inputs):
        kinds = [type(x).__name__ for x in inputs]
        raise ValueError(f"inputs are {kinds}: give a tensor, or one for each argument")
    return inputs


def _write_program(program: ExportedProgram, path: Path) -> None:
    """Write a .pt2 file, compressed where that pays: the graph's JSON, and indices."""
    with TemporaryFile(dir=path.parent) as draft:
        torch.export.save(program, draft)  # pyright: ignore[reportArgumentType]
        with ZipFile(draft) as plain, ZipFile(path, "w") as archive:
            for name in plain.namelist():
                entry = ZipInfo(name)  # without the time
                entry.file_size = plain.getinfo(name).file_size
                with plain.open(name) as source:
                    start = source.read(_SAMPLE)
                    shrinks = 2 * len(zlib.compress(start)) < len(start)  # as weights never do
                    entry.compress_type = ZIP_DEFLATED if shrinks else ZIP_STORED
                    with archive.open(entry, "w") as target:
                        target.write(start)
                        shutil.copyfileobj(source, target)


def _onnx_bytes(program: ExportedProgram) -> bytes:
    """The program as ONNX, with only such constants multiplied out as do not make it larger."""
    import numpy as np
    import onnx_ir as ir
    from onnx_ir.passes import common
    from onnxscript.optimizer import optimize_ir

    with torch.no_grad(), quiet():
        exported = torch.onnx.export(program, dynamo=True, optimize=False, verbose=False)
    assert exported is not None
    model: Any = exported.model
    # The exporter's own optimisation would fold any constant of up to 262,144 numbers.
    optimize_ir(model, output_size_limit=_GROWTH, input_size_limit=2**62)
    for value in model.graph.initializers.values():  # rows in C's order
        array = np.ascontiguousarray(value.const_value.numpy()).reshape(value.const_value.shape)
        value.const_value = ir.tensor(array, name=value.name)
    common.DeduplicateHashedInitializersPass()(model)
    common.ClearMetadataAndDocStringPass()(model)
    model.metadata_props["weightcast"] = version("weightcast")
    n_bytes = sum(value.const_value.nbytes for value in model.graph.initializers.values())
    if n_bytes >= 2**31:
        raise ValueError(
            f"the constants take {n_bytes:,} bytes, and an ONNX file holds at most 2 GiB: take "
            "format='torch'"
        )
    return ir.to_proto(model).SerializeToString()


def _try(data: bytes, inputs: Sequence[Tensor]) -> None:
    """Run an ONNX file on its examples before it is called written, where there is a runtime."""
    try:
        import onnxruntime
        from onnxruntime.capi.onnxruntime_pybind11_state import NotImplemented as Lacking
    except ModuleNotFoundError:
        return
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # what it says of its errors is in them
    try:
        session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        names = [given.name for given in session.get_inputs()]
        if any(x.dtype == torch.bfloat16 for x in inputs) or len(names) != len(inputs):
            return  # which NumPy does not know
        arrays = [x.detach().cpu().numpy() for x in inputs]
        session.run(None, dict(zip(names, arrays, strict=True)))
    except Lacking as error:
        warnings.warn(f"the ONNX file was not tried: {error}", stacklevel=3)
    except Exception as error:  # the runtime's classes share no other
        raise ValueError(
            f"the exporter made an ONNX file that onnxruntime cannot run ({error}): take "
            "format='torch', or another form"
        ) from error
