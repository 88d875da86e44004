"""The elastic blocks of once-for-all run as one chain: on a class of that name, restated here."""

from __future__ import annotations

import copy

import pytest
import torch
from elastic_blocks import RATIOS, ElasticBlock, disturbed, rounded
from torch import Tensor, nn

import kshot_ext
from kshot_ext import functional as KF
from kshot_ext.nn.fused_form import plain_kind

pytestmark = pytest.mark.usefixtures("native_backend", "one_thread")


class DynamicMBConvLayer(nn.Module):
    """The library's block, of our layers."""

    __module__ = "ofa.imagenet_classification.elastic_nn.modules.dynamic_layers"

    def __init__(self, block: ElasticBlock, expands: bool = True) -> None:
        super().__init__()
        self.inverted_bottleneck = block.inverted_bottleneck if expands else None
        self.depth_conv, self.point_linear = block.depth_conv, block.point_linear
        self.active_kernel_size, self.active_expand_ratio, self.active_out_channel = 5, max(RATIOS), 16

    def active_middle_channel(self, channels: int) -> int:
        return rounded(channels * self.active_expand_ratio)

    def forward(self, x: Tensor) -> Tensor:
        if self.inverted_bottleneck is not None:
            self.inverted_bottleneck.conv.active_out_channel = self.active_middle_channel(x.size(1))
        self.depth_conv.conv.active_kernel_size = self.active_kernel_size
        self.point_linear.conv.active_out_channel = self.active_out_channel
        if self.inverted_bottleneck is not None:
            x = self.inverted_bottleneck(x)
        return self.point_linear(self.depth_conv(x))


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize("expands", [True, False])
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_a_block_is_one_chain(
    training: bool, expands: bool, memory_format: torch.memory_format, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(4)
    block = DynamicMBConvLayer(disturbed(ElasticBlock(8, 24, 1, nn.Hardswish, True, None)).float(), expands)
    block.train(training)
    plain, exact = copy.deepcopy(block), copy.deepcopy(block).double()
    report = kshot_ext.fuse(block)
    assert [conv for conv in report.fused if conv.endswith(".conv")] == [
        *(["inverted_bottleneck.conv"] if expands else []), "depth_conv.conv", "point_linear.conv",
    ]  # fmt: skip
    ends = []
    end = KF.chained_norm_act
    monkeypatch.setattr(KF, "chained_norm_act", lambda *arguments: ends.append(1) or end(*arguments))
    for ratio, kernel in ((4, 3), (6, 7)):
        for each in (plain, exact, block):
            each.active_expand_ratio, each.active_kernel_size = ratio, kernel
        x = torch.randn(4, 8 if expands else 8 * ratio, 9, 9).to(memory_format=memory_format)
        wanted, found = plain(x), block(x)
        assert found.is_contiguous(memory_format=memory_format)
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)
        for output in (wanted, found, exact(x.double())):
            output.square().mean().backward()
    assert len(ends) == (2 + 2)  # before squeeze-excite, and at the end of a block
    for name, expected in exact.named_parameters():
        if expected.grad is not None:
            error, usual = ((each.get_parameter(name).grad - expected.grad).abs().max() for each in (block, plain))
            assert error <= 8 * usual + 1e-6 * expected.grad.abs().max(), f"{name}: {error:.1e}, as usual {usual:.1e}"
    torch.testing.assert_close(block.depth_conv.bn.bn.running_var, plain.depth_conv.bn.bn.running_var)
    kshot_ext.fuse(block)
    assert plain_kind(block) is DynamicMBConvLayer
    kshot_ext.unfuse(block)
    assert type(block) is DynamicMBConvLayer
    torch.testing.assert_close(block(x), plain(x), rtol=1e-4, atol=1e-4)


def test_subclasses_and_replaced_forwards_run_as_they_are() -> None:
    class Mine(DynamicMBConvLayer):
        def forward(self, x: Tensor) -> Tensor:
            return 2 * super().forward(x)

    x = torch.randn(2, 8, 9, 9)
    for make in (Mine, DynamicMBConvLayer):
        block = make(ElasticBlock(8, 16, 1, nn.ReLU, False, None)).eval()
        wanted = block(x)
        if make is DynamicMBConvLayer:
            block.forward = lambda x, block=block: DynamicMBConvLayer.forward(block, x) + 1
            wanted = wanted + 1
        kshot_ext.fuse(block)
        assert type(block) is make
        torch.testing.assert_close(block(x), wanted, rtol=1e-4, atol=1e-4)
