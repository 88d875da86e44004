"""The sliced norms against torch's functions on slices."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import kshot_ext
from kshot_ext.nn import sliced

pytestmark = pytest.mark.usefixtures("native_backend", "one_thread")


def images(channels: int) -> Tensor:
    return 3 * torch.randn(4, channels, 5, 3, dtype=torch.float64) + 1


def norm_of(features: int, **options) -> sliced.DynamicBatchNorm2d:
    layer = sliced.DynamicBatchNorm2d(features).double()
    for name, value in options.items():
        setattr(layer.bn, name, value)
    with torch.no_grad():
        layer.bn.weight.uniform_(0.5, 1.5)
        layer.bn.bias.normal_()
    return layer


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize("momentum", [0.1, None])
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("channels", [8, 5])
def test_batch_norm_uses_the_leading_channels(channels: int, training: bool, momentum, memory_format) -> None:
    layer = norm_of(8, momentum=momentum).train(training)
    mean, var = torch.zeros(8, dtype=torch.float64), torch.ones(8, dtype=torch.float64)
    for step in range(1, 4):
        x = images(channels)
        weight, bias = (p.detach()[:channels] for p in (layer.bn.weight, layer.bn.bias))
        factor = momentum or 1 / step
        wanted = F.batch_norm(x, mean[:channels], var[:channels], weight, bias, training, factor)
        found = layer(x.to(memory_format=memory_format))
        torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(layer.bn.running_mean, mean, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(layer.bn.running_var, var, rtol=1e-12, atol=1e-12)
        assert int(layer.bn.num_batches_tracked) == (step if training else 0)


def test_statistics_can_be_estimated_by_replaced_forwards(monkeypatch: pytest.MonkeyPatch) -> None:
    """As once-for-all's `set_running_statistics` does."""
    for by_flag in (False, True):
        layer, x = norm_of(8), images(5)
        layer.bn.forward = lambda x: x + 1
        if by_flag:
            monkeypatch.setattr(sliced.DynamicBatchNorm2d, "SET_RUNNING_STATISTICS", True)
        assert torch.equal(layer(x), x + 1)
        model, x = nn.Sequential(sliced.DynamicConv2d(5, 5), layer.float()), x.float()  # chains take no float64
        assert len(kshot_ext.fuse(model).fused) == 0
        torch.testing.assert_close(model(x), model[0](x) + 1)
        del layer.bn.forward
        assert len(kshot_ext.fuse(model).fused) == (0 if by_flag else 1)


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("channels", [16, 8, 4])
def test_group_norm_keeps_the_size_of_groups(channels: int, affine: bool) -> None:
    layer = sliced.DynamicGroupNorm(4, 16, affine=affine).double()
    if affine:
        with torch.no_grad():
            layer.weight.normal_()
            layer.bias.normal_()
    x = images(channels)
    grouped = x.unflatten(1, (-1, 4))
    variance, mean = torch.var_mean(grouped, (2, 3, 4), unbiased=False, keepdim=True)
    wanted = ((grouped - mean) / (variance + 1e-5).sqrt()).flatten(1, 2)
    if affine:
        wanted = wanted * layer.weight[:channels, None, None] + layer.bias[:channels, None, None]
    torch.testing.assert_close(layer(x), wanted, rtol=1e-12, atol=1e-12)
    part = layer.narrowed(nn.GroupNorm(channels // 4, channels, affine=affine, device="meta"))
    torch.testing.assert_close(part(x), wanted, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(part.to_plain()(x), wanted, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("affine", "bias"), [(True, True), (True, False), (False, False)])
@pytest.mark.parametrize("features", [16, 7, 1])
def test_layer_norm_of_leading_features(features: int, affine: bool, bias: bool) -> None:
    layer = sliced.DynamicLayerNorm(16, elementwise_affine=affine, bias=bias).double()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.normal_()
    x = torch.randn(3, 5, features, dtype=torch.float64)
    variance, mean = torch.var_mean(x, -1, unbiased=False, keepdim=True)
    wanted = (x - mean) / (variance + 1e-5).sqrt()
    wanted = wanted * layer.weight[:features] if affine else wanted
    wanted = wanted + layer.bias[:features] if bias else wanted
    torch.testing.assert_close(layer(x), wanted, rtol=1e-12, atol=1e-12)
    part = layer.narrowed(nn.LayerNorm(features, elementwise_affine=affine, bias=bias, device="meta"))
    torch.testing.assert_close(part(x), wanted, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(part.to_plain()(x), wanted, rtol=1e-12, atol=1e-12)
    with pytest.raises(ValueError, match=r"1 to 16 features, got \[2, 17\]"):
        layer(torch.zeros(2, 17, dtype=torch.float64))
    if affine:
        layer(x).sum().backward()
        assert not layer.weight.grad[features:].any()


def test_group_norm_refuses_a_part_of_a_group() -> None:
    with pytest.raises(ValueError, match=r"a multiple of 4 channels, at most 16, got \[4, 6, 5, 3\]"):
        sliced.DynamicGroupNorm(4, 16)(images(6).float())
    with pytest.raises(ValueError, match="at most 16"):
        sliced.DynamicGroupNorm(4, 16)(images(20).float())


def test_switchable_norms_have_a_norm_for_each_width() -> None:
    layer = sliced.SwitchableBatchNorm2d([4, 8, 8]).double()
    x = images(4)
    torch.testing.assert_close(layer(x), F.batch_norm(x, None, None, training=True), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(layer.bn[0].running_mean, 0.1 * x.mean((0, 2, 3)), rtol=1e-12, atol=1e-12)
    assert not layer.bn[1].running_mean.any()
    with pytest.raises(ValueError, match=r"one norm for 8 channels among \[4, 8, 8\], got 2; set active_index"):
        layer(images(8))
    layer.active_index = 2
    layer(images(8))
    assert layer.bn[2].running_mean.all()
    assert not layer.bn[1].running_mean.any()
    with pytest.raises(ValueError, match=r"active_index=2 is not one of the norms for 4 channels, \[0\]"):
        layer(x)
    with pytest.raises(ValueError, match=r"one norm for 5 channels among \[4, 8, 8\], got 0"):
        sliced.SwitchableBatchNorm2d([4, 8, 8])(images(5).float())


def test_squeeze_excite_by_hand() -> None:
    layer, x = sliced.DynamicSE(64).double(), images(24)
    reduce, expand = layer.fc.reduce, layer.fc.expand
    assert [reduce.out_channels, layer.middle_channels(40), layer.middle_channels(24)] == [16, 16, 8]
    y = x.mean((2, 3)) @ reduce.weight[:8, :24, 0, 0].T + reduce.bias[:8]
    y = y.relu() @ expand.weight[:24, :8, 0, 0].T + expand.bias[:24]
    wanted = x * ((y + 3).clamp(0, 6) / 6)[..., None, None]
    torch.testing.assert_close(layer(x), wanted, rtol=1e-12, atol=1e-12)
    inner = F.conv2d(x.mean((2, 3), True), layer.get_active_reduce_weight(8, 24), layer.get_active_reduce_bias(8))
    outer = F.conv2d(inner.relu(), layer.get_active_expand_weight(8, 24), layer.get_active_expand_bias(24))
    torch.testing.assert_close(x * F.hardsigmoid(outer), wanted, rtol=1e-12, atol=1e-12)
