"""The native kernels refuse a second derivative; the reference has it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.autograd import gradgradcheck

from kshot_ext import backend
from kshot_ext import functional as KF

WEIGHT = (2, 3, 2, 1, 2)
OPERATORS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "dynamic_group_weight": lambda weight, code: KF.dynamic_group_weight(weight[:, :2], code, weight.new_zeros(1)),
    "effective_weight": KF.effective_weight,
    "mix_weights": lambda weight, code: KF.mix_weights([weight, weight], code)[0],
    "kshot_conv2d": lambda weight, code: KF.kshot_conv2d(weight.new_ones(2, 2, 2, 3), weight, code),
    "kshot_linear": lambda weight, code: KF.kshot_linear(weight.new_ones(2, 4), weight.flatten(2), code),
    "batch_norm_act": lambda weight, code: KF.batch_norm_act(
        weight[0, :, :, 0], weight[..., 0, 0, 0], None, None, None, code=code, activation="silu"
    ),
}


def arguments() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    weight, code = (torch.randn(*s, generator=generator, dtype=torch.float64) for s in (WEIGHT, (2,)))
    return weight.requires_grad_(), code.requires_grad_()


@pytest.mark.parametrize("operator", OPERATORS.values(), ids=OPERATORS)
def test_native_backend_names_the_way_out(operator: Callable[[Tensor, Tensor], Tensor]) -> None:
    weight, code = arguments()
    (gradient,) = torch.autograd.grad(operator(weight, code).square().sum(), code, create_graph=True)
    with pytest.raises(RuntimeError, match=r"second derivatives run under `with kshot_ext.backend.use_reference"):
        gradient.sum().backward()


@pytest.mark.parametrize("operator", OPERATORS.values(), ids=OPERATORS)
def test_reference_backend_has_it(operator: Callable[[Tensor, Tensor], Tensor]) -> None:
    with backend.use_reference():
        assert gradgradcheck(operator, arguments())
