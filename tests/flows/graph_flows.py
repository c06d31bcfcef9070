"""Networks as graphs: torch.export, torch.fx and ONNX by torch's own calls."""

from __future__ import annotations

from pathlib import Path

import onnxruntime
import torch
from torch.export import Dim

import weightcast as wc
from tests.flows.examples import classifier, digits
from tests.flows.flow import flow

PLAN = {"*": wc.Rule(wc.dictionaries.DCT(), 0.25, columns=2)}
BATCHES = (1, 2, 7, 200)


@flow("torch.export.export with a dynamic batch, named and Dim.AUTO", "torch")
def exported(folder: Path) -> None:
    images, _ = digits()
    model = wc.convert(classifier(), PLAN).eval()
    for batch in (Dim("batch"), Dim.AUTO):
        program = torch.export.export(model, (images[:4],), dynamic_shapes=({0: batch},))
        torch.export.save(program, folder / "model.pt2")
        again = torch.export.load(folder / "model.pt2").module()
        for n in BATCHES:
            torch.testing.assert_close(again(images[:n]), model(images[:n]))


@flow("torch.fx.symbolic_trace", "torch")
def traced(folder: Path) -> None:
    images, _ = digits()
    model = wc.convert(classifier(), PLAN).eval()
    graph = torch.fx.symbolic_trace(model)
    for n in BATCHES:
        torch.testing.assert_close(graph(images[:n]), model(images[:n]))


@flow("torch.onnx.export with a dynamic batch, run by onnxruntime", "onnx", "onnxruntime", "torch")
def onnx_file(folder: Path) -> None:
    images, _ = digits()
    model = wc.convert(classifier(), PLAN).eval()
    torch.onnx.export(
        model, (images[:4],), folder / "model.onnx", dynamo=True,
        dynamic_shapes=({0: Dim.DYNAMIC},), verbose=False,
    )  # fmt: skip
    session = onnxruntime.InferenceSession(folder / "model.onnx")
    [name] = [node.name for node in session.get_inputs()]
    for n in BATCHES:
        [found] = session.run(None, {name: images[:n].numpy()})
        torch.testing.assert_close(torch.from_numpy(found), model(images[:n]), rtol=1e-4, atol=1e-5)
