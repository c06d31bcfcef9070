"""PEFT's LoRA on top of predicted layers.

Needs ``peft``, which asks every configuration which layers it may adapt beside its own::

    from peft import LoraConfig, PeftModel, get_peft_model
    from weightcast.integrations.peft import register

    model = get_peft_model(predicted, register(LoraConfig(target_modules=["q_proj", "v_proj"])))
    ...                                        # train: V is frozen, A and B learn
    model.save_pretrained("adapter")
    model = PeftModel.from_pretrained(
        predicted, "adapter", config=register(LoraConfig.from_pretrained("adapter"))
    )
    dense = model.merge_and_unload()           # adapted layers become dense, W + B A

Linear layers, transformers' ``Conv1D`` and embeddings are adapted; DoRA, rsLoRA and the other
variants of LoRA that leave W alone work as on dense layers. A predicted layer holds V only, and no
V gives W + B A in general: ``merge_adapter`` is refused, and so are initialisations that change W.
"""

from __future__ import annotations

import copy
from typing import Any

from peft import LoraConfig
from peft.tuners import lora
from peft.tuners.tuners_utils import check_adapters_to_merge
from torch import Tensor, nn

from weightcast.layers import (
    PredictedEmbedding,
    PredictedLayer,
    PredictedLinear,
    PredictedTransposedLinear,
)
from weightcast.transform.convert import merge as make_dense

KEEP_WEIGHTS = (True, False, "gaussian", "orthogonal", "eva", "mica")
"""Values of ``init_lora_weights`` that leave the weight of the adapted layer as it is."""


def register(config: LoraConfig) -> LoraConfig:
    """Let a configuration of LoRA adapt predicted layers; it is returned, for use in place.

    Files do not hold this: register the configuration that a folder gives as well.
    """
    config._register_custom_module(
        {
            PredictedLinear: LoraOnLinear,
            PredictedTransposedLinear: LoraOnLinear,
            PredictedEmbedding: LoraOnEmbedding,
        }
    )
    return config


class _OnPredicted(lora.LoraLayer):
    """What LoRA does otherwise on a layer whose weight is computed; once it is dense, nothing."""

    def update_layer(
        self, adapter_name: str, *args: Any, config: LoraConfig, **options: Any
    ) -> None:
        """Add an adapter; ``ValueError`` for one that would start by changing the weight."""
        changed = "kasa_config" if getattr(config, "kasa_config", None) else "init_lora_weights"
        start = getattr(config, changed)
        if self._is_predicted and not any(start is kept or start == kept for kept in KEEP_WEIGHTS):
            raise ValueError(
                f"{changed}={start!r} changes the weight of the layer, which is predicted: take "
                "init_lora_weights=True, or call weightcast.merge on the model first"
            )
        super().update_layer(adapter_name, *args, config=config, **options)

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Add adapters to the weight of a dense layer; ``ValueError`` for a predicted one."""
        merged = check_adapters_to_merge(self, adapter_names)
        if merged and self._is_predicted:
            raise ValueError(
                f"adapter {', '.join(map(repr, merged))} cannot be merged into a predicted layer: "
                "no V gives W + B A. Call merge_and_unload(), which makes the adapted layers "
                "dense, or weightcast.merge on the model before this"
            )
        super().merge(safe_merge=safe_merge, adapter_names=merged)

    def unload_and_optionally_merge_module(
        self, merge: bool, safe_merge: bool, adapter_names: list[str] | None
    ) -> nn.Module:
        """The layer without adapters: the predicted one, or a dense one of weight W + B A."""
        if merge and check_adapters_to_merge(self, adapter_names):
            make_dense(self, inplace=True)  # pyright: ignore[reportArgumentType]: a module by its mate
            self.merge(safe_merge=safe_merge, adapter_names=adapter_names)
        return self.get_base_layer()

    @property
    def _is_predicted(self) -> bool:
        return isinstance(self.get_base_layer(), PredictedLayer)

    def _get_in_out_features(self, module: nn.Module) -> tuple[int, int] | tuple[None, None]:
        if isinstance(module, PredictedEmbedding):
            return module.num_embeddings, module.embedding_dim
        if isinstance(module, PredictedLayer):
            return module.n_visible, module.n_units
        return super()._get_in_out_features(module)


class LoraOnLinear(_OnPredicted, lora.Linear):
    """LoRA on a predicted linear layer, or on one in place of transformers' ``Conv1D``."""

    def __init__(
        self, base_layer: nn.Module, *args: Any, config: LoraConfig, **options: Any
    ) -> None:
        transposed = isinstance(base_layer, PredictedTransposedLinear)
        config = copy.copy(config)
        config.fan_in_fan_out = transposed
        super().__init__(
            base_layer, *args, config=config, is_target_conv_1d_layer=transposed, **options
        )


class LoraOnEmbedding(_OnPredicted, lora.Embedding):
    """LoRA on a predicted embedding."""

    def _embed(
        self, input: Tensor, weight: Tensor, input_fn: Any = None, output_fn: Any = None
    ) -> Tensor:
        """Rows of A, as torch looks them up; tables of torch's that do more are not predicted."""
        table: Any = self.get_base_layer()
        if input_fn is not None or output_fn is not None or not self._is_predicted:
            return super()._embed(input, weight, input_fn, output_fn)
        return nn.functional.embedding(
            input, weight, table.padding_idx, scale_grad_by_freq=table.scale_grad_by_freq
        )
