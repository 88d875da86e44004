"""K-shot convolution modules."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from kshot_ext import functional as KF
from kshot_ext.nn import KShotConv1d, KShotConv2d, KShotConv3d

CODE = torch.tensor([0.5, 0.3, 0.2])
LAYERS = {
    "1d": (KShotConv1d, nn.Conv1d, (2, 4, 9)),
    "2d": (KShotConv2d, nn.Conv2d, (2, 4, 7, 5)),
    "3d": (KShotConv3d, nn.Conv3d, (2, 4, 3, 5, 4)),
}
OPTIONS = {
    "plain": {},
    "no_bias": {"bias": False},
    "window": {"stride": 2, "padding": 1},
    "groups": {"groups": 2, "padding": "same", "dilation": 2},
    "valid": {"padding": "valid"},
    "circular": {"padding": 1, "padding_mode": "circular"},
    "replicate_same": {"padding": "same", "padding_mode": "replicate"},
}
pytestmark = pytest.mark.usefixtures("native_backend", "one_thread")


@pytest.mark.parametrize("k", range(3))
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("dims", LAYERS)
def test_one_hot_code_is_the_plain_layer_of_that_copy(dims: str, options: dict, k: int) -> None:
    kshot_type, plain_type, size = LAYERS[dims]
    layer = kshot_type(4, 6, 3, **options, num_shots=3)
    plain = plain_type(4, 6, 3, **options)
    plain.load_state_dict({name: tensor[k] for name, tensor in layer.state_dict().items()})
    x = torch.randn(size)
    torch.testing.assert_close(layer(x, torch.eye(3)[k]), plain(x))


@pytest.mark.parametrize("dims", LAYERS)
def test_copies_start_as_torch_starts_them(dims: str) -> None:
    kshot_type, plain_type, _ = LAYERS[dims]
    torch.manual_seed(3)
    layer = kshot_type(4, 6, 3, num_shots=2)
    torch.manual_seed(3)
    for k in range(2):
        plain = plain_type(4, 6, 3)
        assert torch.equal(layer.weight[k], plain.weight)
        assert torch.equal(layer.bias[k], plain.bias)


def test_forward_is_the_functional_operator() -> None:
    layer = KShotConv2d(4, 6, (3, 1), stride=(1, 2), padding=(1, 0), num_shots=3)
    x, gate = torch.randn(2, 3, 7, 5), torch.rand(6)
    expected = KF.kshot_conv2d(x, layer.weight, CODE, layer.bias, (1, 2), (1, 0), gate=gate, out_channels=4)
    assert torch.equal(layer(x, CODE, gate=gate, out_channels=4), expected)


def test_channels_last_is_kept_through() -> None:
    layer = KShotConv2d(4, 6, 3, num_shots=3)
    x = torch.randn(2, 4, 7, 5)
    before = layer(x, CODE)
    layer = layer.to(memory_format=torch.channels_last)
    assert layer.weight.shape == (3, 6, 4, 3, 3)
    assert layer.weight[1].is_contiguous(memory_format=torch.channels_last)
    output = layer(x.to(memory_format=torch.channels_last), CODE)
    assert output.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(output, before)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_dtype_and_device_arguments(dtype: torch.dtype) -> None:
    layer = KShotConv2d(4, 6, 3, dtype=dtype, num_shots=3)
    assert layer(torch.randn(2, 4, 5, 5, dtype=dtype), CODE).dtype == dtype
    assert KShotConv2d(4, 6, 3, device="meta", num_shots=3).weight.is_meta
    assert KShotConv2d(4, 6, 3, num_shots=3).to(dtype).weight.dtype == dtype


def test_gradients_reach_every_parameter_and_the_code() -> None:
    layer, code = KShotConv2d(4, 6, 3, num_shots=3), CODE.clone().requires_grad_()
    layer(torch.randn(2, 4, 5, 5), code).square().sum().backward()
    tensors: list[Tensor] = [layer.weight, layer.bias, code]
    assert all(tensor.grad is not None and tensor.grad.count_nonzero() == tensor.numel() for tensor in tensors)


def test_says_what_it_is() -> None:
    assert repr(KShotConv2d(4, 6, 3, padding=1, num_shots=3)) == (
        "KShotConv2d(4, 6, kernel_size=(3, 3), stride=(1, 1), padding=(1, 1), dilation=(1, 1), groups=1, "
        "bias=True, padding_mode='zeros', num_shots=3)"
    )


@pytest.mark.parametrize("num_shots", [0, -1, 1.5, True, None])
def test_rejects_number_of_shots(num_shots: object) -> None:
    with pytest.raises(ValueError, match=f"num_shots must be an int >= 1, got {num_shots!r}"):
        KShotConv2d(4, 6, 3, num_shots=num_shots)


def test_rejects_what_torch_rejects() -> None:
    with pytest.raises(ValueError, match="in_channels must be divisible by groups"):
        KShotConv2d(4, 6, 3, groups=3)
    with pytest.raises(ValueError, match="padding='same' is not supported for strided"):
        KShotConv2d(4, 6, 3, padding="same", stride=2)
