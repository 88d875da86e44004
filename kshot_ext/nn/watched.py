"""Whether somebody looks at what a layer takes or puts out, so that the layer must run by itself."""

from __future__ import annotations

from torch import nn
from torch.nn.modules import module as torch_module


def is_watched(layer: nn.Module) -> bool:
    """Whether a hook sees what the layer puts out, or the gradient of it; or it has a call of its own."""
    hooks = layer._forward_hooks or layer._backward_hooks or layer._backward_pre_hooks
    own_forward = getattr(layer.forward, "__func__", None) is not type(layer).forward
    compiled = layer._compiled_call_impl is not None
    return bool(hooks or own_forward or compiled or torch_module._has_any_global_hook())


def is_free(layer: nn.Module) -> bool:
    """Whether nobody would notice if the layer's call were replaced by what it computes."""
    return not layer._forward_pre_hooks and not is_watched(layer)
