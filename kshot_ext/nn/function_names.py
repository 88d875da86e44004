"""What the names in a Python function stand for, as far as its code and globals tell without running it."""

from __future__ import annotations

import ast
import builtins
import inspect
import sys
from collections.abc import Iterable
from types import FunctionType
from typing import Any, NamedTuple


class Parameters(NamedTuple):
    """A function's parameters that take arguments by position, by name, and all the rest of those by position."""

    positional: tuple[str, ...]
    named: tuple[str, ...]
    rest: tuple[str, ...]


def parameters_of(function: FunctionType, skip: int) -> Parameters:
    code = function.__code__
    end = code.co_argcount + code.co_kwonlyargcount
    rest = code.co_varnames[end : end + bool(code.co_flags & inspect.CO_VARARGS)]
    return Parameters(code.co_varnames[skip : code.co_argcount], code.co_varnames[skip:end], rest)


def parameters_inside(inner: ast.FunctionDef | ast.Lambda) -> Parameters:
    arguments = inner.args
    positional = tuple(each.arg for each in (*arguments.posonlyargs, *arguments.args))
    rest = (arguments.vararg.arg,) if arguments.vararg else ()
    return Parameters(positional, (*positional, *(each.arg for each in arguments.kwonlyargs)), rest)


def values_of_names(function: FunctionType, nodes: Iterable[ast.AST]) -> dict[str, Any]:
    """By name: builtins, globals, the closure's values and imports; None for the function's own variables."""
    code = function.__code__
    outer = {**vars(builtins), **function.__globals__, **_closure(function)}
    return outer | dict.fromkeys((*code.co_varnames, *code.co_cellvars)) | _imports(nodes)


def _closure(function: FunctionType) -> dict[str, Any]:
    found = {}
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or ()):
        try:
            found[name] = cell.cell_contents
        except ValueError:  # not filled yet
            continue
    return found


def _imports(nodes: Iterable[ast.AST]) -> dict[str, Any]:
    """What a function imports itself, of what is imported already."""
    found: dict[str, Any] = {}
    for node in nodes:
        if isinstance(node, ast.ImportFrom) and not node.level:
            members = vars(sys.modules[node.module]) if node.module in sys.modules else {}
            found.update({each.asname or each.name: members.get(each.name) for each in node.names})
        elif isinstance(node, ast.Import):
            for each in node.names:
                name = each.asname or each.name.split(".")[0]
                found[name] = sys.modules.get(each.name if each.asname else name)
    return found
