"""A network with PEFT's adapters: the bases are its layers, and the adapters stay."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import weightcast as wc
from weightcast.plan.adapters import adapter_refusal, adapters, adapters_of, is_adapter, is_own_part
from weightcast.plan.eligibility import convertible_layers

peft = pytest.importorskip("peft")

HALF, WHOLE = (wc.Rule(wc.dictionaries.DCT(), fraction) for fraction in (0.5, 1.0))
X = torch.randn(40, 64, generator=torch.Generator().manual_seed(0))
CONFIGS = {
    "LoRA": lambda: peft.LoraConfig(r=4, target_modules=["0", "2"]),
    "DoRA": lambda: peft.LoraConfig(r=4, target_modules=["0", "2"], use_dora=True),
    "IA3": lambda: peft.IA3Config(target_modules=["0", "2"], feedforward_modules=["2"]),
    "VeRA": lambda: peft.VeraConfig(r=4, target_modules=["0", "2"]),
    "OFT": lambda: peft.OFTConfig(oft_block_size=8, target_modules=["0", "2"]),
    "HRA": lambda: peft.HRAConfig(r=4, target_modules=["0", "2"]),
}
BASES = ["base_model.model.0.base_layer", "base_model.model.2.base_layer"]


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.Linear(64, 4))


def adapted(kind: str = "LoRA"):
    """With adapters that are not at their start, where most do nothing."""
    model = peft.get_peft_model(network(), CONFIGS[kind]()).eval()
    with torch.no_grad():
        for p in model.parameters():
            if p.requires_grad:
                p.add_(0.05 * torch.randn_like(p))
    return model


@pytest.mark.parametrize("kind", CONFIGS)
def test_the_base_is_predicted_and_the_adapter_stays(kind):
    model = adapted(kind)
    own = {n: p.clone() for n, p in model.named_parameters() if "base_layer" not in n}
    whole = wc.compress(model, {"*": WHOLE}, progress=False)
    assert torch.allclose(whole(X), model(X), atol=1e-4)
    small = wc.compress(model, {"*": HALF}, inputs=X, progress=False)
    found = {n for n, m in small.named_modules() if isinstance(m, wc.PredictedLayer)}
    assert found == set(BASES)
    kept = dict(small.named_parameters())
    assert all(torch.equal(kept[name], p) for name, p in own.items())
    dense = wc.merge(small)
    assert torch.allclose(dense(X), small(X), atol=1e-5)
    assert torch.allclose(dense.merge_and_unload()(X), small(X), atol=1e-4)


@pytest.mark.parametrize("key", ["*", r"re:.*\.[02]", r"re:.*\.base_layer"])
def test_an_expression_meets_the_bases(key):
    assert list(wc.Plan({key: HALF}).resolve(adapted())) == BASES


@pytest.mark.parametrize("key", [BASES[0], BASES[0].removesuffix(".base_layer")])
def test_a_name_is_that_of_the_base_or_of_the_adapter(key):
    plan = wc.Plan({key: HALF})
    assert list(plan.resolve(adapted())) == BASES[:1]
    assert plan.explain(adapted()).predicted[0].kind == "Linear"
    with pytest.raises(ValueError, match="predicted already"):
        plan.resolve(wc.compress(adapted(), plan, progress=False))


def test_what_is_the_adapters_own_is_refused_by_name():
    name = "base_model.model.0.lora_A.default"
    with pytest.raises(ValueError, match=r"names a Linear, .* it belongs to an adapter"):
        wc.Plan({name: HALF}).resolve(adapted())
    reasons = {row.layer: row.reason for row in wc.Plan({"*": HALF}).explain(adapted()).dense}
    assert reasons[name].startswith("belongs to an adapter")
    assert "frozen" in reasons["base_model.model.3"]


def test_convert_refuses_a_frozen_base_and_takes_one_that_learns():
    model = adapted()
    with pytest.raises(ValueError, match=r"2 layer\(s\), the first .* weightcast.compress keeps"):
        wc.convert(model, {"*": HALF})
    for name in BASES:
        model.get_submodule(name).requires_grad_(True)
    converted = wc.convert(model, {"*": HALF})
    wc.verify(converted, X)
    assert all(converted.get_submodule(name).V.requires_grad for name in BASES)


def test_a_merged_adapter_is_refused_until_it_is_taken_out():
    model = adapted()
    model.merge_adapter()
    with pytest.raises(ValueError, match=r"holds the merged adapter 'default'.*unmerge_adapter"):
        wc.compress(model, {BASES[0]: HALF}, progress=False)
    model.unmerge_adapter()
    wc.compress(model, {BASES[0]: HALF}, progress=False)


def test_an_adapter_that_does_more_than_call_its_base_is_refused():
    class Attends(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention = nn.MultiheadAttention(16, 2)

        def forward(self, x):
            return self.attention(x, x, x)[0]

    model = peft.get_peft_model(Attends(), peft.LoraConfig(r=2, target_modules=["attention"]))
    with pytest.raises(
        ValueError, match=r"attention.base_layer': its weight is no plain parameter"
    ):
        wc.compress(model, {"*": HALF}, progress=False)
    config = peft.LoraConfig(r=4, target_modules=[], target_parameters=["0.weight"])
    model = peft.get_peft_model(network(), config)
    with pytest.raises(ValueError, match=r"its adapter \(ParamWrapper\) computes anew"):
        wc.compress(model, {BASES[0]: HALF}, progress=False)


def test_the_other_verbs_see_the_bases(tmp_path):
    model = adapted()
    plan = wc.suggest(model, 0.5, inputs=X, columns=1, progress=False)
    assert [key for key in plan.rules if key != "*"] == BASES
    rows = wc.probe(model, (0.5,), progress=False).rows
    assert {row.layer for row in rows} == {*BASES, "base_model.model.3"}
    small = wc.compress(model, plan, inputs=X, progress=False)
    counted = {row.layer: row for row in wc.ledger(small).rows}
    assert counted[BASES[0]].learned == 0  # V is frozen as W was
    assert counted[BASES[0]].static >= 32 * 64
    assert counted["base_model.model.0.lora_A.default"].learned == 4 * 64
    wc.save(small, tmp_path / "small")
    assert torch.equal(wc.load(tmp_path / "small", adapted())(X), small(X))


def test_names_inside_adapters_are_told_apart():
    model = adapted()
    held = adapters(model)
    assert list(held) == [name.removesuffix(".base_layer") for name in BASES]
    assert is_adapter(held["base_model.model.0"])
    assert not is_adapter(network())
    assert adapters_of(BASES[0], held) == ("base_model.model.0",)
    assert adapters_of("base_model.model.3", held) == ()
    assert is_own_part("base_model.model.0.lora_A.default", held)
    assert not is_own_part(BASES[0], held)
    assert adapter_refusal(BASES[0], held) is None
    assert list(convertible_layers(model)) == [*BASES, "base_model.model.3"]
