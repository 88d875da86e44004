"""set_autotune: each geometry is measured once, and the measured form serves."""

from collections.abc import Iterator

import pytest
import torch

import kshot_ext
from kshot_ext import functional
from kshot_ext.ops import autotune, conv_forms


@pytest.fixture(autouse=True)
def autotuned() -> Iterator[None]:
    kshot_ext.set_autotune(True)
    yield
    kshot_ext.set_autotune(False)


@pytest.fixture
def chosen(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the forms that were chosen, call by call."""
    names: list[str] = []
    original = autotune.fastest

    def recorded(call, forms):
        names.append(original(call, forms))
        return names[-1]

    monkeypatch.setattr(autotune, "fastest", recorded)
    return names


def operands(batch: int = 2, size: int = 6) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return torch.randn(batch, 8, size, size), torch.randn(3, 8, 1, 3, 3), torch.rand(3)


@pytest.mark.parametrize("faster", ["fused", "mix_then_conv"])
def test_the_faster_form_serves(faster: str, chosen: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = iter([1.0, 2.0] * 5 if faster == "fused" else [2.0, 1.0] * 5)
    monkeypatch.setattr(autotune, "_seconds", lambda work, device: next(seconds))
    x, weight, code = operands()
    served = []
    for name in ("fused_form", "mix_then_conv_form"):
        original = getattr(conv_forms, name)
        monkeypatch.setattr(conv_forms, name, lambda call, n=name, f=original: (served.append(n), f(call))[1])
    output = functional.kshot_conv2d(x, weight, code, padding=1, groups=8)
    assert chosen == [faster]
    assert served[-1] == {"fused": "fused_form", "mix_then_conv": "mix_then_conv_form"}[faster]
    expected = functional.kshot_conv2d(x, weight, code, padding=1, groups=8, algorithm="mix_then_conv")
    torch.testing.assert_close(output, expected)


def test_a_geometry_is_measured_once(monkeypatch: pytest.MonkeyPatch) -> None:
    measured = []
    original = autotune._measured
    monkeypatch.setattr(autotune, "_measured", lambda call, forms: measured.append(1) or original(call, forms))
    for batch, size in ((2, 6), (2, 6), (3, 6), (2, 6), (3, 6)):
        x, weight, code = operands(batch, size)
        functional.kshot_conv2d(x, weight, code, padding=1, groups=8)
    assert len(measured) == 2
    x, weight, code = operands()
    functional.kshot_conv2d(x.requires_grad_(), weight, code, padding=1, groups=8)  # with a backward pass
    assert len(measured) == 3
    kshot_ext.set_autotune(False)
    kshot_ext.set_autotune(True)
    functional.kshot_conv2d(x, weight, code, padding=1, groups=8)
    assert len(measured) == 4


def test_gradients_of_the_caller_stay_untouched(chosen: list[str]) -> None:
    x, weight, code = operands()
    parameter = torch.nn.Parameter(weight)
    seen: list[torch.Tensor] = []
    parameter.register_hook(seen.append)
    output = functional.kshot_conv2d(x, parameter, code, padding=1, groups=8)
    assert parameter.grad is None
    assert seen == []
    output.sum().backward()
    assert len(seen) == 1
    twin = torch.nn.Parameter(weight.clone())
    functional.kshot_conv2d(x, twin, code, padding=1, groups=8, algorithm="mix_then_conv").sum().backward()
    torch.testing.assert_close(parameter.grad, twin.grad)
    assert len(chosen) == 1


def test_nothing_is_measured_unless_asked_for(chosen: list[str]) -> None:
    x, weight, code = operands()
    kshot_ext.set_autotune(False)
    functional.kshot_conv2d(x, weight, code, padding=1, groups=8)
    assert chosen == []


@pytest.mark.parametrize("capturing", [False, True])
def test_a_capture_is_not_measured(capturing: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: capturing)
    assert autotune.measures() != capturing


def test_explicit_algorithms_and_compilers_are_not_measured(chosen: list[str]) -> None:
    x, weight, code = operands()
    for algorithm in ("fused", "mix_then_conv"):
        functional.kshot_conv2d(x, weight, code, padding=1, groups=8, algorithm=algorithm)
    torch.compile(lambda x: functional.kshot_conv2d(x, weight, code, padding=1, groups=8), backend="eager")(x)
    assert chosen == []
