import pytest
import torch
from torch import nn

from weightcast.training import convnet, mlp


def count(model):
    return sum(p.numel() for p in model.parameters())


def test_mlp_is_the_papers_network_with_named_layers():
    model = mlp()
    assert [name for name, _ in model.named_children()] == [
        "flatten",
        "hidden1",
        "activation1",
        "hidden2",
        "activation2",
        "classifier",
    ]
    assert [tuple(m.weight.shape) for m in model if isinstance(m, nn.Linear)] == [
        (500, 784),
        (500, 500),
        (10, 500),
    ]
    assert count(model) == 648_010
    assert model(torch.zeros(3, 1, 28, 28)).shape == (3, 10)


def test_mlp_takes_other_sizes_and_the_sigmoid():
    model = mlp((3, 4, 5), 7, (6,), "sigmoid")
    assert model(torch.zeros(2, 3, 4, 5)).shape == (2, 7)
    assert isinstance(model.activation1, nn.Sigmoid)
    assert not hasattr(model, "hidden2")


def test_convnet_has_1024_inputs_of_its_linear_layer_for_32_x_32_images():
    model = convnet()
    convolutions = [m for m in model if isinstance(m, nn.Conv2d)]
    assert [tuple(m.weight.shape) for m in convolutions] == [
        (48, 3, 8, 8),
        (64, 48, 5, 5),
        (64, 64, 5, 5),
    ]
    assert tuple(model.hidden.weight.shape) == (500, 1024)
    assert model(torch.zeros(2, 3, 32, 32)).shape == (2, 10)


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 8, 8), (2, 9, 15), (1, 33, 17)])
def test_convnet_fits_images_of_other_sizes(shape):
    assert convnet(shape, 4)(torch.zeros(2, *shape)).shape == (2, 4)


@pytest.mark.parametrize("make", [mlp, convnet])
def test_a_seed_draws_the_weights_and_moves_nothing_else(make, unmoved_randomness):
    first, again, other = make(seed=1), make(seed=1), make(seed=2)
    assert all(
        torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True)
    )
    assert not torch.equal(first.classifier.weight, other.classifier.weight)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: mlp(activation="tanh"), "activation is 'tanh': take 'relu' or 'sigmoid'"),
        (lambda: mlp(hidden=(500, 0)), "a size is 0: .* need 1 or more"),
        (lambda: convnet((3, 32, 7)), "images of 32 x 7 cannot be halved three times"),
    ],
)
def test_what_cannot_be_built_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
