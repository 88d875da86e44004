"""PyTorch's transformer layers in eval mode: a fused kernel that takes their layers' weights, past the layers' forward.

It computes what the layers compute, so a transformer layer with K-shot layers goes without.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from kshot_ext.nn.code import KShotModule

_FLAG = "activation_relu_or_gelu"  # PyTorch itself clears it for activations that its kernel does not know
_PARTS = ("self_attn", "linear1", "linear2", "norm1", "norm2")
_FLAG_BEFORE = "_activation_relu_or_gelu_before"


def reads_for_fast_path_only(parent: nn.Module, function: Callable[..., Any]) -> bool:
    """Whether a function reads weights only for a fast path that `turn_off_fast_paths` closes, or that is closed.

    An encoder's own fast path leaves zeros in padded places, so it cannot be closed without a change of results.
    """
    if function is nn.TransformerEncoderLayer.forward:
        return hasattr(parent, _FLAG)
    return function is nn.TransformerEncoder.forward and getattr(parent, "use_nested_tensor", True) is False


def turn_off_fast_paths(model: nn.Module) -> None:
    """Keep, in place, the transformer layers that have K-shot layers from giving their dictionaries to the kernel."""
    for module in model.modules():
        if isinstance(module, nn.TransformerEncoderLayer) and getattr(module, _FLAG, False):
            if any(isinstance(getattr(module, part), KShotModule) for part in _PARTS):
                setattr(module, _FLAG_BEFORE, getattr(module, _FLAG))
                setattr(module, _FLAG, 0)


def restore_fast_paths(model: nn.Module) -> None:
    """Undo `turn_off_fast_paths`."""
    for module in model.modules():
        if _FLAG_BEFORE in vars(module):
            setattr(module, _FLAG, vars(module).pop(_FLAG_BEFORE))
