"""Calls of operators: their arguments, what comes of them, and the questions every operator is asked."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from compare import assert_close_to_reference
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import kshot_ext

PACKAGE = str(Path(kshot_ext.__file__).parent)
DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


@dataclass(frozen=True)
class Call:
    """Arguments of an operator by name."""

    tensors: dict[str, Tensor]  # differentiated
    options: dict[str, Any] = field(default_factory=dict)
    state: dict[str, Tensor] = field(default_factory=dict)  # updated in place

    def to(self, dtype: torch.dtype) -> Call:
        return replace(self, tensors=_converted(self.tensors, dtype), state=_converted(self.state, dtype))

    def with_values(self, change: Callable[[Tensor], Tensor]) -> Call:
        return replace(self, tensors={name: change(tensor) for name, tensor in self.tensors.items()})


def _converted(tensors: dict[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    return {name: tensor.to(dtype) for name, tensor in tensors.items()}


def draw(generator: torch.Generator, *shape: int) -> Tensor:
    """Normal values in float64, on the default device; the same on every device."""
    values = torch.randn(shape, generator=generator, dtype=torch.float64, device="cpu")
    return values.to(torch.get_default_device())


def small_integers(values: Tensor) -> Tensor:
    """Values of which sums are exact in every dtype."""
    return values.round().clamp(-2, 2)


def results(
    function: Callable[..., Any], call: Call, change: Callable[[Tensor], Tensor] = lambda values: values
) -> dict[str, Tensor]:
    """Outputs, gradients of all tensors, and state after the call, by name.

    `change` is applied to all values that go in: arguments and the gradients of the outputs.
    """
    leaves = {name: tensor.detach().requires_grad_() for name, tensor in call.with_values(change).tensors.items()}
    state = {name: tensor.clone() for name, tensor in call.state.items()}
    output = function(**leaves, **call.options, **state)
    outputs = [output] if isinstance(output, Tensor) else list(output)
    generator = torch.Generator("cpu").manual_seed(1)
    cotangents = [change(draw(generator, *output.shape).bfloat16()).to(output.dtype) for output in outputs]
    gradients = torch.autograd.grad(outputs, list(leaves.values()), cotangents)
    return {
        **{f"output {index}": output.detach() for index, output in enumerate(outputs)},
        **{f"gradient of {name}": gradient for name, gradient in zip(leaves, gradients)},
        **state,
    }


def assert_matches_reference(
    function: Callable[..., Any], twin: Callable[..., Any], call: Call, magnitude: float | None = None
) -> None:
    """`function` and its reference `twin` agree on `call`, forward and backward.

    `magnitude`: size of the sums that rounding errors come from; default: the results for absolute values, which
    is right for operators that are linear in each argument.
    """
    actual, expected = results(function, call), results(twin, call.to(torch.float64))
    dtypes = {tensor.dtype for tensor in call.tensors.values()}
    eager = expected if dtypes == {torch.float64} else results(twin, call)
    if magnitude is not None:
        magnitudes = dict.fromkeys(expected, torch.tensor(magnitude))
    elif dtypes & {torch.float32, torch.float64}:
        magnitudes = results(twin, call.to(torch.float64), torch.abs)
    else:  # beside the rounding of half types that of their sums in float32 is nothing
        magnitudes = dict.fromkeys(expected)
    for name in expected:
        assert_close_to_reference(
            actual[name], expected[name], eager=eager[name], magnitude=magnitudes[name], what=name
        )


def assert_exact_on_integers(function: Callable[..., Any], twin: Callable[..., Any], call: Call) -> None:
    """No rounding error at all where every value is a small integer."""
    actual = results(function, call, small_integers)
    expected = results(twin, call.to(torch.float64), small_integers)
    for name in expected:
        assert torch.equal(actual[name].double(), expected[name]), name


def assert_gradients_check(function: Callable[..., Any], call: Call) -> None:
    """Gradients equal finite differences, in float64."""
    call = call.to(torch.float64)
    leaves = [tensor.clone().requires_grad_() for tensor in call.tensors.values()]

    def positional(*tensors: Tensor) -> Tensor:
        return function(**dict(zip(call.tensors, tensors)), **call.options)

    assert torch.autograd.gradcheck(positional, leaves)


def assert_compiles(function: Callable[..., Any], calls: Sequence[Call], backend: str = "aot_eager") -> None:
    """One graph without breaks; values and strides are those of the eager call."""
    torch.compiler.reset()
    compiled = torch.compile(function, fullgraph=True, backend=backend)
    for call in calls:
        eager, actual = results(function, call), results(compiled, call)
        for name in eager:
            torch.testing.assert_close(
                actual[name], eager[name], rtol=1e-4, atol=1e-4, msg=lambda text, name=name: f"{name}: {text}"
            )
        assert actual["output 0"].stride() == eager["output 0"].stride()


class _ComputationRecorder(TorchDispatchMode):
    """Names of the operators run inside it that compute rather than look."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = str(function)
        if name.startswith("kshot_ext") or any(word in name for word in ("conv", "mm", "batch_norm", "mul")):
            self.names.append(name)
        return function(*args, **(kwargs or {}))


def assert_rejects(function: Callable[..., Any], arguments: dict[str, Any], error: type, message: str) -> None:
    """`function` raises `error` with a text that matches `message`, before it computes anything."""
    with _ComputationRecorder() as recorder, pytest.raises(error, match=message):
        function(**arguments)
    assert recorder.names == []


def frames(call: Callable[[], Any]) -> list[str]:
    """Names of the functions of the package that a call enters."""
    entered: list[str] = []

    def note(frame, event: str, argument: Any) -> None:
        if event == "call" and frame.f_code.co_filename.startswith(PACKAGE):
            entered.append(frame.f_code.co_name)

    sys.setprofile(note)
    try:
        call()
    finally:
        sys.setprofile(None)
    return entered
