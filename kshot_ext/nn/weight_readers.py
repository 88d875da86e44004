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
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import FunctionType, MethodType
from typing import Any, NamedTuple

from torch import nn

from kshot_ext.nn.conversions import conversion_of, names_of_kinds
from kshot_ext.nn.escapes import escaping_modules, lets_escape, modules_in
from kshot_ext.nn.fast_paths import reads_for_fast_path_only
from kshot_ext.nn.fused_form import plain_kind
from kshot_ext.nn.memoised import memoised
from kshot_ext.nn.narrowing import Sliced
from kshot_ext.nn.reached_code import (
    callables_on,
    code_key,
    is_library,
    methods_of,
    methods_of_names,
    names_in,
    reached_functions,
    tree_of,
    with_callees,
)

_TABLES = frozenset({"parameters", "named_parameters", "state_dict", "_parameters", "get_parameter", "__dict__"})
_TENSORS = _TABLES | {"weight", "bias", "_conv_forward"}
_BY_NAME = frozenset({"getattr", "__getattr__", "__getattribute__", "vars"})
_TELLS_NO_VALUES = frozenset({"dtype", "device", "requires_grad", "is_cuda", "layout"})
_WALKS = frozenset({"modules", "named_modules", "get_submodule"})
_ITEM = "[]"
_TABLES_OF_MODULES = frozenset(vars(nn.Module()))
_READS = "reads its weight or asks for its type"
_HANDS_ON = "hands it to code that cannot be read"


class _Read(NamedTuple):
    """`root.a.b.weight`: whether the root is the function's first argument, the names (a, b), and if all inside b."""

    from_first_argument: bool
    path: tuple[str, ...]
    whole: bool


def layers_read_by_code(model: nn.Module, owner: Mapping[nn.Module, nn.Module]) -> dict[nn.Module, str]:
    """The modules whose tensors or classes code of `model` reads, or may read, each with the reason.

    Args:
        model: any module. The forwards of its parts are read, and what they call.
        owner: by module, one that may read it: its K-shot form knows of copies.
    """
    tensors = _TENSORS.union(*(kind._parameters for kind in model.modules() if conversion_of(type(kind)) is not None))
    parents = [module for module in model.modules() if module._modules and not isinstance(module, Sliced)]
    hooks = [(module, hook) for module in model.modules() for hook in callables_on(module) if hook is not None]
    of_parents = [hook for _, hook in hooks if isinstance(hook, MethodType) and hook.__self__ in parents]
    reached = reached_functions(parents, [hook.__func__.__name__ for hook in of_parents])
    readers: dict[nn.Module, str] = {}
    for parent in parents:
        for function in reached[code_key(parent)]:
            read: dict[nn.Module, str] = {}
            _read_by(parent, function, tensors, read)
            readers.update({layer: why for layer, why in read.items() if owner.get(layer) is not parent} | readers)
            if function in methods_of(plain_kind(parent)) or function in callables_on(parent):
                _note(readers, escaping_modules(parent, function), function, _HANDS_ON)
    for module, hook in hooks:
        if hook not in of_parents and not (module._modules and isinstance(hook, FunctionType)):
            _read_by_hook(model, hook, tensors, readers)
    for module in parents:
        for name, value in vars(module).items():
            if name not in _TABLES_OF_MODULES and not isinstance(value, nn.Module):
                _read_by_holder(value, tensors, readers)
    return readers


def _read_by_holder(value: Any, tensors: frozenset[str], readers: dict[nn.Module, str]) -> None:
    """What an object or partial that a module keeps reads of the layers that it holds."""
    held = [part for each in modules_in(value) for part in each.modules()]
    if not held:
        return
    values = value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple, set)) else [value]
    for each in values:
        if isinstance(each, nn.Module):  # read as a part
            continue
        function, _ = _function_of(each)
        for one in with_callees([function] if function else methods_of(type(each)), lambda _: ()):
            if not is_library(one) and _reads(one, tensors):
                _note(readers, held, one, _READS)


def _read_by_hook(
    model: nn.Module, hook: Callable[..., Any], tensors: frozenset[str], readers: dict[nn.Module, str]
) -> None:
    """What a hook of a layer, or its own forward, reads of other layers: those it names, and those it holds."""
    function, bound = _function_of(hook)
    if function is None:
        return
    owner = type(hook.__self__) if isinstance(hook, MethodType) else type(hook)
    functions = list(with_callees([function], functools.partial(methods_of_names, owner)))
    for each in functions:
        _read_by(model, each, tensors, readers, named_only=True)
    if any(_reads(each, tensors) for each in functions) or lets_escape(function, function.__code__.co_varnames[:bound]):
        held = [part for each in modules_in(hook) for part in each.modules()]
        _note(readers, held, function, _READS)


def _function_of(hook: Callable[..., Any]) -> tuple[FunctionType | None, int]:
    """The function that a hook runs, None if it cannot be seen, and how many arguments come before those given."""
    bound = 0
    while not isinstance(hook, FunctionType):
        if isinstance(hook, functools.partial):
            bound, hook = bound + len(hook.args), hook.func
        elif isinstance(hook, MethodType):
            bound, hook = bound + 1, hook.__func__
        elif isinstance(vars(type(hook)).get("__call__"), FunctionType):
            bound, hook = bound + 1, vars(type(hook))["__call__"]
        else:
            return None, bound
    return hook, bound


def _read_by(
    parent: nn.Module,
    function: FunctionType,
    tensors: frozenset[str],
    readers: dict[nn.Module, str],
    named_only: bool = False,
) -> None:
    if not reads_for_fast_path_only(parent, function):
        for read in _reads(function, tensors):
            if read.path or not named_only:
                _note(readers, _layers_meant(parent, function, read), function, _READS)


def _note(readers: dict[nn.Module, str], layers: Iterable[nn.Module], function: FunctionType, what: str) -> None:
    for layer in layers:
        readers.setdefault(layer, f"{function.__qualname__} {what}")


def uses_its_module(hook: Callable[..., Any]) -> bool:
    """Whether a hook's code uses the module that it is given, or reads tensors of one; True if it cannot be seen."""
    function, bound = _function_of(hook)
    if function is None:
        return True
    code = function.__code__
    position = bound
    if bound >= code.co_argcount:
        if not code.co_flags & inspect.CO_VARARGS:
            return True
        position = code.co_argcount + code.co_kwonlyargcount  # that of *arguments
    module = code.co_varnames[position]
    loaded = [each for step in dis.get_instructions(code) for each in _as_tuple(step.argval)]
    return (
        module in loaded or module in code.co_cellvars or any(_reads(f) for f in with_callees([function], lambda _: ()))
    )


def _as_tuple(value: Any) -> tuple[Any, ...]:
    return value if isinstance(value, tuple) else (value,)


def _reads(function: FunctionType, tensors: frozenset[str] = _TENSORS) -> frozenset[_Read]:
    return _reads_given(function, tensors, names_of_kinds())


@memoised(4096)
def _reads_given(function: FunctionType, tensors: frozenset[str], layer_classes: frozenset[str]) -> frozenset[_Read]:
    names = names_in(function.__code__)
    if not names & (tensors | _BY_NAME | {"isinstance", "type"}):
        return frozenset()
    tree = tree_of(function)
    if tree is None:  # any layer may be meant
        return frozenset({_Read(False, (), bool(names & _TABLES))} if names & (tensors | layer_classes) else ())
    receiver = _first_argument(function)
    harmless = {id(part) for node in ast.walk(tree) for part in _told_without_values(node)}
    return frozenset(
        _read_of(owner, receiver, _asks_for_a_table(node))
        for node in ast.walk(tree)
        if id(node) not in harmless and (owner := _owner_of_what_is_read(node, function, tensors)) is not None
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


def _asks_for_a_table(node: ast.AST) -> bool:
    return _called(node) == "vars" or (isinstance(node, ast.Attribute) and node.attr in _TABLES)


def _called(node: ast.AST) -> str | None:
    return node.func.id if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) else None


def _owner_of_what_is_read(node: ast.AST, function: FunctionType, tensors: frozenset[str]) -> ast.expr | None:
    """`layer` in `layer.weight`, `getattr(layer, "weight")`, `isinstance(layer, nn.Linear)`; None for other nodes."""
    if isinstance(node, ast.Attribute) and node.attr in tensors:
        return node.value
    if isinstance(node, ast.Attribute) and node.attr in _BY_NAME and _called(node.value) != "super":
        return node.value
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.args:
        name, first = node.func.id, node.args[0]
        if name == "type" and len(node.args) == 1 and names_in(function.__code__) & names_of_kinds():
            return first
        if name == "isinstance" and len(node.args) == 2 and _may_be_a_layer_class(node.args[1], function):
            return first
        if name == "vars":
            return first
        if name == "getattr" and len(node.args) > 1:
            asked = node.args[1]
            on_itself = isinstance(first, ast.Name) and first.id == _first_argument(function)
            if not on_itself and (not isinstance(asked, ast.Constant) or asked.value in tensors):
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
        return node.attr in names_of_kinds() or of_an_object
    if not isinstance(node, ast.Name):
        return not isinstance(node, ast.Constant)
    value = {**vars(builtins), **function.__globals__}.get(node.id)
    classes = value if isinstance(value, tuple) else (value,)
    return any(not isinstance(kind, type) or kind.__name__ in names_of_kinds() for kind in classes)


def _read_of(owner: ast.expr, receiver: str | None, whole: bool) -> _Read:
    path: list[str] = []
    while isinstance(owner, (ast.Attribute, ast.Subscript)):
        path.append(owner.attr if isinstance(owner, ast.Attribute) else _ITEM)
        owner = owner.value
    return _Read(isinstance(owner, ast.Name) and owner.id == receiver, tuple(reversed(path)), whole)


def _layers_meant(parent: nn.Module, function: FunctionType, read: _Read) -> Iterator[nn.Module]:
    found = []
    if read.from_first_argument and function in methods_of(plain_kind(parent)):
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
