"""weightcast: learn a few of a network's weights, predict the rest.

Every weight matrix becomes W = U V: the dictionary U is fixed before training, only V is learned
(Denil, Shakibi, Dinh, Ranzato and de Freitas, *Predicting Parameters in Deep Learning*, NIPS 2013).

The walk, from a model to a model::

    import weightcast as wc

    plan = wc.Plan({
        "0": wc.Rule(wc.dictionaries.Kernel(wc.kernels.SquaredExponential(length_scale=2.0)),
                     fraction=0.05, columns=10, grid=(28, 28)),
        "*": None,                                # everything else stays dense
    })
    model = wc.convert(model, plan, seed=0)       # only V, biases and dense layers are parameters
    wc.pretrain(model, inputs=batches)            # optional
    ...                                           # train with any loop
    print(wc.ledger(model))                       # learned, static, stored, computed, per layer
    wc.save(model, "folder")                      # V and indices; bases are rebuilt
    model = wc.load("folder", dense_model)
    dense = wc.merge(model)                       # the original classes and state-dict keys
    wc.export(model, "model.onnx", inputs)        # or a torch.export program; factored or merged

The other two walks: ``wc.compress(trained, plan, inputs=batches)`` fits V to a trained network, and
``wc.adapt(trained, plan, inputs=batches)`` adds U V to a frozen one; ``wc.suggest`` proposes a plan
to start from.

Read the code in this order: ``grid``, ``kernels``, ``dictionaries``, ``weight``, ``layers``,
``inputs``, ``plan``, ``transform``, ``measure``, ``storage``.
"""

import sys
from importlib.metadata import version

from weightcast import dictionaries, kernels
from weightcast.grid import Grid
from weightcast.layers import (
    AdaptedLayer,
    PredictedBilinear,
    PredictedConv1d,
    PredictedConv2d,
    PredictedConv3d,
    PredictedConvTranspose1d,
    PredictedConvTranspose2d,
    PredictedConvTranspose3d,
    PredictedEmbedding,
    PredictedEmbeddingBag,
    PredictedExperts,
    PredictedLayer,
    PredictedLinear,
    PredictedModule,
    PredictedMultiheadAttention,
    PredictedParameter,
    PredictedRecurrent,
    PredictedTransposedLinear,
)
from weightcast.measure import (
    CompressionReport,
    CompressionRow,
    Ledger,
    LedgerRow,
    Probe,
    ProbeRow,
    Verified,
    compression_report,
    ledger,
    probe,
    verify,
)
from weightcast.optim import parameter_groups
from weightcast.plan import Explanation, Plan, PlanRow, Rule, suggest
from weightcast.plan.trained import PretrainedWarning
from weightcast.storage import FormatError, load, save
from weightcast.storage.average import average
from weightcast.storage.export import export
from weightcast.storage.peft_folder import export_peft, import_peft
from weightcast.testing.register import register_layer
from weightcast.transform.adapt import adapt, unadapt
from weightcast.transform.broadcast import broadcast_constants
from weightcast.transform.compress import compress
from weightcast.transform.convert import convert, merge
from weightcast.transform.distil import Distilled, distil
from weightcast.transform.pretrain import PretrainedLayer, pretrain
from weightcast.transform.shrink import ShrinkTrial, shrink
from weightcast.weight import PredictedWeight

__version__ = version("weightcast")

__all__ = [
    "AdaptedLayer",
    "CompressionReport",
    "Explanation",
    "FormatError",
    "Grid",
    "Ledger",
    "Plan",
    "PredictedBilinear",
    "PredictedConv1d",
    "PredictedConv2d",
    "PredictedConv3d",
    "PredictedConvTranspose1d",
    "PredictedConvTranspose2d",
    "PredictedConvTranspose3d",
    "PredictedEmbedding",
    "PredictedEmbeddingBag",
    "PredictedLayer",
    "PredictedLinear",
    "PredictedMultiheadAttention",
    "PredictedRecurrent",
    "PredictedWeight",
    "PretrainedWarning",
    "Probe",
    "Rule",
    "adapt",
    "average",
    "broadcast_constants",
    "compress",
    "compression_report",
    "convert",
    "dictionaries",
    "distil",
    "export",
    "export_peft",
    "import_peft",
    "kernels",
    "ledger",
    "load",
    "merge",
    "parameter_groups",
    "pretrain",
    "probe",
    "register_layer",
    "save",
    "shrink",
    "suggest",
    "unadapt",
    "verify",
]


def __dir__() -> list[str]:
    return [*__all__, "__version__"]


_MOVED = {  # what followed "weightcast." in a name, and what now follows "weightcast"
    "benchmark": "_lab.bench",
    "experiments": "_lab.sweeps, or weightcast_lab.studies",
    "hub": ".integrations.hub",
    "report": "_lab.report",
    "training": "_lab.training, or weightcast.integrations.lightning",
}


class _Moved:
    """A finder of modules that says where one of the last release is now."""

    @staticmethod
    def find_spec(name: str, *_: object) -> None:
        """Nothing, for a module that has not moved.

        Raises:
            ModuleNotFoundError: one that has, with its new name.
        """
        parent, _dot, last = name.rpartition(".")
        if parent == "weightcast" and last in _MOVED:
            raise ModuleNotFoundError(
                f"{name} has moved: import weightcast{_MOVED[last]}", name=name
            )


sys.meta_path.append(_Moved)
