"""Every base model that the installed transformers knows, tiny and without memory for its weights.

What can be built converts. What cannot be built is in the tables below.
"""

from __future__ import annotations

import pytest
import torch

import weightcast as wc
from weightcast.layers import predicted_layers

pytest.importorskip("transformers")

from transformers.models.auto.modeling_auto import MODEL_MAPPING_NAMES

from tests.zoo.tiny import build, plan_of

RULE = wc.Rule(wc.dictionaries.RandomConnections("grouped"), 0.25)

INCOMPLETE = {
    "autoformer", "chameleon", "cohere_compass", "cohere_compass_text", "dbrx", "deepseek_ocr2",
    "diffusion_gemma", "dots1", "emu3", "granite4_vision", "hunyuan_v1_dense", "hunyuan_v1_moe",
    "hunyuan_vl", "hunyuan_vl_text", "informer", "lfm2_moe", "ministral", "moonshine_streaming",
    "musicgen", "musicgen_melody", "nemotron", "pp_ocrv6_medium_det", "t5gemma2_encoder",
    "time_series_transformer", "voxtral_realtime_text",
}  # fmt: skip
"""Types that cannot be built from their config's own defaults: a value is missing."""

TOGETHER = {
    "bit", "bridgetower", "cosmos3_edge", "cosmos3_edge_text", "csm", "cvt", "d_fine", "donut-swin",
    "dots3_note", "dots3_note_text", "efficientloftr", "embedding_gemma2", "embedding_gemma2_text",
    "ernie4_5_vl_moe", "esmc", "fun_asr_nano", "gemma3n", "gemma3n_text", "gemma4", "gemma4_text",
    "gemma4_unified", "gemma4_unified_text", "glm5_next", "glm5_next_text", "gradium_phonon_tts",
    "lw_detr", "maskformer", "maskformer-swin", "mimi", "mimi_decoder", "molmo2", "muse_spark",
    "muse_spark_audio", "neomme", "pocket_tts", "pocket_tts_audio_tokenizer",
    "pocket_tts_audio_tokenizer_decoder", "reformer", "zamba", "zamba2",
}  # fmt: skip
"""Types whose sizes hang together in ways that the generic shrinking does not know."""


@pytest.mark.slow
@pytest.mark.timeout(1500)
@pytest.mark.filterwarnings("default")  # theirs are not ours
def test_every_type_converts_or_is_in_a_table():
    converted, not_built = set(), {}
    for name in MODEL_MAPPING_NAMES:
        try:
            model = build(name, device="meta")
        except ImportError:
            continue  # timm, natten, detectron2 and others, which need not be here
        except Exception as error:
            not_built[name] = f"{type(error).__name__}: {error}"
            continue
        _assert_converts(name, model)
        converted.add(name)
    assert {n: e for n, e in not_built.items() if n not in INCOMPLETE | TOGETHER} == {}
    assert len(converted) >= 400
    print(len(converted), "of", len(MODEL_MAPPING_NAMES))  # as docs/testing.md says


def _assert_converts(name: str, model: torch.nn.Module) -> None:
    plan = plan_of(model, RULE)
    layers = predicted_layers(wc.convert(model, plan))
    explained = plan.explain(model)
    assert layers, name
    assert {row.layer for row in explained.predicted} == set(layers), name
    assert all(row.reason for row in explained.dense), name
    assert {layer.V.device.type for layer in layers.values()} == {"meta"}, name
