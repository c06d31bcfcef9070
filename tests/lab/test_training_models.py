import pytest
import torch
from torch import nn

from weightcast_lab.settings import ModelSettings, TrainConfig
from weightcast_lab.training import convnet, gpt, lstm, mlp, resnet20, vit
from weightcast_lab.training.build import dense_model


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


def test_resnet20_has_the_authors_number_of_parameters():
    # 0.27 million: He et al. 2016, table 6.
    model = resnet20()
    assert count(model) == 269_722
    convolutions = [m for m in model.modules() if isinstance(m, nn.Conv2d)]
    assert len(convolutions) + 1 == 20
    assert model(torch.zeros(2, 3, 32, 32)).shape == (2, 10)
    assert resnet20((1, 28, 28), 4, (4, 5, 6))(torch.zeros(2, 1, 28, 28)).shape == (2, 4)


def test_a_residual_block_adds_zeros_for_new_channels():
    block = resnet20(seed=0).stage2[0]
    nn.init.zeros_(block.norm2.weight)  # nothing but the shortcut is left
    x = torch.rand(2, 16, 8, 8)
    y = block(x)
    assert torch.equal(y[:, 8:24], x[:, :, ::2, ::2])
    assert y[:, :8].abs().max() == y[:, 24:].abs().max() == 0


@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 28, 20)])
def test_vit_cuts_images_into_patches_of_4_x_4_pixels(shape):
    model = vit(shape, 7, width=24, seed=0)
    n_patches = shape[1] // 4 * (shape[2] // 4)
    assert tuple(model.positions.shape) == (n_patches, 24)
    assert len(model.blocks) == 6
    assert model(torch.rand(2, *shape)).shape == (2, 7)


def test_a_vit_block_is_that_of_torch():
    ours = vit(width=24, depth=1, seed=0).blocks[0]
    theirs = nn.TransformerEncoderLayer(
        24, 4, 96, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
    )
    names = {
        "self_attn.in_proj_": "attention.inputs.",
        "self_attn.out_proj.": "attention.outputs.",
        "linear1.": "expand.",
        "linear2.": "contract.",
    }
    state = ours.state_dict()
    for name, parameter in theirs.named_parameters():
        for there, here in names.items():
            name = name.replace(there, here)
        parameter.data.copy_(state[name])
    x = torch.randn(3, 9, 24)
    torch.testing.assert_close(ours(x), theirs(x))


def test_gpt_never_looks_ahead():
    model = gpt(11, context=9, width=24, depth=2, seed=0).eval()
    x = torch.arange(9)[None]
    changed = x.clone()
    changed[0, 5] = 10
    y, other = model(x), model(changed)
    torch.testing.assert_close(other[:, :5], y[:, :5])
    assert (other[:, 5:] - y[:, 5:]).abs().amax(dim=2).min() > 1e-6
    assert model(x[:, :3]).shape == (1, 3, 11)


def test_lstm_reads_from_left_to_right():
    model = lstm(11, width=8, seed=0)
    x = torch.arange(9)[None]
    torch.testing.assert_close(model(x)[:, :4], model(x[:, :4]))
    assert model(x).shape == (1, 9, 11)


MAKERS = [
    mlp,
    convnet,
    resnet20,
    vit,
    lambda seed: gpt(20, seed=seed),
    lambda seed: lstm(20, seed=seed),
]


@pytest.mark.parametrize("make", MAKERS)
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
        (lambda: resnet20(widths=(16, 32)), "widths has 2 entries: resnet20 has three stages"),
        (lambda: resnet20(widths=(16, 8, 32)), r"widths is \[16, 8, 32\]: .* at least as wide"),
        (lambda: vit((3, 30, 32)), "images of 30 x 32 pixels are not whole patches of 4 x 4"),
        (lambda: vit(width=30), "width is 30, which 4 heads cannot share"),
        (lambda: gpt(5, width=6), "width is 6, which 4 heads cannot share"),
        (lambda: lstm(5, depth=0), "a size is 0"),
        (lambda: gpt(5, 4, 8, 1)(torch.zeros(1, 5).long()), "5 characters .* network sees 4"),
    ],
)
def test_what_cannot_be_built_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("hidden", [None, (), (8,), (8, 4)])
def test_a_network_has_the_hidden_layers_that_are_named_or_none(hidden):
    config = TrainConfig(model=ModelSettings(hidden=hidden))
    model = dense_model(config, (1, 4, 4), 3)
    sizes = [layer.out_features for layer in model if isinstance(layer, nn.Linear)]
    assert sizes == [*((500, 500) if hidden is None else hidden), 3]
    assert model(torch.ones(2, 1, 4, 4)).shape == (2, 3)


@pytest.mark.parametrize("name", ["convnet", "resnet20", "vit", "gpt", "lstm"])
def test_a_network_that_needs_a_width_says_so(name):
    with pytest.raises(ValueError, match="hidden is"):
        ModelSettings(name=name, hidden=())
