"""parameter_groups: V's learning rate follows the dictionary's scale."""

import torch
from torch import nn

import weightcast as wc
from weightcast.optim import adam_state, load_adam_state


def make_model(scale=1.0):
    class Scaled(wc.dictionaries.Dictionary):
        """RandomGaussian times a number: the same dictionary in other units."""

        def build(self, site):
            atoms = wc.dictionaries.RandomGaussian().build(site)
            atoms.base.atoms.mul_(scale)
            return atoms

    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(20, 12), nn.ReLU(), nn.Linear(12, 3)).double()
    return wc.convert(model, {"0": wc.Rule(Scaled(), fraction=0.25, columns=2)}, seed=0)


def train(model, steps=25):
    generator = torch.Generator().manual_seed(1)
    optimiser = torch.optim.AdamW(wc.parameter_groups(model, 1e-2, weight_decay=0.1), eps=1e-16)
    for _ in range(steps):
        x = torch.randn(16, 20, generator=generator, dtype=torch.float64)
        optimiser.zero_grad()
        (model(x) - x[:, :3]).square().mean().backward()
        optimiser.step()
    return model[0].weight


def test_training_does_not_depend_on_the_units_of_the_dictionary():
    torch.testing.assert_close(train(make_model()), train(make_model(scale=50.0)))


def test_rows_of_unit_norm_keep_the_dense_rate():
    layer = wc.PredictedLinear(
        16, 8, dictionary=wc.dictionaries.DCT(), fraction=1.0, dtype=torch.float64
    )
    (other, V) = wc.parameter_groups(nn.Sequential(layer), 1e-3, weight_decay=0.2)
    assert V["name"] == "0.V"
    assert V["params"] == [layer.V]
    assert abs(V["lr"] - 1e-3) < 1e-12
    assert abs(V["weight_decay"] - 0.2) < 1e-9
    assert other["params"] == [layer.bias]


def test_every_trained_parameter_is_in_one_group():
    model = make_model()
    model[2].bias.requires_grad_(False)
    grouped = [p for group in wc.parameter_groups(model, 1e-3) for p in group["params"]]
    assert {id(p) for p in grouped} == {id(p) for p in model.parameters() if p.requires_grad}
    assert len(grouped) == len({id(p) for p in grouped})


def test_equal_scales_share_a_group():
    layers = [nn.Linear(16, 8), nn.Linear(16, 8), nn.Linear(16, 8)]
    rule = wc.Rule(wc.dictionaries.DCT(), fraction=0.5)
    model = wc.convert(
        nn.Sequential(*layers), {"*": rule, "1": wc.Rule(wc.dictionaries.DCT(), fraction=0.25)}
    )
    _, first, second = wc.parameter_groups(model, 1e-3)
    assert (first["name"], second["name"]) == ("0.V, 2.V", "1.V")
    assert first["params"] == [model[0].V, model[2].V]
    assert abs(second["lr"] / first["lr"] - 2**0.5) < 1e-6


def test_scales_within_a_hundredth_share_the_first_ones_rate():
    grouped = wc.dictionaries.RandomConnections("grouped")
    rule = wc.Rule(grouped, fraction=0.05, columns=20)  # 39 of 784 atoms, 25 of 500
    model = wc.convert(nn.Sequential(nn.Linear(784, 500), nn.Linear(500, 500)), {"*": rule})
    _, V = wc.parameter_groups(model, 1e-3)
    assert V["name"] == "0.V, 1.V"
    assert abs(V["lr"] / 1e-3 - (784 / 39) ** 0.5) < 1e-6


def test_adams_state_goes_on_from_named_tensors():
    nets = [nn.Linear(3, 2) for _ in range(2)]
    nets[1].load_state_dict(nets[0].state_dict())
    optimisers = [torch.optim.Adam(net.parameters(), 0.1) for net in nets]

    def step(net, optimiser):
        optimiser.zero_grad()
        net(torch.eye(3)).square().sum().backward()
        optimiser.step()

    for _ in range(3):
        step(nets[0], optimisers[0])
    nets[1].load_state_dict(nets[0].state_dict())
    state = adam_state(optimisers[0]) | {"V": torch.zeros(1)}
    copies = {name: tensor.clone() for name, tensor in state.items()}
    optimisers[0].param_groups[0]["lr"] = 0.02
    load_adam_state(optimisers[1], copies, [0.02])
    for net, optimiser in zip(nets, optimisers, strict=True):
        step(net, optimiser)
    assert torch.equal(nets[0].weight, nets[1].weight)
