"""The comparison helper fails when it should."""

import pytest
import torch
from compare import ULPS, assert_close_to_reference

EXPECTED = torch.linspace(-3, 3, 21, dtype=torch.float64).reshape(3, 7)


def eager(dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return EXPECTED.to(dtype)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_accepts_the_rounded_truth(dtype: torch.dtype) -> None:
    assert_close_to_reference(EXPECTED.to(dtype), EXPECTED, eager=eager(dtype))


def test_accepts_an_empty_result() -> None:
    empty = torch.empty(0, 4, dtype=torch.float64)
    assert_close_to_reference(empty.float(), empty, eager=empty.float())


def test_names_the_one_wrong_element() -> None:
    actual = eager().clone()
    actual[2, 4] += 0.01
    with pytest.raises(AssertionError, match=r"grad code: 1 of 21 elements \(4\.8%\).*worst at \(2, 4\)"):
        assert_close_to_reference(actual, EXPECTED, eager=eager(), what="grad code")


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_rejects_values_that_are_not_finite(value: float) -> None:
    actual = eager().clone()
    actual[0, 3] = value
    with pytest.raises(AssertionError, match=r"worst at \(0, 3\)"):
        assert_close_to_reference(actual, EXPECTED, eager=eager())


def test_rejects_another_shape_that_would_broadcast() -> None:
    with pytest.raises(AssertionError, match=r"expected \[3, 7\], got \[1, 3, 7\]"):
        assert_close_to_reference(eager()[None], EXPECTED, eager=eager())


def test_rejects_another_dtype() -> None:
    with pytest.raises(AssertionError, match=r"expected torch.float32, got torch.float64"):
        assert_close_to_reference(EXPECTED, EXPECTED, eager=eager())


def test_needs_a_truth_in_float64() -> None:
    with pytest.raises(AssertionError, match="must be float64"):
        assert_close_to_reference(eager(), EXPECTED.float(), eager=eager())


def test_needs_a_finite_truth() -> None:
    with pytest.raises(AssertionError, match="must be finite"):
        assert_close_to_reference(eager(), EXPECTED * torch.inf, eager=eager())


@pytest.mark.parametrize(("ulps", "accepted"), [(0.9 * ULPS, True), (1.1 * ULPS, False)])
def test_grants_a_few_ulp_of_the_largest_value(ulps: float, accepted: bool) -> None:
    error = torch.zeros_like(EXPECTED)
    error[1, 1] = ulps * torch.finfo(torch.float64).eps * 3
    if accepted:
        assert_close_to_reference(EXPECTED + error, EXPECTED, eager=EXPECTED)
    else:
        with pytest.raises(AssertionError, match=r"worst at \(1, 1\)"):
            assert_close_to_reference(EXPECTED + error, EXPECTED, eager=EXPECTED)


@pytest.mark.parametrize(("factor", "accepted"), [(1.9, True), (2.2, False)])
def test_grants_twice_the_error_of_eager_torch(factor: float, accepted: bool) -> None:
    eager_error = torch.zeros_like(EXPECTED)
    eager_error[0, 0] = 1e-6
    actual = EXPECTED - factor * eager_error.flip(0)
    if accepted:
        assert_close_to_reference(actual, EXPECTED, eager=EXPECTED + eager_error)
    else:
        with pytest.raises(AssertionError, match=r"worst at \(2, 0\)"):
            assert_close_to_reference(actual, EXPECTED, eager=EXPECTED + eager_error)


@pytest.mark.parametrize(("ulps", "accepted"), [(0.9 * ULPS, True), (1.1 * ULPS, False)])
def test_grants_a_few_ulp_of_what_cancelled(ulps: float, accepted: bool) -> None:
    expected, magnitude = torch.zeros(2, dtype=torch.float64), torch.tensor([100.0, 1.0], dtype=torch.float64)
    actual = torch.tensor([0.0, ulps * torch.finfo(torch.float32).eps * 100]).bfloat16()
    eager = expected.bfloat16()
    if accepted:
        assert_close_to_reference(actual, expected, eager=eager, magnitude=magnitude)
    else:
        with pytest.raises(AssertionError, match=r"worst at \(1,\)"):
            assert_close_to_reference(actual, expected, eager=eager, magnitude=magnitude)
