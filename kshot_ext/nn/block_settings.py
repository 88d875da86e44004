"""What decides what the forward of a block does: its code, what it calls, and the attributes that it looks at.

All of it may change between two calls, so each call looks again: `settings_of`.
"""

from __future__ import annotations

import ast
from types import FunctionType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kshot_ext.nn.memoised import memoised
from kshot_ext.nn.method_source import attribute_of, dotted_path, local_names, method_of, tree_that_runs, value_of_path

_FUNCTIONS = (
    torch.add, torch.cat, torch.flatten, torch.mean, torch.mul, torch.relu, torch.sigmoid,
    F.adaptive_avg_pool2d, F.avg_pool2d, F.dropout, F.gelu, F.hardsigmoid, F.hardswish, F.interpolate, F.leaky_relu,
    F.max_pool2d, F.pad, F.relu, F.relu6, F.sigmoid, F.silu, F.tanh,
)  # fmt: skip
ALWAYS_FALSE = (torch.jit.is_scripting,)
KNOWN_PLACES = {id(function): place for place, function in enumerate((*_FUNCTIONS, *ALWAYS_FALSE))}
"""The functions of torch that plain forwards may call, by their identity: names may stand for other ones tomorrow."""
_COUNTED = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
_ABSENT = object()


class Setting(NamedTuple):
    """What a branch may go by of an attribute of a block.

    Attributes:
        kind: of a number, a text or None its type; of a part `nn.Module`, of a tensor in the tables of the block
            `Tensor`, of a method of its class `FunctionType`; `object` of all else.
        value: the value itself; of a part whether it counts as true, or None if its own code says so.
    """

    kind: type
    value: Any = None


class Settings(NamedTuple):
    """All that decides what the forward of a block does with an input; equal ones do the same.

    Attributes:
        methods: the functions that are its code.
        functions: what they call by names out of their module, as places in `KNOWN_PLACES`, or None.
        attributes: what the block's attributes are.
    """

    methods: tuple[Any, ...]
    functions: tuple[int | None, ...]
    attributes: tuple[tuple[str, Setting], ...]


def settings_of(block: nn.Module, kind: type[nn.Module]) -> Settings:
    """What the forward of `kind` looks at in a block, as it is now."""
    code = _code_of(kind)
    functions = tuple(KNOWN_PLACES.get(id(value_of_path(function.__globals__, path))) for function, path in code.calls)
    return Settings(code.methods, functions, tuple((name, _setting(block, name)) for name in code.attributes))


_NOTHING, _OTHER, _TENSOR, _METHOD = (Setting(kind) for kind in (type(None), object, Tensor, FunctionType))
_PART = {truth: Setting(nn.Module, truth) for truth in (True, False, None)}


def _setting(block: nn.Module, name: str) -> Setting:
    """Every call of a block asks for each of its attributes, so this looks where Python and torch would, itself."""
    members = vars(block)
    value: Any = getattr(type(block), name, _ABSENT)
    if hasattr(type(value), "__get__"):  # a method, or what computes a value whenever it is looked at
        return _METHOD if isinstance(value, FunctionType) and name not in members else _OTHER
    if name in members:
        value = members[name]
    elif value is _ABSENT:
        part = members["_modules"].get(name)
        if part is not None:
            return _PART[_truth(part)]
        owns = members["_parameters"].get(name) is not None or members["_buffers"].get(name) is not None
        return _TENSOR if owns else _NOTHING
    kind = type(value)
    if kind is float:
        return Setting(kind, value.hex())  # which tells zeros of both signs apart, and knows what is no number
    if kind in (bool, int, str):
        return Setting(kind, value)
    return _NOTHING if value is None else _OTHER  # tensors and parts that are in no table are constants to a trace


def _truth(part: nn.Module) -> bool | None:
    """Whether a part counts as true; None if its own code says so."""
    counts = _counts(type(part))
    return bool(part._modules) if counts else None if counts is None else True


@memoised(4096)
def _counts(kind: type[nn.Module]) -> bool | None:
    """Whether a class of modules is true where it has parts; None if it decides in a way of its own."""
    length = getattr(kind, "__len__", None)
    if any(length is each.__len__ for each in _COUNTED):
        return True
    return False if length is None and not hasattr(kind, "__bool__") else None


class _Code(NamedTuple):
    """The code of a forward: its functions, and the names that it looks at.

    Attributes:
        names, methods: of the forward and the methods that it mentions.
        attributes: the names behind `self.` in them.
        calls: names out of modules that they call, as `F.relu`, each with its function.
    """

    names: tuple[str, ...]
    methods: tuple[Any, ...]
    attributes: tuple[str, ...]
    calls: tuple[tuple[FunctionType, tuple[str, ...]], ...]


_codes: dict[type[nn.Module], _Code] = {}


def _code_of(kind: type[nn.Module]) -> _Code:
    """The code of the forward of a class, as it is now: methods of classes may be replaced."""
    code = _codes.get(kind)
    if code is not None:
        for name, method in zip(code.names, code.methods):
            if getattr(kind, name, None) is not method:
                break
        else:
            return code
    code = _codes[kind] = _read_code(kind)
    return code


def _read_code(kind: type[nn.Module]) -> _Code:
    names, attributes = ["forward"], set()
    calls: dict[tuple[FunctionType, tuple[str, ...]], None] = {}
    for method in names:
        function = method_of(kind, method)
        tree = None if function is None else tree_that_runs(function)
        if function is None or tree is None:
            continue
        receiver = function.__code__.co_varnames[0]
        for node in ast.walk(tree):
            name = attribute_of(node, receiver)
            if name is not None:
                attributes.add(name)
                if method_of(kind, name) is not None and name not in names:
                    names.append(name)
            elif isinstance(node, ast.Call):
                path = dotted_path(node.func)
                if path and path[0] not in local_names(function):
                    calls[function, path] = None
    methods = tuple(getattr(kind, name, None) for name in names)
    return _Code(tuple(names), methods, tuple(sorted(attributes)), tuple(calls))
