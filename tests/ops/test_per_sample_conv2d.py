"""Dense convolutions with a code per sample whose copies exceed a block of the kernels, against float64."""

from __future__ import annotations

import pytest
import torch

from kshot_ext import functional as KF
from kshot_ext import reference

CASES = {
    "blocks_of_channels_and_taps": ((5, 70, 6, 5), (3, 75, 72, 3, 3), {"padding": 1}),
    "blocks_of_channels": ((5, 700, 2, 3), (9, 70, 701, 1, 1), {}),
    "groups_of_panels": ((5, 40, 3, 3), (3, 700, 40, 1, 1), {"stride": 2, "padding": 1}),
    "blocks_of_rows": ((5, 20, 4, 3), (9, 700, 20, 1, 1), {"out_channels": 650}),
}


@pytest.mark.parametrize(("input", "weight", "options"), CASES.values(), ids=CASES)
def test_large_dictionaries(instruction_set, input, weight, options):
    generator = torch.Generator().manual_seed(0)
    shapes = (input, weight, (input[0], weight[0]), (weight[0], weight[1]))
    leaves = [torch.randn(shape, generator=generator).requires_grad_() for shape in shapes]
    exact = [leaf.detach().double().requires_grad_() for leaf in leaves]
    ours = KF.kshot_conv2d(*leaves, **options, algorithm="fused")
    expected = reference.kshot_conv2d(*exact, **options)
    grad = torch.randn(ours.shape, generator=generator)
    results = [ours, *torch.autograd.grad(ours, leaves, grad)]
    for own, other in zip(results, [expected, *torch.autograd.grad(expected, exact, grad.double())], strict=True):
        assert (own - other).abs().max() <= 4e-6 * other.abs().max()
