"""Which layers' tensors a model's code reads itself, past the layers' forward.

`F.linear(x, self.proj.weight)` in a parent's forward works with a plain layer, not with a K-shot one, whose weight has
one dimension more; and `isinstance(layer, nn.Linear)` takes another branch. So the code that a forward can reach is
read for such expressions. Where an expression does not tell which layer it means, all that it may mean count.
"""

from __future__ import annotations

import ast
import dis
import functools
import inspect
import sys
import textwrap
from collections.abc import Callable, Iterable, Iterator
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any, NamedTuple

from torch import nn

from kshot_ext.nn.fast_paths import reads_for_fast_path_only
from kshot_ext.nn.forms import KSHOT_CLASSES

_TENSORS = frozenset({"weight", "bias", "parameters", "named_parameters", "state_dict", "_parameters", "_conv_forward"})
_TELLS_NO_VALUES = frozenset({"dtype", "device", "requires_grad", "is_cuda", "layout"})
_LAYER_CLASSES = frozenset(kind.__name__ for plain in KSHOT_CLASSES for kind in plain.__mro__) - {"Module", "object"}
_ITEM = "[]"


class _Read(NamedTuple):
    """`root.a.b.weight`: whether the root is the function's first argument, and the names (a, b)."""

    from_first_argument: bool
    path: tuple[str, ...]


def layers_read_by_code(model: nn.Module) -> dict[nn.Module, str]:
    """The modules whose tensors or classes code of `model` reads, each with the function that reads.

    Args:
        model: any module. The forwards of its parts are read, and what they call.
    """
    parents = [(name, module) for name, module in model.named_modules() if module._modules]
    reached = _reached_functions([module for _, module in parents])
    readers: dict[nn.Module, str] = {}
    for _, parent in parents:
        for function in reached[_class_key(parent)]:
            if reads_for_fast_path_only(parent, function):
                continue
            for read in _reads(function):
                from_self = read.from_first_argument and function in _methods_of(type(parent))
                for layer in _layers_meant(parent, from_self, read.path):
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
    return module in loaded or module in code.co_cellvars or any(_reads(f) for f in _with_callees([hook], lambda _: ()))


def _as_tuple(value: Any) -> tuple:
    return value if isinstance(value, tuple) else (value,)


def _class_key(module: nn.Module) -> tuple:
    """Equal for modules that run the same code: of one class, with the same functions put on the module itself."""
    return type(module), tuple(_functions_on(module))


def _functions_on(module: nn.Module) -> Iterator[FunctionType]:
    """A forward that hides that of the class, and hooks."""
    tables = (module._forward_pre_hooks, module._forward_hooks, module._backward_pre_hooks, module._backward_hooks)
    for value in (vars(module).get("forward"), *(hook for table in tables for hook in table.values())):
        yield from _functions_in(value)


@functools.lru_cache(maxsize=1024)
def _methods_of(kind: type) -> frozenset[FunctionType]:
    """The functions of a class whose first argument is the object."""
    members = [member for ancestor in kind.__mro__ for member in vars(ancestor).values()]
    return frozenset(f for each in members if not isinstance(each, staticmethod) for f in _functions_in(each))


def _reached_functions(modules: Iterable[nn.Module]) -> dict[tuple, list[FunctionType]]:
    """For each class of modules the functions that a forward reaches: its methods, if code mentions their names."""
    mentioned: set[str] = {"forward", "__call__"}
    keys = {_class_key(module): module for module in modules}
    while True:
        before = len(mentioned)
        reached = {}
        for key, module in keys.items():
            roots = [f for name in mentioned for f in _methods(type(module), name)] + list(_functions_on(module))
            reached[key] = list(_with_callees(roots, functools.partial(_methods_of_names, type(module))))
            for function in reached[key]:
                mentioned |= _names(function.__code__)
        if len(mentioned) == before:
            return reached


def _methods_of_names(kind: type, names: Iterable[str]) -> Iterator[FunctionType]:
    for name in names:
        yield from _methods(kind, name)


def _methods(kind: type, name: str) -> Iterator[FunctionType]:
    """What `name` is in a module class: the method itself, and those that it calls by `super()`."""
    for ancestor in kind.__mro__:
        if ancestor not in (nn.Module, object) and name in vars(ancestor):
            calls_super = False
            for function in _functions_in(vars(ancestor)[name]):
                calls_super |= "super" in _names(function.__code__)
                yield function
            if not calls_super:
                return


def _with_callees(
    roots: Iterable[FunctionType], methods: Callable[[Iterable[str]], Iterable[FunctionType]]
) -> Iterator[FunctionType]:
    """Functions, and those that they name, out of the reader's own code: torch and Python are known not to read."""
    queue, seen = list(roots), set()
    while queue:
        function = queue.pop()
        if function in seen:
            continue
        seen.add(function)
        yield function
        names = _names(function.__code__)
        queue.extend(methods(names))
        cells = [cell.cell_contents for cell in function.__closure__ or () if not _is_empty(cell)]
        found = [function.__globals__[name] for name in names if name in function.__globals__] + cells
        for value in found:
            members = vars(value) if isinstance(value, (ModuleType, type)) and not _is_library(value) else {}
            named = [members[name] for name in names if name in members]
            queue.extend(f for each in (value, *named) for f in _functions_in(each) if not _is_library(f))


def _functions_in(value: Any) -> Iterator[FunctionType]:
    """The Python functions of a method, property, partial or decorated function."""
    if isinstance(value, property):
        value = value.fget
    elif isinstance(value, (functools.partial, functools.cached_property)):
        value = value.func
    value = getattr(value, "__func__", value)
    if not isinstance(value, (FunctionType, type)) and isinstance(vars(type(value)).get("__call__"), FunctionType):
        value = vars(type(value))["__call__"]
    if isinstance(value, FunctionType):
        yield value
        inner = inspect.unwrap(value)
        if inner is not value and isinstance(inner, FunctionType):
            yield inner


def _is_library(value: Any) -> bool:
    name = value.__name__ if isinstance(value, ModuleType) else getattr(value, "__module__", None) or ""
    top = name.split(".")[0]
    return top == "torch" or top in sys.stdlib_module_names - {"__main__"}


def _is_empty(cell: Any) -> bool:
    try:
        return cell.cell_contents is None
    except ValueError:  # a cell not filled yet
        return True


@functools.lru_cache(maxsize=4096)
def _names(code: CodeType) -> frozenset[str]:
    """Names of attributes and globals in a code object and those inside it, and strings that getattr may be given."""
    names = set(code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            names |= _names(constant)
        elif isinstance(constant, str) and "getattr" in code.co_names:
            names.add(constant)
    return frozenset(names)


@functools.lru_cache(maxsize=4096)
def _reads(function: FunctionType) -> frozenset[_Read]:
    names = _names(function.__code__)
    asks_for_classes = bool(names & {"isinstance", "type"})
    if not names & _TENSORS and not asks_for_classes:
        return frozenset()
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    except (OSError, TypeError, SyntaxError):  # no source, or a part of a line: any layer may be meant
        return frozenset({_Read(False, ())}) if names & (_TENSORS | _LAYER_CLASSES) else frozenset()
    code = function.__code__
    receiver = code.co_varnames[0] if code.co_argcount else None
    harmless = {
        id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Attribute) and node.attr in _TELLS_NO_VALUES
    }
    return frozenset(
        _read_of(owner, receiver)
        for node in ast.walk(tree)
        if id(node) not in harmless and (owner := _owner_of_what_is_read(node, function)) is not None
    )


def _owner_of_what_is_read(node: ast.AST, function: FunctionType) -> ast.expr | None:
    """`layer` in `layer.weight`, `getattr(layer, "weight")`, `isinstance(layer, nn.Linear)`; None for other nodes."""
    if isinstance(node, ast.Attribute) and node.attr in _TENSORS:
        return node.value
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.args:
        name, first = node.func.id, node.args[0]
        if name == "type" and len(node.args) == 1 and _names(function.__code__) & _LAYER_CLASSES:
            return first
        if name == "isinstance" and len(node.args) == 2 and _names_a_layer_class(node.args[1], function):
            return first
        if name == "getattr" and len(node.args) > 1:
            asked = node.args[1]
            if not isinstance(asked, ast.Constant) or asked.value in _TENSORS:
                return first if not _is_receiver(first, function) else None
    return None


def _is_receiver(node: ast.expr, function: FunctionType) -> bool:
    code = function.__code__
    return isinstance(node, ast.Name) and code.co_argcount > 0 and node.id == code.co_varnames[0]


def _names_a_layer_class(node: ast.expr, function: FunctionType) -> bool:
    for part in ast.walk(node):
        if isinstance(part, ast.Attribute) and part.attr in _LAYER_CLASSES:
            return True
        if isinstance(part, ast.Name):
            value = function.__globals__.get(part.id)
            classes = value if isinstance(value, tuple) else (value,)
            if any(isinstance(kind, type) and kind.__name__ in _LAYER_CLASSES for kind in classes):
                return True
    return False


def _read_of(owner: ast.expr, receiver: str | None) -> _Read:
    path: list[str] = []
    while isinstance(owner, (ast.Attribute, ast.Subscript)):
        path.append(owner.attr if isinstance(owner, ast.Attribute) else _ITEM)
        owner = owner.value
    return _Read(isinstance(owner, ast.Name) and owner.id == receiver, tuple(reversed(path)))


def _layers_meant(parent: nn.Module, from_self: bool, path: tuple[str, ...]) -> Iterator[nn.Module]:
    if from_self:
        if not path:  # `self.weight`: a tensor of its own
            return
        found = [parent]
        for name in path:
            if name == _ITEM:
                found = [child for module in found for child in module._modules.values()]
            else:
                found = [module._modules[name] for module in found if name in module._modules]
        if found:
            yield from (module for module in found if module is not None)
            return
    if path and path[-1] != _ITEM:
        yield from (m for name, m in parent.named_modules() if name and name.rsplit(".", 1)[-1] == path[-1])
    else:
        yield from _children_through_containers(parent)


def _children_through_containers(parent: nn.Module) -> Iterator[nn.Module]:
    for child in parent.children():
        if isinstance(child, (nn.ModuleList, nn.ModuleDict, nn.Sequential)):
            yield from _children_through_containers(child)
        else:
            yield child
