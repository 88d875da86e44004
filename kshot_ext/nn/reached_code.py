"""Which Python functions a model's forward reaches, without running it.

A method is reached if reached code mentions its name, on whatever object. That finds too many rather than too few.
"""

from __future__ import annotations

import ast
import functools
import inspect
import os
import sysconfig
import textwrap
import tokenize
from collections.abc import Callable, Iterable, Iterator
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import torch
from torch import nn

from kshot_ext.nn.fused_form import plain_kind
from kshot_ext.nn.memoised import memoised

_TORCH = os.path.dirname(torch.__file__) + os.sep
_CALLED_BY_PYTHON = ("forward", "__call__", "__getattr__", "__getattribute__", "__getitem__", "__iter__")
_PYTHON = sysconfig.get_paths()["stdlib"] + os.sep


def reached_functions(
    modules: Iterable[nn.Module], names: Iterable[str] = ()
) -> dict[tuple[Any, ...], list[FunctionType]]:
    """For each class of modules the functions that a forward reaches: its methods, if code mentions their names.

    Args:
        modules: those whose methods and hooks are followed.
        names: methods that others call, as hooks.
    """
    mentioned = {*_CALLED_BY_PYTHON, *names}
    keys = {code_key(module): module for module in modules}
    while True:
        before = len(mentioned)
        reached = {}
        for key, module in keys.items():
            roots = [f for name in mentioned for f in _methods(plain_kind(module), name)] + list(_functions_on(module))
            reached[key] = list(with_callees(roots, functools.partial(methods_of_names, plain_kind(module))))
            for function in reached[key]:
                mentioned |= names_in(function.__code__)
        if len(mentioned) == before:
            return reached


def methods_of_names(kind: type, names: Iterable[str]) -> Iterator[FunctionType]:
    for name in names:
        yield from _methods(kind, name)


def _methods(kind: type, name: str) -> Iterator[FunctionType]:
    """What `name` is in a module class: the method itself, and those that it calls by `super()`."""
    for ancestor in kind.__mro__:
        if ancestor not in (nn.Module, object) and name in vars(ancestor):
            calls_super = False
            for function in _functions_in(vars(ancestor)[name]):
                calls_super |= "super" in names_in(function.__code__)
                yield function
            if not calls_super:
                return


def with_callees(
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
        names = names_in(function.__code__)
        queue.extend(methods(names))
        cells = [cell.cell_contents for cell in function.__closure__ or () if not _is_empty(cell)]
        found = [function.__globals__[name] for name in names if name in function.__globals__] + cells
        for value in found:
            members = vars(value) if isinstance(value, (ModuleType, type)) else {}
            named = [members[name] for name in names if name in members]
            queue.extend(f for each in (value, *named) for f in _functions_in(each) if not is_library(f))


def _functions_in(value: Any) -> Iterator[FunctionType]:
    """The Python functions of a method, property, partial or decorated function."""
    if isinstance(value, property):
        value = value.fget
    elif isinstance(value, (functools.partial, functools.cached_property)):
        value = value.func
    elif isinstance(value, (classmethod, staticmethod, MethodType)):
        value = value.__func__
    if not isinstance(value, (FunctionType, type)):
        value = getattr(type(value), "__call__", None)  # noqa: B004
    if isinstance(value, FunctionType):
        yield value
        inner = inspect.unwrap(value)
        if inner is not value and isinstance(inner, FunctionType):
            yield inner


def is_library(function: FunctionType) -> bool:
    """Whether a function is of torch or of Python itself."""
    place = function.__code__.co_filename
    if place.startswith(_TORCH):
        return True
    return place.startswith(_PYTHON) and "-packages" + os.sep not in place


def _is_empty(cell: Any) -> bool:
    try:
        return cell.cell_contents is None
    except ValueError:  # a cell not filled yet
        return True


@memoised(4096)
def tree_of(function: FunctionType) -> ast.AST | None:
    """The syntax tree of a function; None if its source is not there, or is a part of a line."""
    try:
        return ast.parse(textwrap.dedent(inspect.getsource(function)))
    except (OSError, TypeError, ValueError, SyntaxError, tokenize.TokenError):
        return None


@memoised(4096)
def names_in(code: CodeType) -> frozenset[str]:
    """Names of attributes and globals in a code object and those inside it, and strings that getattr may be given."""
    names = set(code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            names |= names_in(constant)
        elif isinstance(constant, str) and "getattr" in code.co_names:
            names.add(constant)
    return frozenset(names)


def code_key(module: nn.Module) -> tuple[Any, ...]:
    """Equal for modules that run the same code: of one class, with the same functions put on the module itself."""
    return plain_kind(module), tuple(_functions_on(module))


def _functions_on(module: nn.Module) -> Iterator[FunctionType]:
    for value in callables_on(module):
        yield from _functions_in(value)


def callables_on(module: nn.Module) -> Iterator[Any]:
    """A forward that hides that of the class, and hooks."""
    tables = (module._forward_pre_hooks, module._forward_hooks, module._backward_pre_hooks, module._backward_hooks)
    yield vars(module).get("forward")
    for table in tables:
        yield from table.values()


@memoised(1024)
def methods_of(kind: type) -> frozenset[FunctionType]:
    """The functions of a class whose first argument is the object."""
    members = [member for ancestor in kind.__mro__ for member in vars(ancestor).values()]
    return frozenset(f for each in members if not isinstance(each, staticmethod) for f in _functions_in(each))
