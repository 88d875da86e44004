"""What a profile says of the kernels that ran."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

import kshot_ext
from kshot_ext import functional as KF

pytestmark = pytest.mark.usefixtures("native_backend", "one_thread")

CODE, CODES = torch.tensor([0.25, 0.75]), torch.eye(2)


def steps_of(call: Callable[[], object]) -> list[str]:
    """The names of our operators and kernels in a profile, in order."""
    with profile(activities=[ProfilerActivity.CPU]) as profiled:
        call()
    return [event.name for event in profiled.events() if event.name.startswith("kshot_ext")]


def image(size: int = 5) -> Tensor:
    return torch.randn(2, 4, size, size).to(memory_format=torch.channels_last).requires_grad_()


def convolution(weight: tuple[int, ...], code: Tensor, size: int = 5, groups: int = 1) -> Callable[[], object]:
    operands = image(size), torch.randn(2, *weight).requires_grad_(), code

    def run() -> None:
        KF.kshot_conv2d(*operands, groups=groups, algorithm="fused").sum().backward()

    return run


CONVOLUTIONS: dict[str, Callable[[], object]] = {
    "depthwise_conv2d": convolution((4, 1, 3, 3), CODE, groups=4),
    "dense_conv2d": convolution((6, 4, 3, 3), CODE),
    "per_sample_conv2d": convolution((6, 4, 1, 1), CODES),
    "stacked_linear": convolution((6, 4, 1, 1), CODES, size=1),
}


@pytest.mark.parametrize("times", [1, 2], ids=["checked", "planned"])
@pytest.mark.parametrize("kernel", CONVOLUTIONS)
def test_kernels_of_one_operator_have_names_of_their_own(kernel: str, times: int) -> None:
    for _ in range(times - 1):
        CONVOLUTIONS[kernel]()
    names = steps_of(CONVOLUTIONS[kernel])
    steps = [name for name in names if "[" in name]
    assert steps == [f"kshot_ext.fused_conv2d [{kernel}]", f"kshot_ext.fused_conv2d_backward [{kernel}]"]
    for step in steps:
        assert names[names.index(step) + 1] == "kshot_ext::" + step.split(".")[1].split(" ")[0]


@pytest.mark.parametrize(("groups", "kernel"), [(1, "chained_dense"), (4, "chained_depthwise")])
def test_links_of_chains(groups: int, kernel: str) -> None:
    weight = torch.randn(2, 4, 4 // groups, 3, 3).requires_grad_()
    names = steps_of(lambda: KF.chained_conv2d(image(), weight, CODE, groups=groups).raw.sum().backward())
    assert f"kshot_ext.chained_conv2d [{kernel}]" in names
    assert f"kshot_ext.chained_conv2d_backward [{kernel}]" in names


@torch.no_grad()
@pytest.mark.parametrize(("groups", "kernel"), [(1, "chained_dense"), (4, "depthwise_conv2d")])
def test_folded_norms(groups: int, kernel: str) -> None:
    weight, norm = torch.randn(2, 4, 4 // groups, 3, 3), KF.ChannelNorm(torch.zeros(4), torch.ones(4))
    names = steps_of(lambda: KF.folded_conv2d(image(), weight, CODE, norm, groups=groups))
    assert names == [f"kshot_ext.folded_conv2d [{kernel}]", "kshot_ext::folded_conv2d"]


def test_what_the_vendor_convolves_is_named_by_torch() -> None:
    layer = kshot_ext.nn.KShotConv2d(4, 6, 3, bias=False, num_shots=2)
    with profile(activities=[ProfilerActivity.CPU]) as profiled:
        KF.kshot_conv2d(image(), layer.weight, CODE, algorithm="mix_then_conv")
    names = [event.name for event in profiled.events()]
    assert names.index("kshot_ext::effective_weight") < names.index("aten::convolution")


def test_no_step_is_made_without_a_profiler(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(name: str) -> None:
        raise AssertionError(name)

    monkeypatch.setattr(torch.profiler, "record_function", refuse)
    CONVOLUTIONS["depthwise_conv2d"]()
