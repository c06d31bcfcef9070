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

Read the code in this order: ``grid``, ``kernels``, ``dictionaries``, ``predicted``, ``rule``,
``layers``, ``statistics``, ``plan``, ``convert``.
"""

from weightcast import dictionaries, kernels
from weightcast.checkpoint import FormatError, load, save
from weightcast.compress import (
    CompressionReport,
    CompressionRow,
    compress,
    compression_report,
)
from weightcast.convert import convert, merge
from weightcast.distributed import broadcast_constants
from weightcast.grid import Grid
from weightcast.layers import (
    PredictedConv1d,
    PredictedConv2d,
    PredictedConv3d,
    PredictedLayer,
    PredictedLinear,
)
from weightcast.ledger import Ledger, LedgerRow, ledger
from weightcast.optimise import parameter_groups
from weightcast.plan import Plan
from weightcast.predicted import PredictedWeight
from weightcast.pretrain import PretrainedLayer, pretrain
from weightcast.probe import Probe, ProbeRow, probe
from weightcast.rule import Rule
from weightcast.suggest import suggest

__all__ = [
    "CompressionReport",
    "CompressionRow",
    "FormatError",
    "Grid",
    "Ledger",
    "LedgerRow",
    "Plan",
    "PredictedConv1d",
    "PredictedConv2d",
    "PredictedConv3d",
    "PredictedLayer",
    "PredictedLinear",
    "PredictedWeight",
    "PretrainedLayer",
    "Probe",
    "ProbeRow",
    "Rule",
    "broadcast_constants",
    "compress",
    "compression_report",
    "convert",
    "dictionaries",
    "kernels",
    "ledger",
    "load",
    "merge",
    "parameter_groups",
    "pretrain",
    "probe",
    "save",
    "suggest",
]
