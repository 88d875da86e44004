"""Whether the forward of a block is plain to see: a fixed graph of calls of its parts, of additions and activations.

Tracing a forward writes down what it does once. That is what it always does if its code has no loop, no side effect,
and calls nothing but the block's parts, methods that are themselves plain, methods of tensors and known functions of
torch; and if it branches only by attributes of the block, whose values are looked at again in each call: `settings_of`.
"""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterable
from types import FunctionType, ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kshot_ext.nn.memoised import memoised
from kshot_ext.nn.reached_code import tree_of

_FUNCTIONS = (
    torch.add, torch.cat, torch.flatten, torch.mean, torch.mul, torch.relu, torch.sigmoid,
    F.adaptive_avg_pool2d, F.avg_pool2d, F.dropout, F.gelu, F.hardsigmoid, F.hardswish, F.interpolate, F.leaky_relu,
    F.max_pool2d, F.pad, F.relu, F.relu6, F.sigmoid, F.silu, F.tanh,
)  # fmt: skip
_ALWAYS_FALSE = (torch.jit.is_scripting,)
_LEAVE_THE_GRAPH = frozenset({"item", "tolist", "numpy", "backward", "register_hook", "data_ptr", "cpu", "detach_"})
_PARTS = (
    ast.BinOp, ast.UnaryOp, ast.BoolOp, ast.Compare, ast.Tuple, ast.List, ast.Subscript, ast.Slice, ast.keyword,
)  # fmt: skip
_MOST_METHODS = 16
_UNDECIDED = object()

Settings = tuple[tuple[str, Any], ...]


def settings_of(block: nn.Module, kind: type[nn.Module]) -> Settings:
    """What the forward of `kind` may branch by: attributes of a block, by their values or, of parts, by their kinds."""
    own = block._parameters.keys() | block._buffers.keys()
    return tuple((name, _setting(getattr(block, name, None), name in own)) for name in _attributes_read(kind))


def why_not_plain(block: nn.Module, kind: type[nn.Module]) -> str | None:
    """What keeps the forward of `kind` from being plain for this block; None if it is."""
    try:
        _Reader(block, kind).read("forward")
    except _NotPlainError as error:
        return str(error)
    return None


class _NotPlainError(Exception):
    pass


class _Empty(nn.Module):
    """Stands for parts that count as false, as sequences of no layers do."""


def _setting(value: Any, is_own: bool) -> Any:
    """A value that decides branches, or the kind of what does not; a tensor is own if the block's tables have it."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, nn.Module):
        return nn.Module if value else _Empty
    if isinstance(value, Tensor):  # tracing follows those of the tables, and takes others for constants
        return Tensor if is_own else object
    return FunctionType if inspect.ismethod(value) else type(value)


@memoised(None)
def _attributes_read(kind: type[nn.Module]) -> tuple[str, ...]:
    """The names behind `self.` in the forward of a class and in the methods that it mentions."""
    names, methods = set(), ["forward"]
    for method in methods:
        function = inspect.getattr_static(kind, method)
        tree: Any = tree_of(function) if isinstance(function, FunctionType) else None
        for node in ast.walk(tree) if tree is not None else ():
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                if node.value.id == function.__code__.co_varnames[0]:
                    names.add(node.attr)
                    if _method(kind, node.attr) is not None and node.attr not in methods:
                        methods.append(node.attr)
            elif (name := _asked_for(node, function.__code__.co_varnames[0])) is not None:
                names.add(name)
    return tuple(sorted(names))


def _asked_for(node: ast.AST, receiver: str) -> str | None:
    """`name` of `getattr(self, "name", None)`."""
    if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "getattr"):
        return None
    of_self = len(node.args) == 3 and isinstance(node.args[0], ast.Name) and node.args[0].id == receiver
    if not of_self or node.keywords:
        return None
    name, default = node.args[1:]
    if not (isinstance(name, ast.Constant) and isinstance(default, ast.Constant) and default.value is None):
        return None
    return name.value if isinstance(name.value, str) else None


def _method(kind: type[nn.Module], name: str) -> FunctionType | None:
    found = inspect.getattr_static(kind, name, None)
    own = isinstance(found, FunctionType) and not hasattr(found, "__wrapped__")
    return found if own and found.__code__.co_argcount else None


class _Reader:
    """Reads methods of one block, branch by branch; raises at the first thing that is not plain."""

    def __init__(self, block: nn.Module, kind: type[nn.Module]) -> None:
        self.block, self.kind = block, kind
        self.settings = dict(settings_of(block, kind))
        self.read_so_far: set[str] = set()
        self.function: Any = None  # the method that is being read

    def read(self, method: str) -> None:
        if method in self.read_so_far:
            return
        self.read_so_far.add(method)
        function = _method(self.kind, method)
        tree: Any = tree_of(function) if function is not None and len(self.read_so_far) <= _MOST_METHODS else None
        if tree is None:
            raise _NotPlainError(f"the code of its {method} cannot be read")
        outer, self.function = self.function, function
        self._statements(tree.body[0].body)
        self.function = outer

    def _statements(self, body: Iterable[ast.stmt]) -> None:
        for statement in body:
            if isinstance(statement, ast.If):
                self._branches(statement.test, statement.body, statement.orelse, self._statements)
            elif isinstance(statement, (ast.Return, ast.Expr)):
                self._expressions([statement.value])
            elif isinstance(statement, (ast.Assign, ast.AugAssign, ast.AnnAssign)):
                targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
                parts = [part for target in targets for part in getattr(target, "elts", [target])]
                if not all(isinstance(part, ast.Name) for part in parts):
                    self._refuse(statement, "writes to")
                if isinstance(statement, ast.AugAssign) and not isinstance(statement.op, ast.Add):
                    self._refuse(statement, "has")
                self._expressions([statement.value])
            elif not isinstance(statement, ast.Pass):
                self._refuse(statement, "has")

    def _branches(self, test: ast.expr, body: Any, otherwise: Any, read: Any) -> None:
        decided = self._decide(test)
        if decided is _UNDECIDED:
            self._expressions([test])
        if decided is _UNDECIDED or decided:
            read(body)
        if decided is _UNDECIDED or not decided:
            read(otherwise)

    def _expressions(self, nodes: Iterable[ast.expr | None]) -> None:
        for node in nodes:
            if node is None or isinstance(node, ast.Constant):
                continue
            if isinstance(node, ast.Name):
                if node.id not in self.function.__code__.co_varnames:
                    self._refuse(node, "reads")
            elif isinstance(node, ast.Attribute):
                self._attribute(node)
            elif isinstance(node, ast.Call):
                self._call(node)
            elif isinstance(node, ast.IfExp):
                self._branches(node.test, [node.body], [node.orelse], self._expressions)
            elif isinstance(node, _PARTS):
                self._expressions(part for part in ast.iter_child_nodes(node) if isinstance(part, ast.expr))
            else:
                self._refuse(node, "has")

    def _attribute(self, node: ast.Attribute) -> None:
        name = self._own_name(node)
        if name is None:
            if self._own_name(node.value) is not None and self._holds(node.value, nn.Module):
                self._refuse(node, "reads")
            self._expressions([node.value])
        elif isinstance(self.settings.get(name), type) and not self._holds(node, nn.Module, Tensor):
            self._refuse(node, "reads")

    def _call(self, node: ast.Call) -> None:
        if _asked_for(node, self.function.__code__.co_varnames[0]) is not None:
            return
        self._expressions([*node.args, *(keyword.value for keyword in node.keywords)])
        name = self._own_name(node.func)
        if name is not None:
            if self._holds(node.func, nn.Module) or (name in self.settings and self.settings[name] is None):
                return  # None cannot be called, so that such code is not reached
            if name in vars(self.block) or _method(self.kind, name) is None:
                self._refuse(node.func, "calls")
            self.read(name)
            return
        callee = self._value(node.func)
        if any(callee is each for each in (*_FUNCTIONS, *_ALWAYS_FALSE)):
            return
        func = node.func
        of_tensor = isinstance(func, ast.Attribute) and self._value(func.value) is None
        if isinstance(func, ast.Attribute) and of_tensor and func.attr not in _LEAVE_THE_GRAPH:
            self._attribute(func)
        else:
            self._refuse(func, "calls")

    def _decide(self, test: ast.expr) -> Any:
        """The value of a test that only depends on attributes of the block."""
        if isinstance(test, ast.Constant):
            return test.value
        if isinstance(test, ast.Call) and self._value(test.func) in _ALWAYS_FALSE:
            return False
        if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
            value = self._decide(test.operand)
            return value if value is _UNDECIDED else not value
        if isinstance(test, ast.BoolOp):
            values = [self._decide(each) for each in test.values]
            ends = isinstance(test.op, ast.Or)
            if any(value is not _UNDECIDED and bool(value) is ends for value in values):
                return ends
            return _UNDECIDED if _UNDECIDED in values else not ends
        name = self._own_name(test)
        if name is not None and name in self.settings and not isinstance(self.settings[name], type):
            return self.settings[name]
        if isinstance(test, ast.Compare) and len(test.ops) == 1 and isinstance(test.ops[0], (ast.Is, ast.IsNot)):
            return self._decide_none(test)
        return _UNDECIDED

    def _decide_none(self, test: ast.Compare) -> Any:
        name, right = self._own_name(test.left), test.comparators[0]
        if name not in self.settings or not (isinstance(right, ast.Constant) and right.value is None):
            return _UNDECIDED
        return (self.settings[name] is None) is isinstance(test.ops[0], ast.Is)

    def _own_name(self, node: ast.expr) -> str | None:
        """`name` of `self.name`."""
        receiver = self.function.__code__.co_varnames[0]
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == receiver:
            return node.attr
        return None

    def _holds(self, node: ast.expr, *kinds: type) -> bool:
        held = self.settings.get(node.attr) if isinstance(node, ast.Attribute) else None
        return isinstance(held, type) and issubclass(held, kinds)

    def _value(self, node: ast.expr) -> Any:
        """What a name that is not local, or an attribute of a Python module, is; None for all else."""
        if isinstance(node, ast.Name):
            local = node.id in self.function.__code__.co_varnames
            return None if local else self.function.__globals__.get(node.id, _UNDECIDED)
        if isinstance(node, ast.Attribute):
            owner = self._value(node.value)
            return vars(owner).get(node.attr, _UNDECIDED) if isinstance(owner, ModuleType) else owner and _UNDECIDED
        return None

    def _refuse(self, node: ast.AST, what: str) -> None:
        text = ast.unparse(node).split("\n")[0]
        raise _NotPlainError(f"its {self.function.__name__} {what} {text!r}")
