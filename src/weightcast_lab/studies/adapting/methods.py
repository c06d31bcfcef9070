"""Ways to adapt MiniLM's six blocks with about as many learned weights each: ours and PEFT's.

Every method adapts the same 36 linear layers. ``SIZES`` are LoRA's counts at rank 1/2, 1, 2, 4
(a half: the last three blocks alone); a method is given the setting whose count comes nearest, and
stands in a column only if that is within a tenth. Heads are not counted.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

import weightcast as wc
from weightcast.layers import view
from weightcast.plan.eligibility import convertible_layers

SIZES = (20_736, 41_472, 82_944, 165_888)
LAYERS = (
    r"encoder\.layer\.\d+\.(attention\.self\.(query|key|value)|attention\.output\.dense|"
    r"intermediate\.dense|output\.dense)"
)
LAST_BLOCKS = LAYERS.replace(r"\d+", "[345]")
OURS, OURS_WIDE, RANDOM = "weightcast", "weightcast, 32 columns", "random U, 16 columns"
RELATIVE = "weightcast, relative"
LORA, FULL, HEAD = "LoRA", "full fine-tuning", "head only"

Groups = list[dict[str, Any]]


@dataclass(frozen=True)
class Method:
    """One way.

    Args:
        settings: what makes it learn about as many weights, by size; a single None: no size.
        rates: that validation data choose among.
        adapt: the encoder, a setting, example batches and a seed; the encoder that learns.
        renew: called with the encoder, the examples and the optimiser once the rate has risen.
    """

    settings: Mapping[int | None, Any]
    rates: tuple[float, ...]
    adapt: Callable[[nn.Module, Any, list[Any], int], nn.Module]
    optimiser: Callable[[nn.Module, Groups, Any], torch.optim.Optimizer] = field(
        default=lambda model, groups, setting: torch.optim.AdamW(groups, weight_decay=0.0)
    )
    renew: Callable[[nn.Module, list[Any], torch.optim.Optimizer], None] = lambda *_: None


def rules(
    model: nn.Module, layers: str, dictionary: Any, n_atoms: int, columns: int, **more: Any
) -> dict[str, wc.Rule]:
    """Rules of the layers whose names fit; fewer columns where inputs or units are few."""
    found = {}
    for name, layer in convertible_layers(model).items():
        if re.fullmatch(layers, name):
            n_visible, n_units = view(layer).sizes
            groups = min(columns, n_units, n_visible // n_atoms)
            found[name] = wc.Rule(dictionary, n_atoms=n_atoms, columns=groups, **more)
    return found


def ours(
    dictionary: Any, columns: int, layers: str = LAYERS, **more: Any
) -> Callable[..., nn.Module]:
    """U V, by rules with what is ``more`` in them; the setting is n_atoms."""

    def adapt(model: nn.Module, n_atoms: int, inputs: list[Any], seed: int) -> nn.Module:
        plan = rules(model, layers, dictionary, n_atoms, columns, **more)
        return wc.adapt(model, plan, inputs=inputs, seed=seed)

    return adapt


def pefts(config: str, **options: Any) -> Callable[..., nn.Module]:
    """A method of PEFT's on MiniLM's layers, unless told otherwise; the setting is more options."""

    def adapt(model: nn.Module, setting: dict[str, Any], _: Any, seed: int) -> nn.Module:
        import peft

        torch.manual_seed(seed)  # PEFT draws from torch's own generator
        chosen = {"target_modules": LAYERS, **options, **setting}
        return peft.get_peft_model(model, getattr(peft, config)(**chosen))  # pyright: ignore

    return adapt


def _eva(model: nn.Module, setting: dict[str, Any], inputs: list[Any], seed: int) -> nn.Module:
    """LoRA whose A starts at the inputs' leading directions, found on the same examples as ours."""
    import peft

    torch.manual_seed(seed)
    config = peft.LoraConfig(
        target_modules=LAYERS, init_lora_weights="eva", eva_config=peft.EvaConfig(), **setting
    )
    adapted = peft.get_peft_model(model, config, low_cpu_mem_usage=True)
    batches = [{"input_ids": tokens} for tokens, _ in inputs]
    peft.initialize_lora_eva_weights(adapted, batches, show_progress_bar=False)
    return adapted


def lora_fa(model: nn.Module, groups: Groups, setting: dict[str, Any]) -> torch.optim.Optimizer:
    """A stays as it was drawn, and B's gradient is corrected for it; a head learns as ever."""
    from peft.optimizers import create_lorafa_optimizer

    adapter, *heads = groups
    adapted: Any = model.encoder
    made = create_lorafa_optimizer(
        adapted, r=setting["r"], lora_alpha=setting.get("lora_alpha", 8), lr=adapter["lr"]
    )
    for head in heads:
        names = [f"head.{place}" for place, _ in enumerate(head["params"])]
        made.add_param_group(head | {"names": names, "scaling_factors": [1.0] * len(names)})
    return made


def full(model: nn.Module, *_: Any) -> nn.Module:
    """All weights learn."""
    return model.requires_grad_(True)


def head(model: nn.Module, *_: Any) -> nn.Module:
    """No weight of the network does."""
    return model.requires_grad_(False)


def _ranks(**more: Any) -> dict[int | None, Any]:
    """LoRA's: r of both factors."""
    ranks: dict[int | None, Any] = {n: {"r": r, **more} for n, r in zip(SIZES[1:], (1, 2, 4))}  # noqa: B905
    return {SIZES[0]: {"r": 1, "target_modules": LAST_BLOCKS, **more}, **ranks}


def _each(key: str, *values: Any) -> dict[int | None, Any]:
    """A setting for each size; None where there is none near enough."""
    pairs = zip(SIZES, values, strict=True)
    return {size: {key: value} for size, value in pairs if value is not None}


_ATOMS: dict[int | None, Any] = dict(zip(SIZES, (1, 2, 4, 8), strict=True))
WHITENED = wc.dictionaries.PCA(whiten=True)
RATES, _LARGE = (0.00125, 0.0025, 0.005, 0.01, 0.02), (0.02, 0.05, 0.1, 0.2)

METHODS: dict[str, Method] = {
    OURS: Method(_ATOMS, RATES, ours(WHITENED, 16)),
    OURS_WIDE: Method(_ATOMS, RATES, ours(WHITENED, 32)),
    RELATIVE: Method(_ATOMS, RATES, ours(wc.dictionaries.DCT(), 1, relative=True)),
    RANDOM: Method(_ATOMS, RATES, ours(wc.dictionaries.RandomGaussian(), 16)),
    LORA: Method(_ranks(), RATES, pefts("LoraConfig")),
    "rsLoRA": Method(_ranks(), RATES, pefts("LoraConfig", use_rslora=True)),
    "LoRA-FA": Method(_each("r", 1, 2, 4, 8), RATES, pefts("LoraConfig"), lora_fa),
    "LoRA, EVA": Method(_each("r", None, 1, 2, 4), RATES, _eva),
    "LoRA, PiSSA": Method(_ranks(), (0.0005, 0.001, 0.0025, 0.005), pefts(
        "LoraConfig", init_lora_weights="pissa")),
    "VeRA": Method(_each("r", 16, 576, 1728, 4032), (0.005, 0.01, 0.02, 0.05), pefts("VeraConfig")),
    "RandLoRA": Method(_each("r", None, 192, None, 32), RATES, pefts("RandLoraConfig")),
    "FourierFT": Method(
        _each("n_frequency", 576, 1152, 2304, 4608), _LARGE, pefts("FourierFTConfig")
    ),
    "WaveFT": Method(_each("n_frequency", 576, 1152, 2304, 4608), _LARGE, pefts("WaveFTConfig")),
    "MiSS": Method(_each("r", 1, 2, 4, 8), RATES, pefts("MissConfig")),
    "C3A": Method(_each("block_size", None, None, 128, 64), _LARGE, pefts("C3AConfig")),
    "PSOFT": Method(_each("r", 32, 46, 66, 94), RATES, pefts("PsoftConfig")),
    "HiRA": Method(_ranks(), _LARGE, pefts("HiraConfig")),
    "Lily": Method(_each("r", None, None, 3, 6), RATES, pefts("LilyConfig")),
    FULL: Method({None: None}, (0.0001, 0.0002, 0.0005, 0.001), full),
    HEAD: Method({None: None}, (), head),
}  # fmt: skip
"""By the name in tables. IA3 (27,648, no other count) and FRoD (206,508 at least) fit no size."""
