"""Argument checks shared by the public functions.

They run before any kernel, and each message says what was expected and what came. Shapes of widths and
groups are checked where they are worked out, in `kshot_ext.widths`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
ALGORITHMS = ("auto", "mix_then_conv", "fused")


def check_tensor(name: str, tensor: object, layout: str, ranks: Sequence[int]) -> Tensor:
    """`tensor`, which is a floating point tensor of one of `ranks`; `layout` is its shape in words."""
    if not isinstance(tensor, Tensor):
        raise TypeError(f"{name} must be a tensor {layout}, got {type(tensor).__name__}")
    if tensor.dim() not in ranks:
        raise ValueError(f"{name} must have shape {layout}, got {list(tensor.shape)}")
    if tensor.dtype not in DTYPES:
        legal = ", ".join(str(dtype).removeprefix("torch.") for dtype in DTYPES)
        raise TypeError(f"{name} must be one of {legal}, got {tensor.dtype}")
    return tensor


def check_companion(name: str, tensor: Tensor, leader_name: str, leader: Tensor) -> None:
    """`tensor` lives where `leader` lives."""
    if tensor.device != leader.device:
        raise ValueError(f"{name} must be on {leader.device} like {leader_name}, got {tensor.device}")


def check_same_dtype(name: str, tensor: Tensor, leader_name: str, leader: Tensor) -> None:
    """Equal dtypes, unless autocast is about to choose them."""
    if tensor.dtype != leader.dtype and not torch.is_autocast_enabled(leader.device.type):
        raise TypeError(f"{name} must be {leader.dtype} like {leader_name}, got {tensor.dtype}")


def check_dictionary(weight: Tensor, layout: str, ranks: Sequence[int], name: str = "weight") -> None:
    """`weight` is a dictionary of at least one copy."""
    check_tensor(name, weight, layout, ranks)
    if weight.shape[0] < 1:
        raise ValueError(f"{name} must hold at least one copy (K >= 1), got shape {list(weight.shape)}")
    if 0 in weight.shape:
        raise ValueError(f"{name} must have no empty dimension, got shape {list(weight.shape)}")


def check_code(code: Tensor, weight: Tensor, batch: int | None = None, *, places: bool = False) -> None:
    """`code` is `[K]` or `[N, K]` for the dictionary `weight`, with N the batch where there is one.

    With `places` it may also be `[N, K, *kernel]`.
    """
    kernel, layout = weight.shape[3:], "[K] or [N, K]"
    ranks: tuple[int, ...] = (1, 2)
    if places:
        by_place = ", ".join(str(size) for size in ("N", "K", *kernel))
        layout, ranks = f"[K], [N, K] or, by place in the kernel, [{by_place}]", (1, 2, 2 + len(kernel))
    check_tensor("code", code, layout, ranks)
    shots = weight.shape[0]
    if code.dim() > 2 and code.shape[2:] != kernel:
        raise ValueError(f"a code by place must have shape {layout[layout.rindex('[') :]}, got {list(code.shape)}")
    if code.shape[1 if code.dim() > 2 else -1] != shots:
        raise ValueError(
            f"code must have K = {shots} entries, one for each copy in weight {list(weight.shape)}, "
            f"got shape {list(code.shape)}"
        )
    if batch is not None and code.dim() > 1 and code.shape[0] != batch:
        raise ValueError(f"a code per sample must have N = {batch} rows like input, got {code.shape[0]}")
    check_companion("code", code, "weight", weight)


def check_gate(gate: Tensor, weight: Tensor, total: int, active: int, batch: int | None = None) -> None:
    """`gate` covers all `total` output channels or just the `active` ones."""
    check_tensor("gate", gate, "[C_out] or [N, C_out]", (1, 2))
    if gate.shape[-1] != total and gate.shape[-1] != active:  # not `in`, which compilers get wrong of dynamic shapes
        either = f"{total}" if total == active else f"{total} (all) or {active} (the active ones)"
        raise ValueError(f"gate must have C_out = {either} entries, got shape {list(gate.shape)}")
    if batch is not None and gate.dim() == 2 and gate.shape[0] != batch:
        raise ValueError(f"a gate per sample must have N = {batch} rows like input, got {gate.shape[0]}")
    check_companion("gate", gate, "weight", weight)


def check_bias(bias: Tensor, weight: Tensor) -> None:
    """`bias` is `[C_out]`, or a dictionary `[K, C_out]`."""
    check_tensor("bias", bias, "[C_out] or [K, C_out]", (1, 2))
    shots, out_channels = weight.shape[:2]
    expected = [out_channels] if bias.dim() == 1 else [shots, out_channels]
    if list(bias.shape) != expected:
        raise ValueError(f"bias must have shape {expected} for weight {list(weight.shape)}, got {list(bias.shape)}")
    check_companion("bias", bias, "weight", weight)
    check_same_dtype("bias", bias, "weight", weight)


def check_algorithm(algorithm: str) -> None:
    if algorithm not in ALGORITHMS:
        raise ValueError(f"algorithm must be one of {', '.join(map(repr, ALGORITHMS))}, got {algorithm!r}")
