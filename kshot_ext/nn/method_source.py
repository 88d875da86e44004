"""The code of a method as a syntax tree, and what the names in it mean."""

from __future__ import annotations

import ast
import dis
import inspect
from collections.abc import Iterator
from types import CodeType, FunctionType, ModuleType
from typing import Any

from torch import nn

from kshot_ext.nn.memoised import memoised
from kshot_ext.nn.reached_code import tree_of

_SAY_NOTHING = frozenset({"CACHE", "COPY_FREE_VARS", "EXTENDED_ARG", "NOP", "PRECALL", "PUSH_NULL", "RESUME"})
_ABSENT = object()


def method_of(kind: type[nn.Module], name: str) -> FunctionType | None:
    """The method of a class, if it is a function of Python that takes `self` and that nothing is wrapped around."""
    found = inspect.getattr_static(kind, name, None)
    own = isinstance(found, FunctionType) and not hasattr(found, "__wrapped__")
    return found if own and found.__code__.co_argcount else None


@memoised(4096)
def tree_that_runs(function: FunctionType) -> ast.FunctionDef | None:
    """The syntax tree of a function, if it is the tree of the code that runs.

    The source may have changed since, or been changed on its way to the interpreter; and names may mean something else
    than they seem to: those of an enclosing function, and private ones of a class. Then codes differ.
    """
    tree: Any = tree_of(function)
    found = tree.body[0] if isinstance(tree, ast.Module) and len(tree.body) == 1 else None
    if not isinstance(found, ast.FunctionDef):
        return None
    compiled = compile(tree, function.__code__.co_filename, "exec", dont_inherit=True)
    codes = [each for each in compiled.co_consts if isinstance(each, CodeType) and each.co_name == found.name]
    return found if any(_does_the_same(each, function.__code__) for each in codes) else None


def _does_the_same(one: CodeType, other: CodeType) -> bool:
    return list(_instructions(one)) == list(_instructions(other))


def _instructions(code: CodeType) -> Iterator[tuple[str, str]]:
    """What a code does, without what depends on where it stands, or on which names its file imports."""
    for each in dis.get_instructions(code):
        if each.opname in _SAY_NOTHING:
            continue
        name = each.opname.replace("CALL_METHOD", "CALL_FUNCTION").replace("LOAD_METHOD", "LOAD_ATTR")
        leads_away = each.opcode in dis.hasjrel or each.opcode in dis.hasjabs
        yield name, "" if leads_away or isinstance(each.argval, CodeType) else repr(each.argval)


def attribute_of(node: ast.AST, receiver: str) -> str | None:
    """`name` of `self.name`, or of `getattr(self, "name", None)`."""
    if isinstance(node, ast.Attribute):
        return node.attr if isinstance(node.value, ast.Name) and node.value.id == receiver else None
    if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "getattr"):
        return None
    of_self = len(node.args) == 3 and isinstance(node.args[0], ast.Name) and node.args[0].id == receiver
    if not of_self or node.keywords:
        return None
    name, default = node.args[1:]
    if not (isinstance(name, ast.Constant) and isinstance(default, ast.Constant) and default.value is None):
        return None
    return name.value if isinstance(name.value, str) else None


def local_names(function: FunctionType) -> tuple[str, ...]:
    """The names that a function gives values to, its arguments among them."""
    return function.__code__.co_varnames + function.__code__.co_cellvars


def dotted_path(node: ast.expr) -> tuple[str, ...]:
    """`("torch", "nn", "relu")` of `torch.nn.relu`; empty for anything but names."""
    if isinstance(node, ast.Name):
        return (node.id,)
    before = dotted_path(node.value) if isinstance(node, ast.Attribute) else ()
    return (*before, node.attr) if isinstance(node, ast.Attribute) and before else ()


def value_of_path(names: dict[str, Any], path: tuple[str, ...]) -> Any:
    """What a path stands for that begins with a global name and goes through modules of Python."""
    value = names.get(path[0], _ABSENT)
    for name in path[1:]:
        value = vars(value).get(name, _ABSENT) if isinstance(value, ModuleType) else _ABSENT
    return value
