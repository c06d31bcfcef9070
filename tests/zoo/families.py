"""The zoo: types of transformers by family, each made tiny and random, without a download."""

FAMILIES: dict[str, tuple[str, ...]] = {
    "encoder": (
        "bert", "albert", "roberta", "distilbert", "electra", "deberta", "deberta-v2", "mpnet",
        "fnet", "funnel", "squeezebert", "mobilebert", "convbert", "nystromformer", "yoso",
        "rembert", "roformer", "modernbert", "nomic_bert", "longformer", "big_bird", "canine",
    ),
    "decoder": (
        "gpt2", "gpt_neo", "gpt_neox", "gptj", "opt", "bloom", "llama", "mistral", "qwen2",
        "qwen3", "gemma2", "phi", "phi3", "falcon", "mpt", "stablelm", "olmo2", "cohere", "codegen",
        "biogpt", "openai-gpt", "xlnet", "gpt_bigcode", "persimmon",
    ),
    "encoder-decoder": (
        "t5", "mt5", "umt5", "bart", "mbart", "pegasus", "marian", "blenderbot", "m2m_100", "led",
        "longt5", "prophetnet", "fsmt",
    ),
    "vision": (
        "vit", "deit", "beit", "dinov2", "dinov3_vit", "ijepa", "swin", "swinv2", "poolformer",
        "segformer", "convnext", "resnet", "data2vec-vision", "clip_vision_model",
        "siglip_vision_model",
    ),
    "audio": (
        "wav2vec2", "hubert", "wavlm", "sew", "unispeech", "data2vec-audio", "wav2vec2-conformer",
        "whisper",
    ),
    "state-space": ("mamba", "falcon_mamba", "mamba2", "bamba", "jamba", "falcon_h1"),
    "mixture-of-experts": (
        "mixtral", "qwen2_moe", "qwen3_moe", "olmoe", "phimoe", "granitemoe", "gpt_oss", "jetmoe",
        "switch_transformers",
    ),
}  # fmt: skip
