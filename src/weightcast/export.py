"""export: a model for other runtimes, as an ONNX file or a ``torch.export`` program."""

from __future__ import annotations

import copy
import logging
import os
import shutil
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, Literal
from zipfile import ZIP_DEFLATED, ZIP_STORED, ZipFile, ZipInfo

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from weightcast.convert import merge
from weightcast.predicted import PredictedWeight
from weightcast.whole import whole

Format = Literal["onnx", "torch"]
Form = Literal["factored", "merged"]

_GROWTH = 64
"""Numbers by which folding one constant expression of an ONNX graph may make the file larger."""


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

    ``factored`` keeps the file small: it holds V, biases and dense weights, and of every dictionary
    the base, indices and mixing. All predicted layers then take the factored path, whatever the
    batch (a layer's own choice depends on it), and M_j V_j is multiplied out rather than M_j
    applied to the rows. ``merged`` is the dense network.

    Args:
        model: with predicted layers, or none; it is left as it is, and exported in evaluation mode.
        path: of the file; one that is there is replaced.
        inputs: an example of what the model is called with: a tensor, or one for each argument. Its
            numbers do not matter.
        format: ``onnx`` (extra ``onnx``), or ``torch``: a .pt2 file for ``torch.export.load``.
        form: ``factored`` or ``merged``.
        dynamic_batch: let the first axis have any length; else the file is for that of ``inputs``.

    Returns:
        The path.

    Raises:
        ValueError: an unknown format or form, a model that cannot be traced, or an ONNX file above
            the 2 GiB that its format can hold.
        ModuleNotFoundError: ONNX without the extra ``onnx``.
    """
    if format not in ("onnx", "torch"):
        raise ValueError(f"format is {format!r}: take 'onnx' or 'torch'")
    path = Path(path)
    if format == "torch" and path.suffix != ".pt2":
        raise ValueError(f"{path} must end in .pt2, by which torch.export.load knows such a file")
    program = _trace(_prepare(model, form), _as_tuple(inputs), dynamic_batch)
    data = _onnx_bytes(program) if format == "onnx" else None
    with whole(path) as partial:
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
    model = copy.deepcopy(model).eval()
    for module in model.modules():
        if isinstance(module, PredictedWeight):
            module.fix_path("factored")
    return model


def _as_tuple(inputs: Tensor | Sequence[Tensor]) -> tuple[Tensor, ...]:
    inputs = (inputs,) if isinstance(inputs, Tensor) else tuple(inputs)
    if not inputs or not all(isinstance(x, Tensor) for x in inputs):
        kinds = [type(x).__name__ for x in inputs]
        raise ValueError(f"inputs are {kinds}: give a tensor, or one for each argument")
    return inputs


def _trace(model: nn.Module, inputs: tuple[Tensor, ...], dynamic_batch: bool) -> ExportedProgram:
    """The model as a graph without weightcast's code, and without traces of this machine.

    Raises:
        ValueError: torch.export does not understand the model.
    """
    shapes = None
    if dynamic_batch:
        batch = [x.dim() > 0 and x.shape[0] == inputs[0].shape[0] for x in inputs]
        # An axis of length 1 would be taken for one that is to be broadcast.
        inputs = tuple(
            x.repeat(2, *[1] * (x.dim() - 1)) if free and len(x) < 2 else x
            for x, free in zip(inputs, batch, strict=True)
        )
        shapes = tuple({0: Dim.DYNAMIC} if free else None for free in batch)
    try:
        with torch.no_grad(), _quiet():
            program = torch.export.export(model, inputs, dynamic_shapes=shapes, strict=False)
    except Exception as error:
        reason = str(error).strip().split("\n", 1)[0]
        raise ValueError(
            f"torch.export cannot trace this model{' with a free batch' * dynamic_batch}: {reason}"
        ) from error
    program.example_inputs = None  # would be part of the file
    for node in program.graph.nodes:  # as would be where in the source each node comes from
        for key in ("stack_trace", "nn_module_stack", "source_fn_stack", "torch_fn", "from_node"):
            node.meta.pop(key, None)
    return program


def _write_program(program: ExportedProgram, path: Path) -> None:
    """A .pt2 file whose graph, some hundred bytes of JSON a node, is compressed."""
    with TemporaryFile(dir=path.parent) as draft:
        torch.export.save(program, draft)  # pyright: ignore[reportArgumentType]
        with ZipFile(draft) as plain, ZipFile(path, "w") as archive:
            for name in plain.namelist():
                entry = ZipInfo(name)  # without the time
                entry.compress_type = ZIP_DEFLATED if name.endswith(".json") else ZIP_STORED
                entry.file_size = plain.getinfo(name).file_size
                with plain.open(name) as source, archive.open(entry, "w") as target:
                    shutil.copyfileobj(source, target)


def _onnx_bytes(program: ExportedProgram) -> bytes:
    """The program as ONNX, with only such constants multiplied out as do not make it larger."""
    import onnx_ir as ir
    from onnx_ir.passes import common
    from onnxscript.optimizer import optimize_ir

    with torch.no_grad(), _quiet():
        exported = torch.onnx.export(program, dynamo=True, optimize=False, verbose=False)
    assert exported is not None
    model = exported.model
    # The exporter's own optimisation would fold any constant of up to 262,144 numbers.
    optimize_ir(model, output_size_limit=_GROWTH, input_size_limit=2**62)
    _tidy_constants(model)
    common.DeduplicateHashedInitializersPass()(model)
    common.ClearMetadataAndDocStringPass()(model)
    model.metadata_props["weightcast"] = version("weightcast")
    constants: Any = [value.const_value for value in model.graph.initializers.values()]
    n_bytes = sum(constant.nbytes for constant in constants)
    if n_bytes >= 2**31:
        raise ValueError(
            f"the constants take {n_bytes:,} bytes, and an ONNX file holds at most 2 GiB: take "
            "format='torch'"
        )
    return ir.to_proto(model).SerializeToString()


def _tidy_constants(model: Any) -> None:
    """Rows in C's order, and indices that only say what to gather as int32: half the bytes."""
    import numpy as np
    import onnx_ir as ir

    for value in model.graph.initializers.values():
        uses = list(value.uses())
        gathers = all(node.op_type == "Gather" and position == 1 for node, position in uses)
        array = np.ascontiguousarray(value.const_value.numpy())
        if value.dtype == ir.DataType.INT64 and uses and gathers and not value.is_graph_output():
            array = array.astype(np.int32)
            value.dtype = ir.DataType.INT32
        value.const_value = ir.tensor(array.reshape(value.const_value.shape), name=value.name)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporters' remarks on packages that they could use and their own deprecations."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            warnings.simplefilter("ignore", DeprecationWarning)
            # Recurrent layers keep a list of their weights, which is put back after tracing.
            warnings.filterwarnings("ignore", r"The tensor attributes? .*_flat_weights")
            yield
    finally:
        logger.setLevel(level)
