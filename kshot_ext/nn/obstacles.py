"""Why a layer cannot become a K-shot one: what it does, holds or shares that the K-shot layer would not do, or lose."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType, ModuleType
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from kshot_ext.nn.code import KShotModule
from kshot_ext.nn.conversions import conversion_of, registered_ancestor, routing_class_of
from kshot_ext.nn.forms import kshot_form, parts_read_by, plain_form
from kshot_ext.nn.routed_conv import RoutedConv2d
from kshot_ext.nn.weight_readers import layers_read_by_code, uses_its_module
from kshot_ext.ops.gradient_slot import OwnedParameter

_DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
_CALL_HOOKS = {
    "_forward_pre_hooks": "forward pre-hook",
    "_forward_hooks": "forward hook",
    "_backward_pre_hooks": "backward pre-hook",
    "_backward_hooks": "backward hook",
}
_STATE_HOOKS = {
    "_state_dict_hooks": "state-dict hook",
    "_state_dict_pre_hooks": "state-dict pre-hook",
    "_load_state_dict_pre_hooks": "load-state-dict pre-hook",
    "_load_state_dict_post_hooks": "load-state-dict post-hook",
}
HOOK_TABLES = (*_CALL_HOOKS, *_STATE_HOOKS)
_WRAPPERS = {
    "DistributedDataParallel": "wrap the model after convert",
    "FullyShardedDataParallel": "wrap the model after convert",
    "OptimizedModule": "compile the model after convert",
    "ScriptModule": "convert the model before it is scripted",
}
_HOLD_NO_TENSORS = (nn.Module, type, ModuleType, str, bytes, int, float)
_DEEPEST = 5
"""How deep containers and objects in a module's attributes are searched for tensors."""


class Holder(NamedTuple):
    """Who holds a tensor, under which name."""

    module: nn.Module
    module_name: str
    name: str

    def __str__(self) -> str:
        return f"{self.module_name}.{self.name}" if self.module_name else self.name


def sort_layers(
    model: nn.Module, by_choice: Mapping[nn.Module, str] = MappingProxyType({})
) -> tuple[dict[str, nn.Module], dict[str, str]]:
    """The plain layers of a model that can become K-shot ones, by name, and why its other modules with tensors cannot.

    Those in `by_choice` stay, each for the reason given there.

    K-shot layers are in neither.
    """
    lists = [module for module in model.modules() if isinstance(module, parametrize.ParametrizationList)]
    parts_of_others = {part for module in lists for part in module.modules()}  # they compute another layer's tensor
    wrapped = _inside_wrappers(model)
    obstacles = {
        module: by_choice.get(module) or wrapped.get(module) or _own_obstacle(module)
        for module in model.modules()
        if conversion_of(type(module)) is not None and module not in parts_of_others
    }
    able_alone = [module for module, reason in obstacles.items() if reason is None]
    owner = {part: module for module in able_alone for part in parts_read_by(module)}
    routing = [module for module in model.modules() if routing_class_of(type(module)) is not None]
    obstacles |= {module: by_choice.get(module) or wrapped.get(module) or _added_forward(module) for module in routing}
    read = layers_read_by_code(model, owner)
    able: dict[str, nn.Module] = {}
    left: dict[str, str] = {}
    for name, module in model.named_modules():
        if isinstance(module, KShotModule | RoutedConv2d) or module in parts_of_others:
            continue
        if module in obstacles:
            reason = obstacles[module] or read.get(module)
            if reason is None:
                able[name] = module
                continue
        elif not _holds_tensors(module) and registered_ancestor(type(module)) is None:
            continue
        else:
            reason = _unknown_kind(module)
        left[name] = reason
    _leave_those_tied_to_others(model, owner, able, left)
    return able, left


def holders_of_tensors(model: nn.Module) -> dict[int, list[Holder]]:
    """By the id of each tensor of a model: who holds it, in tables or in other attributes."""
    holders: dict[int, list[Holder]] = {}
    for module_name, module in model.named_modules():
        for name, tensor in _tensors_of(module):
            holders.setdefault(id(tensor), []).append(Holder(module, module_name, name))
    return holders


def overlapping_tensors(model: nn.Module) -> dict[int, Tensor]:
    """By id, the tensors of a model that have memory in common with another one, or are expanded parameters."""
    tensors = {id(tensor): tensor for module in model.modules() for _, tensor in _tensors_of(module)}
    spans = sorted(
        (str(tensor.device), tensor.data_ptr(), tensor.data_ptr() + _extent(tensor), key)
        for key, tensor in tensors.items()
        if type(tensor) in (Tensor, nn.Parameter) and tensor.layout == torch.strided and not tensor.is_meta
        if tensor.numel()
    )
    overlapping = {key: tensors[key] for *_, key in spans if _is_expanded_parameter(tensors[key])}
    reach: tuple[str, int, int] = ("", 0, 0)  # device, end and key of the span that reaches farthest
    for device, start, end, key in spans:
        if device == reach[0] and start < reach[1]:
            overlapping.update({key: tensors[key], reach[2]: tensors[reach[2]]})
        if device != reach[0] or end > reach[1]:
            reach = device, end, key
    return overlapping


def _is_expanded_parameter(tensor: Tensor) -> bool:
    return isinstance(tensor, nn.Parameter) and any(
        size > 1 and stride == 0 for size, stride in zip(tensor.shape, tensor.stride())
    )


def _extent(tensor: Tensor) -> int:
    last = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride()))
    return (last + 1) * tensor.element_size()


def _tensors_of(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    for table in (module._parameters, module._buffers):
        yield from ((name, tensor) for name, tensor in table.items() if tensor is not None)
    for name, value in vars(module).items():
        if name not in ("_parameters", "_buffers", "_modules"):
            yield from ((name, tensor) for tensor in _tensors_in(value))


def _tensors_in(value: Any) -> Iterator[Tensor]:
    """Tensors in the containers and objects of an attribute, an optimiser's groups for one."""
    level, seen = [value], set()
    for _ in range(_DEEPEST):
        below: list[Any] = []
        for each in level:
            if isinstance(each, Tensor):
                yield each
            elif not isinstance(each, _HOLD_NO_TENSORS) and id(each) not in seen:
                seen.add(id(each))
                if isinstance(each, (list, tuple, set)):
                    below.extend(each)
                elif isinstance(each, dict) or (hasattr(each, "__dict__") and not callable(each)):
                    below.extend((each if isinstance(each, dict) else vars(each)).values())
        level = below


def _inside_wrappers(model: nn.Module) -> dict[nn.Module, str]:
    wrapped: dict[nn.Module, str] = {}
    for module in model.modules():
        kinds = {kind.__name__ for kind in type(module).__mro__ if kind.__module__.startswith("torch.")}
        for kind in kinds & _WRAPPERS.keys():
            wrapped.update(dict.fromkeys(module.modules(), f"is inside a {kind}: {_WRAPPERS[kind]}"))
    return wrapped


def _holds_tensors(module: nn.Module) -> bool:
    return any(tensor is not None for table in (module._parameters, module._buffers) for tensor in table.values())


def _unknown_kind(module: nn.Module) -> str:
    kind = type(module).__name__
    if not type(module).__module__.startswith("torch."):
        kind = f"{type(module).__module__}.{kind}"  # libraries have a Linear or LayerNorm of their own
    if isinstance(module, nn.modules.lazy.LazyModuleMixin):
        return f"{kind} does not know its shapes yet: call the model once before convert"
    if parametrize.is_parametrized(module):
        computed = " and ".join(cast("nn.ModuleDict", module.parametrizations))
        return f"its {computed} is computed (torch.nn.utils.parametrize)"
    ancestor = registered_ancestor(type(module))
    if ancestor is not None:
        return f"{kind} is a subclass of {ancestor.__name__}, and may mean something else by its weight"
    if not any(parameter is not None for parameter in module._parameters.values()):
        return f"{kind} holds buffers only, so it has nothing to learn"
    return f"{kind} has no K-shot form"


def _added_forward(layer: nn.Module) -> str | None:
    return "it has a forward of its own" if "forward" in vars(layer) else None


def _own_obstacle(layer: nn.Module) -> str | None:
    """What about a layer itself keeps it from becoming a K-shot one."""
    if any(p is not None and p.numel() == 0 for p in layer._parameters.values()):
        return "its weight or bias has no elements"
    try:
        kshot = kshot_form(layer, 1)
        plain = plain_form(kshot)
    except ValueError as error:
        return str(error)
    added = [name for name in layer._modules if name not in plain._modules]
    if added:
        return f"it holds modules of its own: {', '.join(added)}"
    return (
        _table_obstacle(layer, plain)
        or _parameter_obstacle(layer)
        or _hook_obstacle(layer)
        or _attribute_obstacle(layer, plain, kshot)
    )


def _table_obstacle(layer: nn.Module, plain: nn.Module) -> str | None:
    """Whether the layer holds what a fresh layer of its attributes does."""
    missing = plain._parameters.keys() - layer._parameters.keys()
    if missing and layer._forward_pre_hooks:
        sources = ", ".join(sorted(layer._parameters.keys() - plain._parameters.keys()))
        return f"its {' and '.join(sorted(missing))} is computed by a hook from {sources}"
    for kind, table, expected in (
        ("parameters", layer._parameters, plain._parameters),
        ("buffers", layer._buffers, plain._buffers),
    ):
        found, wanted = ({n: list(t.shape) for n, t in each.items() if t is not None} for each in (table, expected))
        if found != wanted or table.keys() != expected.keys():
            return f"its {kind} are {found}, where a {type(layer).__name__} of its attributes has {wanted}"
    border = "_reversed_padding_repeated_twice"
    if getattr(layer, "padding_mode", "zeros") != "zeros" and getattr(plain, border) != getattr(layer, border):
        return "its padding was changed after it was made"
    return None


def _parameter_obstacle(layer: nn.Module) -> str | None:
    parameters = {name: p for name, p in layer._parameters.items() if p is not None}
    for name, parameter in parameters.items():
        if type(parameter) not in (nn.Parameter, OwnedParameter) or parameter.layout != torch.strided:
            return f"its {name} is no ordinary parameter, but a {type(parameter).__name__} ({parameter.layout})"
        if parameter.dtype not in _DTYPES:
            return f"its {name} is {parameter.dtype}"
        if parameter._backward_hooks or getattr(parameter, "_post_accumulate_grad_hooks", None):
            return f"its {name} has a gradient hook, which expects the shape of a plain {name}"
    if len({(p.device, p.dtype) for p in parameters.values()}) > 1:
        return "its weight and bias differ in dtype or device"
    return None


def _hook_obstacle(layer: nn.Module) -> str | None:
    for table, kind in _STATE_HOOKS.items():
        if getattr(layer, table, None):
            return f"it has a {kind}, which expects the shapes of a plain layer"
    if layer._backward_hooks and layer._is_full_backward_hook is False:
        return "it has a backward hook of the old kind (register_backward_hook), which depends on its internals"
    for table, kind in _CALL_HOOKS.items():
        if any(map(uses_its_module, getattr(layer, table).values())):
            return f"it has a {kind} that uses the layer, and may expect a plain one"
    return None


def _attribute_obstacle(layer: nn.Module, plain: nn.Module, kshot: nn.Module) -> str | None:
    for name in vars(layer).keys() - vars(plain).keys():
        if name in vars(kshot) or hasattr(type(kshot), name):
            return f"its attribute {name!r} would hide that of the K-shot layer"
    return None


def _leave_those_tied_to_others(
    model: nn.Module, owner: dict[nn.Module, nn.Module], able: dict[str, nn.Module], left: dict[str, str]
) -> None:
    """Move layers from `able` to `left` whose parameter someone holds who does not become a K-shot layer.

    One that is left leaves those tied to it, and so on.
    """
    holders, overlapping = holders_of_tensors(model), overlapping_tensors(model)
    changed = True
    while changed:
        changed = False
        becoming = set(able.values())
        for name, layer in list(able.items()):
            reason = _tie(name, layer, becoming, holders, overlapping)
            if owner.get(layer, layer) not in becoming:
                reason = f"{type(owner[layer]).__name__}, which stays as it is, reads its weight"
            if reason is not None:
                left[name] = reason
                del able[name]
                changed = True


def _tie(
    name: str,
    layer: nn.Module,
    becoming: set[nn.Module],
    holders: dict[int, list[Holder]],
    overlapping: dict[int, Tensor],
) -> str | None:
    for own, parameter in layer._parameters.items():
        if id(parameter) in overlapping:
            return f"its {own} has memory in common with another tensor, or is expanded"
        for holder in holders.get(id(parameter), ()):
            if holder.module not in becoming or holder.name not in holder.module._parameters:
                return f"its {own} is also {holder}, which stays as it is"
    return None
