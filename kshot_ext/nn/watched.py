"""Whether somebody looks at what a layer takes or puts out, so that the layer must run by itself."""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.nn.modules import module as torch_module

_METHODS = ("forward", "_conv_forward", "_check_input_dim")  # the latter two are called by forwards
_KINDS = (nn.Conv2d, nn.BatchNorm2d, nn.ReLU, nn.ReLU6, nn.SiLU, nn.Hardswish, nn.Identity)


def _methods(kind: type[nn.Module]) -> tuple[Any, ...]:
    return tuple(getattr(kind, name, None) for name in _METHODS)


_OF_TORCH: dict[type[nn.Module], tuple[Any, ...]] = {kind: _methods(kind) for kind in _KINDS}


def is_watched(layer: nn.Module) -> bool:
    """Whether a hook sees what the layer puts out, or the gradient of it; or it has a call of its own."""
    hooks = layer._forward_hooks or layer._backward_hooks or layer._backward_pre_hooks
    kind = type(layer)
    own_forward = getattr(layer.forward, "__func__", None) is not kind.forward or _is_replaced(layer, kind)
    compiled = layer._compiled_call_impl is not None
    return bool(hooks or own_forward or compiled or torch_module._has_any_global_hook())


def _is_replaced(layer: nn.Module, kind: type[nn.Module]) -> bool:
    """Whether a layer of one of torch's classes does something else than they do: it, or all of its class."""
    methods = _OF_TORCH.get(kind)
    if methods is None:
        return False
    return _methods(kind) != methods or any(name in vars(layer) for name in _METHODS)


def is_free(layer: nn.Module) -> bool:
    """Whether nobody would notice if the layer's call were replaced by what it computes."""
    return not layer._forward_pre_hooks and not is_watched(layer)
