"""Codes that change between a checkpointed forward pass and its backward pass."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

import kshot_ext
from kshot_ext import functional as KF

pytestmark = pytest.mark.usefixtures("native_backend", "one_thread")

CODE, OTHER = torch.tensor([0.25, 0.75]), torch.tensor([0.5, 0.5])


def image(channels: int = 4) -> Tensor:
    return torch.randn(2, channels, 5, 5).to(memory_format=torch.channels_last)


def group_gates() -> Tensor:
    return torch.tensor([1.0, 0.0])


OPERATORS: dict[str, tuple[tuple[int, ...], Callable[[Tensor, Tensor], Tensor]]] = {
    "fused_conv2d": ((2, 6, 4, 3, 3), lambda w, code: KF.kshot_conv2d(image(), w, code, algorithm="fused")),
    "mix_then_conv": ((2, 6, 4, 3, 3), lambda w, code: KF.kshot_conv2d(image(), w, code, algorithm="mix_then_conv")),
    "linear": ((2, 6, 4), lambda w, code: KF.kshot_linear(torch.ones(3, 4), w, code)),
    "linear_with_bias": ((2, 6, 4), lambda w, code: KF.kshot_linear(torch.ones(3, 4), w, code, w[:, :, 0])),
    "batch_norm_act": ((2, 4), lambda w, code: KF.batch_norm_act(image(), w, None, None, None, code=code)),
    "mix_weights": ((2, 6, 4), lambda w, code: KF.mix_weights([w], code)[0]),
    "chained_conv2d": ((2, 4, 1, 3, 3), lambda w, code: KF.chained_conv2d(image(), w, code, groups=4).raw),
    "dynamic_group_weight": ((2, 4, 4), lambda w, code: KF.dynamic_group_weight(w, code, group_gates())),
}


@pytest.mark.parametrize("name", OPERATORS)
def test_another_code_in_the_second_run_is_refused(name: str) -> None:
    shape, operator = OPERATORS[name]
    weight, codes = torch.randn(shape).requires_grad_(), [CODE]

    def loss() -> Tensor:
        torch.manual_seed(0)
        return checkpoint(lambda: operator(weight, codes[-1]).square().sum(), use_reentrant=False)

    (expected,) = torch.autograd.grad(loss(), weight)
    kept = loss()
    codes.append(CODE.clone())  # an equal one
    torch.testing.assert_close(torch.autograd.grad(kept, weight)[0], expected)
    kept = loss()
    codes.append(OTHER)
    with pytest.raises(RuntimeError, match=r"code was changed \(kshot_ext.set_code\).*take the code as an argument"):
        torch.autograd.grad(kept, weight)


@pytest.mark.parametrize("use_reentrant", [False, True])
def test_a_code_that_the_checkpointed_function_takes(use_reentrant: bool) -> None:
    """Several codes before one backward pass, in either mode of checkpointing."""
    layer = kshot_ext.nn.KShotLinear(4, 3, num_shots=2)
    input = torch.randn(5, 4, requires_grad=True)

    def run(input: Tensor, code: Tensor) -> Tensor:
        kshot_ext.set_code(layer, code)
        return layer(input).square().sum()

    codes = [code.clone().requires_grad_() for code in (CODE, OTHER)]
    leaves = [input, layer.weight, *codes]
    expected = torch.autograd.grad(sum(run(input, code) for code in codes), leaves)
    sum(checkpoint(run, input, code, use_reentrant=use_reentrant) for code in codes).backward()
    torch.testing.assert_close([leaf.grad for leaf in leaves], list(expected))
