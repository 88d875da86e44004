"""Average pools of models by our kernel, and images that several modules read."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import kshot_ext
from kshot_ext.nn.deferred import SharedImage
from kshot_ext.nn.fused_sequence import plus_residual

pytestmark = pytest.mark.usefixtures("native_backend", "one_thread")
POOL = nn.AvgPool2d(3, stride=1, padding=1, count_include_pad=False)


def images(memory_format: torch.memory_format = torch.channels_last) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(4, 5, 7, 6, generator=generator).contiguous(memory_format=memory_format)


def names_of(run: Callable[[], object]) -> list[str]:
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        run()
    return [event.name for event in profile.events()]


def fused_pool() -> nn.AvgPool2d:
    model = nn.Sequential(copy.deepcopy(POOL))
    kshot_ext.fuse(model)
    return model[0]


@pytest.mark.parametrize("memory_format", [torch.channels_last, torch.contiguous_format])
def test_pools_of_fused_models(memory_format: torch.memory_format) -> None:
    pool, x = fused_pool(), images(memory_format).requires_grad_()
    torch.testing.assert_close(pool(x), POOL(x))
    assert pool(x).is_contiguous(memory_format=memory_format)
    ours = memory_format is torch.channels_last
    assert ("kshot_ext::avg_pool2d" in names_of(lambda: pool(x))) is ours
    assert ("aten::avg_pool2d" in names_of(lambda: pool(x))) is not ours


def test_pools_stay_what_they_are() -> None:
    pool = fused_pool()
    assert isinstance(pool, nn.AvgPool2d)
    assert repr(pool) == repr(POOL)
    stream = io.BytesIO()
    torch.save(pool, stream)
    stream.seek(0)
    for twin in (copy.deepcopy(pool), torch.load(stream, weights_only=False)):
        assert "kshot_ext::avg_pool2d" in names_of(lambda twin=twin: twin(images()))
    torch.testing.assert_close(pool(images()[0]), POOL(images()[0]))  # an image without a batch
    model = nn.Sequential(pool)
    kshot_ext.unfuse(model)
    assert type(model[0]) is nn.AvgPool2d


def test_pools_that_are_not_taken() -> None:
    class Doubled(nn.AvgPool2d):
        def forward(self, input: Tensor) -> Tensor:
            return 2 * super().forward(input)

    replaced = nn.AvgPool2d(2)
    replaced.forward = lambda input: input
    model = nn.Sequential(Doubled(2), replaced)
    kshot_ext.fuse(model)
    assert type(model[0]) is Doubled
    assert torch.equal(model[1](images()), images())


def edge(channels: int = 5) -> nn.Sequential:
    return nn.Sequential(
        nn.ReLU(), nn.Sequential(nn.Conv2d(channels, channels, 3, padding=1), nn.BatchNorm2d(channels))
    )


def test_what_edges_of_a_node_share_is_made_once() -> None:
    """Sum and gradients are those of the edges one by one; ReLU and pool run once each, forward and backward."""
    edges = nn.ModuleList([edge(), edge(), copy.deepcopy(POOL), copy.deepcopy(POOL)]).train()
    x = images().requires_grad_()
    apart = sum(layer(x) for layer in edges)
    weights = torch.randn_like(apart)
    expected = torch.autograd.grad((apart * weights).sum(), [x, *edges.parameters()])
    kshot_ext.fuse(edges)

    def together() -> Tensor:
        shared, total = SharedImage.of(x), None
        for layer in edges:
            total = plus_residual(layer, shared, total)
        return total

    torch.testing.assert_close(together(), apart)
    actual = torch.autograd.grad((together() * weights).sum(), [x, *edges.parameters()])
    for one, other in zip(actual, expected):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)
    names = names_of(lambda: together().sum().backward())
    for name in ("aten::relu", "kshot_ext::avg_pool2d", "kshot_ext::avg_pool2d_backward", "aten::threshold_backward"):
        assert names.count(name) == 1, name


def test_shared_images_of_plain_modules() -> None:
    """Modules that nobody fused are called as they are; a hook sees its own input."""
    shared, seen = SharedImage.of(images()), []
    torch.testing.assert_close(plus_residual(POOL, shared), POOL(images()))
    pool = fused_pool()
    pool.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    plus_residual(pool, shared, plus_residual(nn.Identity(), shared))
    assert seen[0] is shared.raw
