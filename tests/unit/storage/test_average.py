"""average: what adapters add is averaged exactly, and adapters of another U have no mean."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import weightcast as wc
from weightcast import dictionaries as d

X = torch.randn(50, 12, generator=torch.Generator().manual_seed(1))
WHITENED = wc.Rule(d.PCA(whiten=True), n_atoms=2, columns=3)


def network() -> Any:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(12, 16), nn.BatchNorm1d(16), nn.Linear(16, 4))


@pytest.fixture
def clients(tmp_path):
    """One network, three adapters of one U."""
    model = network()
    found = []
    for number in range(3):
        adapted: Any = wc.adapt(model, {"0": WHITENED}, inputs=X, heads=["2"])
        torch.manual_seed(number)
        for p in adapted.parameters():
            if p.requires_grad:
                p.data.normal_()
        adapted(X)
        wc.save(adapted, tmp_path / str(number))
        found.append(adapted.eval())
    return model, found, [tmp_path / str(number) for number in range(3)]


def test_the_mean_adds_the_mean_of_what_they_add(clients, tmp_path):
    model, adapted, folders = clients
    mean = wc.average(folders, [10, 30, 60], into=tmp_path / "mean")
    loaded = wc.load(tmp_path / "mean", model).eval()
    shares = (0.1, 0.3, 0.6)
    added = sum(s * (a[0](X) - model[0](X)) for s, a in zip(shares, adapted, strict=True))
    torch.testing.assert_close(loaded[0](X) - model[0](X), added, rtol=1e-5, atol=1e-5)
    for name in ("0.delta.V", "2.bias", "1.running_mean"):
        exact = sum(s * a.state_dict()[name].double() for s, a in zip(shares, adapted, strict=True))
        assert torch.equal(mean[name], exact.float()), name
    assert not {name for name in mean if "atoms" in name}
    adapted[0].load_state_dict(mean, strict=False)
    assert torch.equal(adapted[0](X), loaded(X))


def test_equal_weights_are_what_none_means(clients):
    _, _, folders = clients
    mean, same = wc.average(folders), wc.average(folders, [2, 2, 2])
    assert all(torch.equal(mean[name], same[name]) for name in mean)
    (alone,) = [wc.average(folders[:1])["0.delta.V"]]
    assert torch.equal(alone, clients[1][0].state_dict()["0.delta.V"])


def test_what_has_no_mean_is_refused(clients, tmp_path):
    model, _, folders = clients

    def other(name: str, rule: wc.Rule = WHITENED, inputs: Any = X, **options: Any) -> Any:
        adapted = wc.adapt(model, {"0": rule}, inputs=inputs, **{"heads": ["2"], **options})
        wc.save(adapted, tmp_path / name)
        return [folders[0], tmp_path / name]

    with pytest.raises(ValueError, match=r"another U, in '0\.delta\.atoms\.base\.atoms'"):
        wc.average(other("U", inputs=X[:25]))
    with pytest.raises(ValueError, match="differ in their plan"):
        wc.average(other("plan", wc.Rule(d.DCT(), n_atoms=2, columns=3)))
    with pytest.raises(ValueError, match=r"do not learn the same: one of them lacks '2\.bias'"):
        wc.average(other("frees", heads=[]))
    changed = network()
    changed[0].bias.data.add_(1)
    adapted = wc.adapt(changed, {"0": WHITENED}, inputs=X, heads=["2"])
    wc.save(adapted, tmp_path / "network")
    with pytest.raises(ValueError, match="adapters of different networks"):
        wc.average([folders[0], tmp_path / "network"])
    wc.save(model, tmp_path / "dense")
    with pytest.raises(wc.FormatError, match="holds no adapter"):
        wc.average([folders[0], tmp_path / "dense"])
    with pytest.raises(ValueError, match="give folders"):
        wc.average([])
    for weights in ([1, 2], [1, 1, -1], [0, 0, 0], [1, 1, float("nan")]):
        with pytest.raises(ValueError, match="a weight for each that"):
            wc.average(folders, weights)


def test_factors_that_are_both_learned_have_no_mean(clients, tmp_path):
    model = clients[0]
    for seed in (0, 1):
        wc.save(wc.adapt(model, {"0": wc.Rule(d.LowRank(), n_atoms=2)}, seed=seed),
                tmp_path / f"lora {seed}")  # fmt: skip
    with pytest.raises(ValueError, match="another U"):
        wc.average([tmp_path / "lora 0", tmp_path / "lora 1"])
