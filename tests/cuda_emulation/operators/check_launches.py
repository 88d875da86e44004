"""Run by test_operators.py under plugin.py: a kernel that does not start is named, and nothing after it is blamed."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from kshot_ext import functional
from kshot_ext.optim import KShotAdamW, KShotSGD


def convolution(per_sample: bool, depthwise: bool, size: int = 8) -> Tensor:
    x = torch.randn(2, 8, size, size).contiguous(memory_format=torch.channels_last).requires_grad_()
    weight = torch.nn.Parameter(torch.randn(3, 8, 1 if depthwise else 8, 3, 3))
    code = torch.rand(*((2,) if per_sample else ()), 3).requires_grad_()
    call = {"padding": 1, "groups": 8 if depthwise else 1, "algorithm": "fused"}
    return functional.kshot_conv2d(x, weight, code, **call).sum()


def batch_norm() -> Tensor:
    x = torch.randn(2, 8, 4, 4).contiguous(memory_format=torch.channels_last).requires_grad_()
    return functional.batch_norm_act(x, torch.ones(8), torch.zeros(8), torch.zeros(8), torch.ones(8)).sum()


def chain() -> Tensor:
    x = torch.randn(2, 8, 5, 5).contiguous(memory_format=torch.channels_last).requires_grad_()
    norm = functional.ChannelNorm(*(torch.rand(8).requires_grad_() for _ in range(2)))
    call = {"padding": 1, "groups": 8, "norm": norm}
    raw, *moments = functional.chained_conv2d(x, torch.randn(3, 8, 1, 3, 3), torch.rand(3), **call)
    return functional.chained_norm_act(raw, functional.ChannelNorm(*moments)).sum()


def mixing(per_sample: bool) -> Tensor:
    code = torch.rand(*((2,) if per_sample else ()), 3).requires_grad_()
    return functional.effective_weight(torch.randn(3, 8, 4, 3, 3).requires_grad_(), code).sum()


def grouping() -> Tensor:
    operands = torch.randn(3, 8, 4, 3, 3), torch.rand(3), torch.tensor([0.0, 1.0])
    return functional.dynamic_group_weight(*(tensor.requires_grad_() for tensor in operands)).sum()


def alignment() -> Tensor:
    points = torch.randn(2, 5, 2), torch.randn(2, 4, 2)
    return functional.dtw_align(*(tensor.requires_grad_() for tensor in points)).cost.sum()


def update(kind: type[torch.optim.Optimizer]) -> Tensor:
    weight = torch.nn.Parameter(torch.randn(3, 8, 4))
    optimizer = kind([weight], lr=0.1)
    functional.effective_weight(weight, torch.rand(3)).sum().backward()
    optimizer.step()
    return weight.sum()


@pytest.mark.parametrize(
    ("kernel", "run"),
    [
        ("dense_gather_kernel<Tile, transposed, Link>", lambda: convolution(False, False)),
        ("dense_weight_gradient_kernel", lambda: convolution(False, False).backward()),
        ("add_stretches_kernel", lambda: convolution(False, False, size=20).backward()),
        ("dense_per_sample_gradient_kernel", lambda: convolution(True, False).backward()),
        ("depthwise_gather", lambda: convolution(False, True)),
        ("depthwise_weight_gradient", lambda: convolution(False, True).backward()),
        ("depthwise_partial_sums", lambda: convolution(False, True).backward()),
        ("join_moments_kernel", chain),
        ("ForwardLink", chain),
        ("BackwardLink", lambda: chain().backward()),
        ("chain_norm_gradient_kernel", lambda: chain().backward()),
        ("gradient_sums_kernel<T, true", lambda: chain().backward()),
        ("moments_kernel", batch_norm),
        ("batch_norm_act_kernel", batch_norm),
        ("batch_norm_act_backward_kernel", lambda: batch_norm().backward()),
        ("mix_kernel", lambda: mixing(False)),
        ("mix_per_sample_kernel", lambda: mixing(True)),
        ("mix_backward_kernel", lambda: mixing(False).backward()),
        ("column_sum_kernel", lambda: mixing(False).backward()),
        ("dtw_align_kernel", alignment),
        ("dtw_align_backward_kernel", lambda: alignment().backward()),
        ("group_weight_kernel", grouping),
        ("group_weight_backward_kernel", lambda: grouping().backward()),
        ("sgd_kernel", lambda: update(KShotSGD)),
        ("adamw_kernel", lambda: update(KShotAdamW)),
    ],
)
def test_a_kernel_that_does_not_start_is_named(
    kernel: str, run: Callable[[], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    run()
    with monkeypatch.context() as patch:
        patch.setenv("KSHOT_EMULATION_REFUSES", kernel)
        with pytest.raises(RuntimeError, match=r"the CUDA kernel .*did not start: invalid configuration") as caught:
            run()
    assert kernel in str(caught.value)
    run()
