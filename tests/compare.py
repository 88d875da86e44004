"""The one comparison with the reference; its tolerance scales itself."""

import torch
from torch import Tensor

ULPS = 4


def assert_close_to_reference(
    actual: Tensor, expected: Tensor, *, eager: Tensor, magnitude: Tensor | None = None, what: str = "output"
) -> None:
    """Fail unless `actual` is about as close to the truth as plain torch gets in the same dtype.

        max |actual - expected| <= 2 max |eager - expected| + ULPS * (eps max |expected| + sum_eps max magnitude)

    Args:
        actual: the result under test.
        expected: the reference's result in float64, finite.
        eager: the reference's result in the dtype that `actual` must have; eps is that of this dtype.
        magnitude: sums of the absolute values of what the results are sums of, where terms cancel; sum_eps is
            the eps of the dtype that sums are taken in. Default: no such allowance.
        what: name of the result in the failure message.
    """
    assert expected.dtype == torch.float64, f"{what}: expected values must be float64, got {expected.dtype}"
    assert expected.isfinite().all(), f"{what}: expected values must be finite"
    assert actual.dtype == eager.dtype, f"{what}: expected {eager.dtype}, got {actual.dtype}"
    assert actual.shape == expected.shape, f"{what}: expected {list(expected.shape)}, got {list(actual.shape)}"
    if actual.numel() == 0:
        return
    error = (actual.double() - expected).abs()
    eager_error = (eager.double() - expected).abs().max()
    tolerance = 2 * eager_error + ULPS * torch.finfo(actual.dtype).eps * expected.abs().max()
    if magnitude is not None:
        sum_dtype = torch.promote_types(actual.dtype, torch.float32)
        tolerance += ULPS * torch.finfo(sum_dtype).eps * magnitude.abs().max()
    wrong = ~(error <= tolerance)  # negated: a NaN is wrong
    if not wrong.any():
        return
    worst = error.nan_to_num(nan=torch.inf).flatten().argmax()
    index = tuple(int(i) for i in torch.unravel_index(worst, error.shape))
    raise AssertionError(
        f"{what}: {int(wrong.sum())} of {wrong.numel()} elements ({wrong.double().mean():.1%}) are wrong, worst at "
        f"{index}: got {actual[index].item()!r}, expected {expected[index].item()!r}, tolerance {tolerance:.3g} "
        f"(error of eager torch {eager_error:.3g})"
    )
