"""One pass over the dense network: moments of linear layers, convolutions and LSTMs."""

import pytest
import torch
from torch import nn

from weightcast_lab.studies.real.walk import gather, matrices


class Fork(nn.Module):
    """Two layers that are given one tensor."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(6, 8), nn.Linear(6, 9)

    def forward(self, x):
        return self.a(x), self.b(x)


def test_moments_are_those_of_all_rows_and_shared():
    X = torch.randn(5, 7, 6)
    a, b = gather(Fork(), ["a", "b"], X.split(2))
    rows = X.flatten(0, 1).double()
    assert a.inputs is b.inputs
    moments = b.moments()
    torch.testing.assert_close(moments.inputs, rows.mT @ rows / 35)
    torch.testing.assert_close(moments.magnitude, X.abs().mean((0, 1)))
    torch.testing.assert_close(moments.square, X.square().mean((0, 1)))


@pytest.mark.parametrize("n_out", [4, 30])
def test_a_convolution_has_a_row_for_each_channel_and_tap(n_out):
    layer = nn.Conv2d(2, n_out, (3, 2), stride=2, padding=1)
    X = torch.randn(5, 2, 9, 8)
    (matrix,) = gather(nn.Sequential(layer), ["0"], X.split(2))
    rows = nn.functional.unfold(X, (3, 2), padding=1, stride=2).mT.flatten(0, 1).double()
    moments = matrix.moments()
    if n_out == 4:
        rows = rows @ matrix.W.double()
    found = moments.outputs if n_out == 4 else moments.inputs
    torch.testing.assert_close(found, rows.mT @ rows / len(rows), rtol=1e-4, atol=1e-5)
    assert moments.magnitude.shape == (12,)


def test_both_matrices_of_an_lstms_layer_see_what_they_multiply():
    torch.manual_seed(0)
    model, X = nn.Sequential(nn.LSTM(3, 4, num_layers=2, batch_first=True)), torch.randn(5, 6, 3)
    found = {matrix.name: matrix.moments() for matrix in gather(model, ["0"], [X])}
    lower = nn.LSTM(3, 4, batch_first=True)
    lower.load_state_dict({k: v for k, v in model[0].state_dict().items() if k.endswith("l0")})
    middle = lower(X)[0].detach()
    before = torch.stack([lower(X[:, :t])[0][:, -1].detach() for t in range(1, 6)], 1)
    for name, rows, n in (("ih_l0", X, 30), ("ih_l1", middle, 30), ("hh_l0", before, 30)):
        flat = rows.flatten(0, 1).double()
        torch.testing.assert_close(
            found[f"0.weight_{name}"].inputs, flat.mT @ flat / n, rtol=1e-4, atol=1e-6
        )


def test_a_matrix_is_read_and_put_back():
    model = nn.Sequential(nn.Conv2d(2, 3, 2), nn.Flatten(), nn.Linear(3, 5))
    before = [p.clone() for p in model.parameters()]
    for matrix in matrices(model, ["0", "2"]):
        matrix.put(matrix.W)
    assert all(map(torch.equal, before, model.parameters()))
    conv, linear = matrices(model, ["0", "2"])
    assert conv.W.shape == (8, 3)
    assert linear.W.shape == (3, 5)
    linear.put(torch.zeros(3, 5))
    assert not model[2].weight.any()


def test_a_layer_that_is_never_called_is_named():
    class Deaf(Fork):
        def forward(self, x):
            return self.a(x)

    _, b = gather(Deaf(), ["a", "b"], [torch.randn(2, 6)])
    with pytest.raises(ValueError, match="b was given nothing"):
        b.moments()
