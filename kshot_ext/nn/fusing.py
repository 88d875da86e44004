"""Which containers of a model take the fused form, and which of its layers then are links of chains."""

from __future__ import annotations

from abc import ABCMeta
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

from torch import nn

from kshot_ext.nn.block_program import ends_in_product, program_of
from kshot_ext.nn.conv import KShotConv2d
from kshot_ext.nn.fused_block import FusedBlock
from kshot_ext.nn.fused_elastic_block import FusedElasticBlock, is_elastic_block
from kshot_ext.nn.fused_form import Fused, TakesValues, fused_kind, plain_kind
from kshot_ext.nn.fused_pool import FusedAvgPool, is_plain_pool
from kshot_ext.nn.fused_sequence import FusedSequence
from kshot_ext.nn.links import is_norm, obstacle
from kshot_ext.nn.sliced.convolution import SlicedConv
from kshot_ext.nn.watched import is_free

_HAVE_NO_FORWARD = (nn.ModuleList, nn.ModuleDict, nn.ParameterList, nn.ParameterDict)
_CONTAINERS = (FusedSequence, FusedBlock)
_OUR_NAMES = ("run", "plain_kind")  # of the fused form, which would hide a part or method of the block's own
_OWN_COPIES = ("__copy__", "__deepcopy__", "__reduce__", "__reduce_ex__", "__slots__")
_OWN_CALLS = ("__call__", "_call_impl", "_wrapped_call_impl")
_OWN_LOOKS = ("__getattr__", "__getattribute__")


def fuse_modules(model: nn.Module) -> None:
    """Give, in place, the containers of `model` that have something to fuse the form that does, and average pools."""
    for module in reversed(list(model.modules())):  # parts come behind what holds them
        if is_plain_pool(module):
            module.__class__ = fused_kind(FusedAvgPool, type(module))
        elif is_elastic_block(module):
            module.__class__ = fused_kind(FusedElasticBlock, type(module))
        elif not isinstance(module, TakesValues) and _has_parts_to_fuse(module) and _obstacle(module) is None:
            module.__class__ = fused_kind(FusedSequence if _is_sequence(module) else FusedBlock, type(module))


def fuse_sequence(network: nn.Module) -> None:
    """Let values pass unfinished from part to part of a sequence, in place; its parts are left as they are."""
    if type(network) is nn.Sequential and any(isinstance(part, TakesValues) for part in network):
        network.__class__ = fused_kind(FusedSequence, nn.Sequential)


def chains_of(model: nn.Module) -> tuple[dict[str, str], dict[str, str]]:
    """The names of the links of chains, each with that of its norm, and of other convolutions, each with the reason."""
    names = {module: name for name, module in model.named_modules()}
    follower: dict[nn.Module, nn.Module] = {}
    parents: dict[nn.Module, nn.Module] = {}
    for module in names:
        parents.update(dict.fromkeys((part for part in module._modules.values() if part is not None), module))
        if isinstance(module, _CONTAINERS):
            follower.update(_pairs(module))
    fused, left = {}, {}
    for conv, name in names.items():
        if not isinstance(conv, (nn.Conv2d, KShotConv2d, SlicedConv)) or isinstance(parents.get(conv), SlicedConv):
            continue
        norm = follower.get(conv)
        reason = _why_apart(conv, norm, parents.get(conv)) or obstacle(conv)
        if reason is None:
            fused[name] = names[norm]
        else:
            left[name] = reason
    return fused, left


def _why_apart(conv: nn.Module, norm: nn.Module | None, parent: nn.Module | None) -> str | None:
    """What keeps a convolution that could be a link from being one."""
    if norm is None:
        reason = None if parent is None or isinstance(parent, Fused) else _obstacle(parent)
        return reason or "no batch norm alone reads its output right behind it"
    for layer in (conv, norm):
        if not is_free(layer):
            return f"a hook, or a forward of its own, looks at {'it' if layer is conv else 'its norm'}"
    return None


def _pairs(module: nn.Module) -> Iterator[tuple[nn.Module, nn.Module]]:
    """The parts of a fused container, each with the batch norm that alone reads its output."""
    if isinstance(module, FusedSequence):
        pairs: Iterator[tuple[Any, Any]] = pairwise(module._modules.values())
    else:
        program = program_of(module, plain_kind(module))
        steps = () if isinstance(program, str) else program
        targets = [(step.target, steps[step.follower].target) for step in steps if step.follower is not None]
        pairs = ((module.get_submodule(part), module.get_submodule(next_part)) for part, next_part in targets)
    return ((layer, norm) for layer, norm in pairs if is_norm(norm))


def _has_parts_to_fuse(module: nn.Module) -> bool:
    if isinstance(module, _HAVE_NO_FORWARD):
        return False
    parts = [part for part in module._modules.values() if part is not None]
    return any(isinstance(part, _CONTAINERS) or is_norm(part) for part in parts) or (bool(parts) and _scales(module))


def _scales(module: nn.Module) -> bool:
    """Whether a module puts out a product that may wait."""
    if _is_sequence(module) or _obstacle(module) is not None:
        return False
    program = program_of(module, type(module))
    return not isinstance(program, str) and ends_in_product(program)


def _counts_subclasses(kind: type[Any]) -> bool:
    """Whether a class has something to do where a class is made of it."""
    return kind is not object and "__init_subclass__" in vars(kind)


def _is_sequence(module: nn.Module) -> bool:
    kind: Any = type(module)
    sequential = isinstance(module, nn.Sequential) and kind.forward is nn.Sequential.forward
    return sequential and kind.__iter__ is nn.Sequential.__iter__


def _obstacle(module: nn.Module) -> str | None:
    """What keeps a container with parts to fuse from taking the fused form."""
    kind = type(module)
    if isinstance(module, _HAVE_NO_FORWARD):
        return f"a {kind.__name__} does not tell in which order its parts run"
    if "forward" in vars(module):
        return f"the forward of its {kind.__name__} was replaced"
    for name in _OUR_NAMES:
        if hasattr(module, name):
            return f"a {kind.__name__} has a {name!r} of its own"
    if any(name in vars(ancestor) for ancestor in kind.__mro__ if ancestor is not object for name in _OWN_COPIES):
        return f"a {kind.__name__} is copied in a way of its own"
    if any(getattr(kind, name) is not getattr(nn.Module, name) for name in _OWN_CALLS):
        return f"a {kind.__name__} is called in a way of its own"
    if any(getattr(kind, name) is not getattr(nn.Module, name) for name in _OWN_LOOKS):
        return f"a {kind.__name__} finds its attributes in a way of its own"
    if type(kind) not in (type, ABCMeta) or any(map(_counts_subclasses, kind.__mro__)):
        return f"a {kind.__name__} does something where a class is made of it"
    if _is_sequence(module):
        return None
    if kind.__module__.startswith(("torch.", "kshot_ext.nn.")):
        return f"a {kind.__name__} is no block of layers"
    program = program_of(module, kind)
    return f"in {kind.__name__}: {program}" if isinstance(program, str) else None
