"""What `merge` asks of K-shot layers: that they have a plain form, a code, and dictionaries of their own."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from kshot_ext.nn.code import KShotModule
from kshot_ext.nn.forms import plain_class, plain_form
from kshot_ext.nn.obstacles import holders_of_tensors


def require_plain_form(name: str, layer: KShotModule) -> None:
    """Refuse a K-shot layer that has no plain form, or other parameters than that."""
    computed = set(_parametrizations(layer)) if parametrize.is_parametrized(layer) else set()
    kind = plain_class(layer)
    if kind is None:
        raise ValueError(f"layer {name!r}: merge knows no plain form of {type(layer).__name__}")
    found = computed | {own for own, parameter in layer._parameters.items() if parameter is not None}
    wanted = {own for own, parameter in plain_form(layer)._parameters.items() if parameter is not None}
    if found != wanted:
        raise ValueError(
            f"layer {name!r}: expected the parameters {sorted(wanted)} of a {kind.__name__}, got {sorted(found)}; if a "
            "hook computes the weight, make it permanent first (torch.nn.utils.prune.remove, remove_weight_norm, ...)"
        )


def require_values(name: str, layer: nn.Module, plain: nn.Module) -> None:
    """Refuse a plain form that has buffers or other tensors which the K-shot layer has no values for."""
    buffers = {own for own, buffer in plain._buffers.items() if buffer is not None}
    missing = sorted(own for own in buffers if layer._buffers.get(own) is None)
    missing += [own for own, value in vars(plain).items() if isinstance(value, Tensor) and value.is_meta]
    if missing:
        raise ValueError(
            f"layer {name!r}: a {type(layer).__name__} has no value for {', '.join(missing)} of the "
            f"{type(plain).__name__} that its conversion makes (see kshot_ext.register_conversion)"
        )


def require_own_dictionaries(model: nn.Module) -> None:
    """Refuse a dictionary that is also held in another way, which `merge` would leave as it is."""
    for holders in holders_of_tensors(model).values():
        dictionaries = [h for h in holders if isinstance(h.module, KShotModule) and h.name in h.module._parameters]
        others = [holder for holder in holders if holder not in dictionaries]
        if dictionaries and others:
            raise ValueError(
                f"{dictionaries[0]} is also {others[0]}, which would keep all copies: part them before merge"
            )


def code_of(name: str, layer: KShotModule, code: Tensor | None) -> Tensor | None:
    if not list(layer.parameters()):
        return None
    code = layer.resolve_code(code)
    if code.dim() != 1:
        raise ValueError(
            f"layer {name!r}: code must have shape [K]: a plain layer has one weight; got {list(code.shape)}"
        )
    return code


def dictionary(layer: KShotModule, name: str) -> Tensor:
    """All copies of a parameter, also of one that a parametrisation computes."""
    if not parametrize.is_parametrized(layer, name):
        return cast("Tensor", layer._parameters[name])
    computing = _parametrizations(layer).eval()
    trained = any(parameter.requires_grad for parameter in computing[name].parameters())
    values: Tensor = getattr(layer, name)
    return values.detach().requires_grad_(trained)


def _parametrizations(layer: nn.Module) -> nn.ModuleDict:
    """By the names of the parameters that they compute."""
    return cast("nn.ModuleDict", layer.parametrizations)


def leading(tensor: Tensor, shape: torch.Size) -> Tensor:
    """The leading part of a tensor, as a tensor of its own."""
    return tensor if tensor.shape == shape else tensor[tuple(map(slice, shape))].clone()
