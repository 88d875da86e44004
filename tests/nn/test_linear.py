"""K-shot linear module."""

import pytest
import torch
from torch import nn

from kshot_ext import functional as KF
from kshot_ext.nn import KShotLinear

pytestmark = pytest.mark.usefixtures("native_backend", "one_thread")


@pytest.mark.parametrize("k", range(3))
@pytest.mark.parametrize("bias", [True, False])
def test_one_hot_code_is_the_plain_layer_of_that_copy(bias: bool, k: int) -> None:
    layer, plain = KShotLinear(5, 7, bias=bias, num_shots=3), nn.Linear(5, 7, bias=bias)
    plain.load_state_dict({name: tensor[k] for name, tensor in layer.state_dict().items()})
    x = torch.randn(2, 3, 5)
    torch.testing.assert_close(layer(x, torch.eye(3)[k]), plain(x))


def test_forward_is_the_functional_operator() -> None:
    layer, code = KShotLinear(5, 7, num_shots=2), torch.tensor([0.25, 0.75])
    x, gate = torch.randn(3, 4), torch.rand(3, 7)
    expected = KF.kshot_linear(x, layer.weight, code, layer.bias, gate=gate, out_features=6)
    assert torch.equal(layer(x, code, gate=gate, out_features=6), expected)


def test_copies_start_as_torch_starts_them() -> None:
    torch.manual_seed(3)
    layer = KShotLinear(5, 7, num_shots=2)
    torch.manual_seed(3)
    for k in range(2):
        plain = nn.Linear(5, 7)
        assert torch.equal(layer.weight[k], plain.weight)
        assert torch.equal(layer.bias[k], plain.bias)


def test_says_what_it_is() -> None:
    expected = "KShotLinear(in_features=5, out_features=7, bias=False, num_shots=2)"
    assert repr(KShotLinear(5, 7, bias=False, num_shots=2)) == expected
