"""What torch's counter of operations counts of ours, against the same computation in torch's own products."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils import flop_counter
from torch.utils.flop_counter import FlopCounterMode

import kshot_ext
from kshot_ext import functional as KF
from kshot_ext.ops import operation_counts

pytestmark = pytest.mark.usefixtures("native_backend", "one_thread")

SHOTS = 3
CODE, CODES = torch.tensor([0.2, 0.3, 0.5]), torch.eye(3)[:2]


def counted(function: Callable[..., Any], *tensors: Tensor) -> tuple[int, int]:
    """Operations of a call, and of the backward pass to all tensors."""
    leaves = [tensor.detach().requires_grad_() for tensor in tensors]
    with FlopCounterMode(display=False) as forward:
        output = function(*leaves)
    with FlopCounterMode(display=False) as backward:
        torch.autograd.grad(output.sum(), leaves)
    return forward.get_total_flops(), backward.get_total_flops()


def by_products(convolve: Callable[[Tensor, Tensor], Tensor]) -> Callable[..., Tensor]:
    """`convolve` with an effective weight that is a product of matrices: one row of codes for each sample."""

    def run(image: Tensor, weight: Tensor, code: Tensor) -> Tensor:
        if code.dim() == 1:
            return convolve(image, (code[None] @ weight.flatten(1)).reshape(weight.shape[1:]))
        effective = (code @ weight.flatten(1)).reshape(len(code), *weight.shape[1:])
        return torch.cat([convolve(sample[None], each) for sample, each in zip(image, effective)])

    return run


IMAGE = torch.randn(2, 6, 5, 7).to(memory_format=torch.channels_last)
KINDS: dict[str, tuple[tuple[int, ...], dict[str, Any]]] = {
    "dense": ((4, 6, 3, 3), {"padding": 1}),
    "strided": ((4, 6, 3, 3), {"stride": 2}),
    "depthwise": ((6, 1, 3, 3), {"padding": 1, "groups": 6}),
    "pointwise": ((8, 6, 1, 1), {}),
}


@pytest.mark.parametrize("code", [CODE, CODES], ids=["shared", "per_sample"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_fused_convolution(kind: str, code: Tensor) -> None:
    shape, options = KINDS[kind]
    weight = torch.randn(SHOTS, *shape)
    ours = counted(lambda x, w, c: KF.kshot_conv2d(x, w, c, **options, algorithm="fused"), IMAGE, weight, code)
    theirs = counted(by_products(lambda x, w: F.conv2d(x, w, **options)), IMAGE, weight, code)
    mixing = 2 * weight.numel() * (len(code) if code.dim() == 2 else 1)
    backward = 2 * (theirs[0] - mixing) + 2 * mixing  # gradients of image and effective weight; of dictionary and code
    assert ours == (theirs[0], backward + mixing)  # the weight is mixed again
    if kind != "depthwise":  # of which torch counts all pairs of channels in the gradient of the weight
        assert theirs[1] == backward


@pytest.mark.parametrize("kind", ["dense", "depthwise"])
def test_a_code_by_place_counts_as_one_per_sample(kind: str) -> None:
    shape, options = KINDS[kind]
    weight, by_place = torch.randn(SHOTS, *shape), CODES[:, :, None, None].expand(-1, -1, *shape[2:]).contiguous()

    def fused(x: Tensor, w: Tensor, c: Tensor) -> Tensor:
        return KF.kshot_conv2d(x, w, c, **options, algorithm="fused")

    assert counted(fused, IMAGE, weight, by_place)[0] == counted(fused, IMAGE, weight, CODES)[0]


@pytest.mark.parametrize("code", [CODE, CODES], ids=["shared", "per_sample"])
def test_mixing(code: Tensor) -> None:
    weight = torch.randn(SHOTS, 4, 6)
    assert counted(KF.effective_weight, weight, code) == (
        2 * weight.numel() * (1 if code.dim() == 1 else 2),
        2 * 2 * weight.numel() * (1 if code.dim() == 1 else 2),
    )
    both = counted(
        lambda a, b, c: torch.cat([each.flatten() for each in KF.mix_weights([a, b], c)]), weight, weight, code
    )
    assert both == tuple(2 * count for count in counted(KF.effective_weight, weight, code))


def test_parts_of_a_dictionary_count_by_the_part() -> None:
    weight = torch.randn(SHOTS, 4, 6)
    with FlopCounterMode(display=False) as counter:
        KF.effective_weight(weight, CODE, out_channels=2, in_channels=3)
    assert counter.get_total_flops() == 2 * SHOTS * 2 * 3


def test_a_norm_counts_its_mixing_only() -> None:
    weight, bias = torch.randn(SHOTS, 6), torch.randn(SHOTS, 6)
    forward, backward = counted(
        lambda x, w, b, c: KF.batch_norm_act(x, w, b, None, None, code=c), IMAGE, weight, bias, CODE
    )
    assert forward == 2 * 2 * SHOTS * 6
    assert backward == 3 * forward  # mixed again, and gradients of dictionaries and code


def plain() -> nn.Module:
    block = [nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 16, 1)]
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, bias=False), *block, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 5)
    )


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=str)
def test_a_converted_model_counts_as_the_plain_one_and_its_mixing(
    memory_format: torch.memory_format, training: bool
) -> None:
    model = plain().train(training).to(memory_format=memory_format)
    converted = kshot_ext.convert(model, SHOTS)
    kshot_ext.set_code(converted, CODE)
    images = torch.randn(2, 3, 9, 9).contiguous(memory_format=memory_format)
    with FlopCounterMode(display=False) as theirs:
        model(images)
    with FlopCounterMode(display=False) as ours:
        converted(images)
    mixing = 2 * SHOTS * sum(parameter.numel() for parameter in model.parameters())
    assert ours.get_total_flops() == theirs.get_total_flops() + mixing


def test_a_chain() -> None:
    weight = torch.randn(SHOTS, 6, 1, 3, 3)
    fused = counted(lambda x, w: KF.kshot_conv2d(x, w, CODE, padding=1, groups=6, algorithm="fused"), IMAGE, weight)
    chain = counted(lambda x, w: KF.chained_conv2d(x, w, CODE, padding=1, groups=6).raw, IMAGE, weight)
    assert chain == fused
    norm = KF.ChannelNorm(torch.zeros(6), torch.ones(6))
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        KF.folded_conv2d(IMAGE, weight, CODE, norm, padding=1, groups=6)
    assert counter.get_total_flops() == fused[0]


def test_every_operator_has_a_formula() -> None:
    names = {
        name.partition("::")[2] for name in torch._C._dispatch_get_all_op_names() if name.startswith("kshot_ext::")
    }
    assert names - set(operation_counts.FORMULAS) == {"cpu_isa", "force_cpu_isa"}


def test_a_counter_that_is_older_than_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    """It has a table of its own, and the first call that it counts may load the library."""
    for name in operation_counts.FORMULAS:
        monkeypatch.delitem(flop_counter.flop_registry, getattr(torch.ops.kshot_ext, name))
    with FlopCounterMode(display=False) as counter:
        operation_counts.register()
        KF.effective_weight(torch.ones(SHOTS, 4), CODE)
    assert counter.get_total_flops() == 2 * SHOTS * 4
