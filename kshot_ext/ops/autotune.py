"""The faster form of a convolution by measurement, once per geometry, in place of the rule of "auto"."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from kshot_ext.ops import plans
from kshot_ext.ops.conv_forms import ConvCall, Form

_ROUNDS = 5
measuring = False  # whether "auto" measures; every call reads it, `set_autotune` sets it
_fastest: dict[plans.Key, str] = {}


def set_autotune(enabled: bool) -> None:
    """Let `algorithm="auto"` measure each new geometry once, forward and backward, and remember what was faster.

    The measurement waits for the device and takes a few times as long as the call itself; it is left out while a
    CUDA graph is captured or a compiler traces, where the rule decides as it does without it. Turning it off forgets
    what was measured. Affects the whole process.

    Args:
        enabled: True to measure; False, the default, to use the rule.

    Example:
        >>> import kshot_ext
        >>> kshot_ext.set_autotune(True)
        >>> kshot_ext.set_autotune(False)
    """
    global measuring
    measuring = bool(enabled)
    if not measuring:
        _fastest.clear()
    plans.forget()


def measures() -> bool:
    """Whether a call is to be measured now."""
    if not measuring or torch.compiler.is_compiling():
        return False
    return not (torch.cuda.is_available() and torch.cuda.is_current_stream_capturing())


def fastest(call: ConvCall, forms: Mapping[str, Form]) -> str:
    """The name of the fastest of `forms` for calls like this one."""
    key = _key(call, forms)
    if key not in _fastest:
        _fastest[key] = _measured(call, forms)
    return _fastest[key]


def _key(call: ConvCall, forms: Mapping[str, Form]) -> plans.Key:
    tensors = (call.input, call.weight, call.code, call.bias, call.gate)
    layouts = tuple(t if t is None else (t.shape, t.stride(), t.dtype, _differentiated(t)) for t in tensors)
    return (
        *forms,
        call.input.device,
        layouts,
        call.widths,
        call.window,
        torch.is_autocast_enabled(call.input.device.type),
    )


def _differentiated(tensor: Tensor) -> bool:
    return tensor.requires_grad and torch.is_grad_enabled()


def _measured(call: ConvCall, forms: Mapping[str, Form]) -> str:
    # The caller's graph and gradients stay untouched.
    names = ("input", "weight", "code", "bias", "gate")
    apart: dict[str, Any] = {name: None if (t := getattr(call, name)) is None else t.detach() for name in names}
    leaves = [
        apart[name].requires_grad_()
        for name in names
        if apart[name] is not None and _differentiated(getattr(call, name))
    ]
    twin = call._replace(**apart)

    def run(form: Form) -> None:
        output = form(twin)
        if leaves:
            torch.autograd.grad(output, leaves, torch.ones_like(output))

    for form in forms.values():
        run(form)
    times: dict[str, list[float]] = {name: [] for name in forms}
    for _ in range(_ROUNDS):
        for name, form in forms.items():
            times[name].append(_seconds(partial(run, form), call.input.device))
    return min(times, key=lambda name: statistics.median(times[name]))


def _seconds(work: Callable[[], None], device: torch.device) -> float:
    wait = torch.cuda.synchronize if device.type == "cuda" else lambda device: None
    wait(device)
    begin = time.perf_counter()
    work()
    wait(device)
    return time.perf_counter() - begin
