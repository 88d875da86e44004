"""What every operator of the compiled library owes to torch.library, and every public function to its reference."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from kshot_ext import functional, reference

FREE_OF_TENSORS = {"cpu_isa", "force_cpu_isa"}


def random(*shape: int, channels_last: bool = False) -> Tensor:
    tensor = torch.randn(shape)
    return tensor.movedim(2, -1).contiguous().movedim(-1, 2) if channels_last else tensor


def mixing_samples() -> Iterator[tuple[Tensor, Tensor, Tensor | None, int, int]]:
    """Arguments of effective_weight: shared and per-sample codes and gates, whole and narrow, both layouts."""
    yield random(3, 5), random(3), None, 4, 1
    for channels_last in (False, True):
        weight = random(3, 5, 4, 2, 3, channels_last=channels_last)
        yield weight, random(3), None, 5, 4
        yield weight, random(3), random(3), 3, 2
        yield weight, random(2, 3), random(3), 3, 4
        yield weight, random(2, 3), random(2, 5), 5, 2


def gradient_of(sample: tuple[Tensor, Tensor, Tensor | None, int, int]) -> Tensor:
    return torch.randn_like(torch.ops.kshot_ext.effective_weight(*sample))


def leaf(value: Any) -> Any:
    return value.requires_grad_() if isinstance(value, Tensor) else value


def samples(name: str) -> list[tuple[Any, ...]]:
    if name == "effective_weight":
        return [tuple(map(leaf, sample)) for sample in mixing_samples()]
    if name == "effective_weight_backward":
        return [
            (gradient_of(sample), *sample[:3], need_weight, need_code, sample[2] is not None)
            for sample in mixing_samples()
            for need_weight, need_code in ((True, True), (False, False))
        ]
    weights = [random(3, 5, 4, 2, 3), random(3, 5), random(3, 2, 4, 3, 3, channels_last=True)]
    if name == "mix_weights":
        return [([weight.requires_grad_() for weight in weights], random(*code).requires_grad_())
                for code in ((3,), (2, 3))]  # fmt: skip
    if name == "mix_weights_backward":
        grads = [torch.randn_like(weight[0]) for weight in weights]
        return [(grads, weights, random(3), [1, 0, 1], need) for need in (True, False)]
    assert name == "sgd_update", f"{name} needs samples here"
    settings = (0.1, 0.9, 0.0, 0.01, True)
    weight = weights[0]
    return [
        (weight, torch.zeros_like(weight), torch.ones_like(weight), [], [], [], *settings),
        (weight, None, None, [random(3)], [random(4)], [random(4, 2, 2, 3)], 0.1, 0.0, 0.0, 0.0, False),
    ]


def registered_names() -> list[str]:
    names = torch._C._dispatch_get_all_op_names()
    return sorted(name.split("::")[1] for name in names if name.startswith("kshot_ext::"))


def test_opcheck() -> None:
    """Schema, autograd registration, fake kernel and traced gradient of every operator there is."""
    names = set(registered_names()) - FREE_OF_TENSORS
    assert {"effective_weight", "mix_weights", "sgd_update"} < names
    for name in names:
        for sample in samples(name):
            torch.library.opcheck(getattr(torch.ops.kshot_ext, name).default, sample)


@pytest.mark.parametrize("name", functional.__all__)
def test_reference_has_the_same_signature(name: str) -> None:
    def parameters(function: Callable[..., Any]) -> list[tuple[str, Any, Any]]:
        return [(p.name, p.kind, p.default) for p in inspect.signature(function).parameters.values()]

    assert parameters(getattr(functional, name)) == parameters(getattr(reference, name))


@pytest.mark.parametrize(
    ("operator", "arguments", "message"),
    [
        ("effective_weight", (torch.zeros(3), torch.zeros(3), None, 1, 1), r"shape \[K, C_out, ...\], got rank 1"),
        ("effective_weight", (torch.zeros(3, 4), torch.zeros(2), None, 4, 1), "code must be .* K = 3"),
        ("effective_weight", (torch.zeros(3, 4), torch.zeros(3).double(), None, 4, 1), "code must be on the CPU"),
        ("effective_weight", (torch.zeros(3, 4), torch.zeros(3), None, 5, 1), r"widths must lie in 1..4 and 1..1"),
        ("effective_weight", (torch.zeros(3, 4), torch.zeros(3), None, 4, 0), "widths must lie in"),
        ("effective_weight", (torch.zeros(3, 4), torch.zeros(3), torch.zeros(3), 4, 1), "gate must be .* C_out' = 4"),
        ("effective_weight", (torch.zeros(3, 4).int(), torch.zeros(3), None, 4, 1), "expected float32, float64"),
    ],
)
def test_operators_check_what_they_are_given(operator: str, arguments: tuple[Any, ...], message: str) -> None:
    """Also without the public functions, memory stays safe."""
    with pytest.raises(RuntimeError, match=message):
        getattr(torch.ops.kshot_ext, operator)(*arguments)
