"""Which layers' tensors a model's code reads itself, past the layers' forward.

`F.linear(x, self.proj.weight)` in a parent's forward works with a plain layer, not with a K-shot one, whose weight has
one dimension more; and `isinstance(layer, nn.Linear)` takes another branch. So the code that a forward can reach is
read for such expressions. Where an expression does not tell which layer it means, all that it may mean count.
"""

from __future__ import annotations

import ast
import builtins
import dis
import functools
import inspect
import textwrap
import tokenize
from collections.abc import Callable, Iterator
from types import FunctionType, MethodType
from typing import Any, NamedTuple

from torch import nn

from kshot_ext.nn.fast_paths import reads_for_fast_path_only
from kshot_ext.nn.forms import KSHOT_CLASSES
from kshot_ext.nn.reached_code import code_key, methods_of, names_in, reached_functions, with_callees

_TABLES = frozenset({"parameters", "named_parameters", "state_dict", "_parameters"})
_TENSORS = _TABLES | {"weight", "bias", "_conv_forward"}
_TELLS_NO_VALUES = frozenset({"dtype", "device", "requires_grad", "is_cuda", "layout"})
_WALKS = frozenset({"modules", "named_modules", "get_submodule"})
_LAYER_CLASSES = frozenset(kind.__name__ for plain in KSHOT_CLASSES for kind in plain.__mro__) - {"Module", "object"}
_ITEM = "[]"


class _Read(NamedTuple):
    """`root.a.b.weight`: whether the root is the function's first argument, the names (a, b), and if all inside b."""

    from_first_argument: bool
    path: tuple[str, ...]
    whole: bool


def layers_read_by_code(model: nn.Module) -> dict[nn.Module, str]:
    """The modules whose tensors or classes code of `model` reads, each with the function that reads.

    Args:
        model: any module. The forwards of its parts are read, and what they call.
    """
    parents = [(name, module) for name, module in model.named_modules() if module._modules]
    reached = reached_functions([module for _, module in parents])
    readers: dict[nn.Module, str] = {}
    for _, parent in parents:
        for function in reached[code_key(parent)]:
            if reads_for_fast_path_only(parent, function):
                continue
            for read in _reads(function):
                for layer in _layers_meant(parent, function, read):
                    readers.setdefault(layer, function.__qualname__)
    return readers


def uses_its_module(hook: Callable) -> bool:
    """Whether a hook's code uses the module that it is given, or reads tensors of one; True if it cannot be seen."""
    bound = 0  # arguments before the module
    while not isinstance(hook, FunctionType):
        if isinstance(hook, functools.partial):
            bound, hook = bound + len(hook.args), hook.func
        elif isinstance(hook, MethodType):
            bound, hook = bound + 1, hook.__func__
        elif isinstance(vars(type(hook)).get("__call__"), FunctionType):
            bound, hook = bound + 1, vars(type(hook))["__call__"]
        else:
            return True
    code = hook.__code__
    position = bound
    if bound >= code.co_argcount:
        if not code.co_flags & inspect.CO_VARARGS:
            return True
        position = code.co_argcount + code.co_kwonlyargcount  # that of *arguments
    module = code.co_varnames[position]
    loaded = [each for step in dis.get_instructions(code) for each in _as_tuple(step.argval)]
    return module in loaded or module in code.co_cellvars or any(_reads(f) for f in with_callees([hook], lambda _: ()))


def _as_tuple(value: Any) -> tuple:
    return value if isinstance(value, tuple) else (value,)


@functools.lru_cache(maxsize=4096)
def _reads(function: FunctionType) -> frozenset[_Read]:
    names = names_in(function.__code__)
    if not names & (_TENSORS | {"isinstance", "type"}):
        return frozenset()
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    except (
        OSError,
        TypeError,
        ValueError,
        SyntaxError,
        tokenize.TokenError,
    ):  # no source, or a part of a line: any layer may be meant
        return frozenset({_Read(False, (), bool(names & _TABLES))} if names & (_TENSORS | _LAYER_CLASSES) else ())
    receiver = _first_argument(function)
    harmless = {id(part) for node in ast.walk(tree) for part in _told_without_values(node)}
    return frozenset(
        _read_of(owner, receiver, isinstance(node, ast.Attribute) and node.attr in _TABLES)
        for node in ast.walk(tree)
        if id(node) not in harmless and (owner := _owner_of_what_is_read(node, function)) is not None
    )


def _first_argument(function: FunctionType) -> str | None:
    return function.__code__.co_varnames[0] if function.__code__.co_argcount else None


def _told_without_values(node: ast.AST) -> list[ast.AST]:
    """`layer.weight` in `layer.weight.dtype`, and all of `next(layer.parameters())`, which asks for the same."""
    if isinstance(node, ast.Attribute) and node.attr in _TELLS_NO_VALUES:
        return [node.value]
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "next":
        return list(ast.walk(node))
    return []


def _owner_of_what_is_read(node: ast.AST, function: FunctionType) -> ast.expr | None:
    """`layer` in `layer.weight`, `getattr(layer, "weight")`, `isinstance(layer, nn.Linear)`; None for other nodes."""
    if isinstance(node, ast.Attribute) and node.attr in _TENSORS:
        return node.value
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.args:
        name, first = node.func.id, node.args[0]
        if name == "type" and len(node.args) == 1 and names_in(function.__code__) & _LAYER_CLASSES:
            return first
        if name == "isinstance" and len(node.args) == 2 and _may_be_a_layer_class(node.args[1], function):
            return first
        if name == "getattr" and len(node.args) > 1:
            asked = node.args[1]
            on_itself = isinstance(first, ast.Name) and first.id == _first_argument(function)
            if not on_itself and (not isinstance(asked, ast.Constant) or asked.value in _TENSORS):
                return first
    return None


def _may_be_a_layer_class(node: ast.expr, function: FunctionType) -> bool:
    """Whether one of the classes in an expression is that of a layer, or cannot be told."""
    if isinstance(node, ast.Tuple):
        return any(_may_be_a_layer_class(part, function) for part in node.elts)
    if isinstance(node, ast.BinOp):
        return any(_may_be_a_layer_class(part, function) for part in (node.left, node.right))
    if isinstance(node, ast.Attribute):
        of_an_object = isinstance(node.value, ast.Name) and node.value.id not in function.__globals__
        return node.attr in _LAYER_CLASSES or of_an_object
    if not isinstance(node, ast.Name):
        return not isinstance(node, ast.Constant)
    value = {**vars(builtins), **function.__globals__}.get(node.id)
    classes = value if isinstance(value, tuple) else (value,)
    return any(not isinstance(kind, type) or kind.__name__ in _LAYER_CLASSES for kind in classes)


def _read_of(owner: ast.expr, receiver: str | None, whole: bool) -> _Read:
    path: list[str] = []
    while isinstance(owner, (ast.Attribute, ast.Subscript)):
        path.append(owner.attr if isinstance(owner, ast.Attribute) else _ITEM)
        owner = owner.value
    return _Read(isinstance(owner, ast.Name) and owner.id == receiver, tuple(reversed(path)), whole)


def _layers_meant(parent: nn.Module, function: FunctionType, read: _Read) -> Iterator[nn.Module]:
    found = []
    if read.from_first_argument and function in methods_of(type(parent)):
        found = _children_at(parent, read.path)
        if not read.path and not read.whole:  # `self.weight`: a tensor of its own
            return
    if not found:
        last = read.path[-1] if read.path else _ITEM
        if last != _ITEM:
            found = [m for name, m in parent.named_modules() if name and name.rsplit(".", 1)[-1] == last]
        elif names_in(function.__code__) & _WALKS:
            found = list(parent.modules())
        else:
            found = list(_children_through_containers(parent))
    for module in found:
        yield from module.modules() if read.whole else (module,)


def _children_at(parent: nn.Module, path: tuple[str, ...]) -> list[nn.Module]:
    found = [parent]
    for name in path:
        if name == _ITEM:
            found = [child for module in found for child in module.children()]
        else:
            found = [child for module in found if (child := module._modules.get(name)) is not None]
    return found


def _children_through_containers(parent: nn.Module) -> Iterator[nn.Module]:
    for child in parent.children():
        if isinstance(child, (nn.ModuleList, nn.ModuleDict, nn.Sequential)):
            yield from _children_through_containers(child)
        else:
            yield child
