"""Channels in order of their importance: outputs stay, and leading channels are those that count most."""

from __future__ import annotations

import pytest
import torch
from elastic_blocks import ElasticNet, disturbed
from torch import nn

from kshot_ext.nn import sliced

pytestmark = pytest.mark.usefixtures("native_backend", "one_thread")


def parts_of(block: nn.Module) -> list[nn.Module]:
    expand, depthwise = block.inverted_bottleneck, block.depth_conv
    squeeze = [depthwise.se] if hasattr(depthwise, "se") else []
    return [expand.conv, expand.bn, depthwise.conv, depthwise.bn, *squeeze]


@pytest.mark.parametrize("shots", [None, 2])
def test_blocks_compute_the_same(shots: int | None) -> None:
    net = disturbed(ElasticNet(shots)).eval()
    if shots is not None:
        import kshot_ext

        kshot_ext.set_code(net, torch.tensor([0.4, 0.6], dtype=torch.float64))
    x = torch.randn(2, 3, 16, 16, dtype=torch.float64)
    wanted = net(x)
    parameters = list(net.parameters())
    for block in net.blocks:
        reader = block.point_linear.conv
        axis = 1 if shots is None else 2
        others = [d for d in range(reader.conv.weight.dim()) if d != axis]
        before = reader.conv.weight.detach().abs().sum(others)
        order = sliced.sort_channels(reader, parts_of(block))
        assert sorted(order.tolist()) == list(range(len(before)))
        importance = reader.conv.weight.detach().abs().sum(others)
        torch.testing.assert_close(importance, before.sort(descending=True).values)
    assert [a is b for a, b in zip(parameters, net.parameters())] == [True] * len(parameters)
    torch.testing.assert_close(net(x), wanted, rtol=1e-10, atol=1e-10)


def test_the_inner_channels_of_squeeze_excite_are_sorted() -> None:
    net = disturbed(ElasticNet())
    block = net.blocks[1]
    sliced.sort_channels(block.point_linear.conv, parts_of(block))
    importance = block.depth_conv.se.fc.expand.weight.detach().abs().sum((0, 2, 3))
    assert torch.equal(importance, importance.sort(descending=True).values)


def test_kept_widths_and_groups() -> None:
    importance = torch.tensor([1.0, 5.0, 2.0, 8.0, 3.0, 4.0])

    def order(**options) -> list[int]:
        make, read = nn.Linear(2, 6), nn.Linear(6, 2)
        return sliced.sort_channels(read, [make], importance=importance, **options).tolist()

    assert order() == [3, 1, 5, 4, 2, 0]
    assert order(kept_widths=[3]) == [1, 2, 0, 3, 5, 4]
    assert order(kept_widths=[2, 4]) == [1, 0, 3, 2, 5, 4]
    assert order(channels_per_group=2) == [2, 3, 4, 5, 0, 1]
    assert order(channels_per_group=2, kept_widths=[2]) == [0, 1, 2, 3, 4, 5]


def test_what_cannot_be_sorted_is_refused_before_anything_moves() -> None:
    make, norm, read = nn.Linear(2, 6), nn.BatchNorm1d(6), nn.Linear(6, 2)
    state = {k: v.clone() for k, v in nn.ModuleList([make, norm, read]).state_dict().items()}
    read(make(torch.ones(1, 2))).sum().backward()
    for carriers, options, message in (
        ([make], {}, "weight of a Linear holds a gradient"),
        ([nn.Linear(2, 5)], {}, "expected 6 channels out of each carrier, got 5 of Linear"),
        ([nn.Conv2d(6, 6, 1, groups=2)], {}, "one group, or one for each channel, got 2"),
        ([sliced.SwitchableBatchNorm2d([4, 6])], {}, "switchable norms have parameters for each width"),
        ([nn.ReLU()], {}, "a layer with parameters for each channel, got ReLU"),
        ([norm], {"importance": torch.ones(5)}, r"importance must be \[6\]"),
        ([norm], {"kept_widths": [7]}, r"kept_widths must be 1 to 6.*got \[7\]"),
        ([norm], {"channels_per_group": 4}, "must divide 6, got 4"),
    ):
        if "gradient" not in message:
            read.zero_grad()
        with pytest.raises(ValueError, match=message):
            sliced.sort_channels(read, carriers, **options)
    with pytest.raises(ValueError, match="a reader must have one group"):
        sliced.sort_channels(nn.Conv2d(6, 6, 1, groups=6), [norm])
    assert all(torch.equal(state[k], v) for k, v in nn.ModuleList([make, norm, read]).state_dict().items())
