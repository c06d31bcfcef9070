import torch
from transformers import LlamaConfig, LlamaForCausalLM

from weightcast_lab.studies import compress_speed


def _tiny() -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, vocab_size=20_001,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval()


def test_each_network_is_timed_as_it_is_and_merged(monkeypatch):
    monkeypatch.setattr(compress_speed, "smollm2", lambda: (_tiny(), None))
    rows = compress_speed.rows_of(1, 8, 2)
    names = [row["variant"] for row in rows]
    assert names[0] == "dense"
    assert len(names) == 7
    assert [name for name in names if name.endswith("merged")] == names[2::2]
    for row in rows:
        assert row["metrics"]["write_tokens_per_second"] > 0
        assert row["counts"]["stored"] <= row["counts"]["dense"]
    assert rows[0]["metrics"]["read_time_over_dense"] == 1


def test_the_same_tokens_are_written_each_time():
    model, prompt = _tiny(), torch.arange(8).view(1, 8)
    seen: list[torch.Tensor] = []
    model.register_forward_hook(lambda _, __, output: seen.append(output.logits[:, -1]))
    write = compress_speed.writer(model, prompt, 3)
    for _ in range(2):
        write()
    first, again = seen[1:4], seen[4:7]
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    whole = model(torch.cat([prompt, seen[0].argmax(-1, keepdim=True)], 1)).logits[:, -1]
    assert torch.allclose(first[0], whole, atol=1e-5)
