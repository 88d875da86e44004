"""Whether the forward of a block is plain to see: a fixed graph of calls of its parts, of additions and activations.

Tracing a forward writes down what it does once. That is what it always does if its code has no loop, no side effect,
and calls nothing but the block's parts, methods that are themselves plain, methods of tensors and known functions of
torch; and if it branches only by attributes of the block. What it looks at besides its input, and what it calls, is
looked at again in each call (`nn/block_settings.py`).
"""

from __future__ import annotations

import ast
import math
from collections import Counter
from collections.abc import Iterable
from types import FunctionType
from typing import Any, NoReturn

from torch import Tensor, nn

from kshot_ext.nn.block_settings import ALWAYS_FALSE, KNOWN_PLACES, Setting, settings_of
from kshot_ext.nn.method_source import attribute_of, dotted_path, local_names, method_of, tree_that_runs, value_of_path

_LEAVE_THE_GRAPH = frozenset({"item", "tolist", "numpy", "backward", "register_hook", "data_ptr", "cpu", "detach_"})
_PARTS = (
    ast.BinOp, ast.UnaryOp, ast.BoolOp, ast.Compare, ast.Tuple, ast.List, ast.Subscript, ast.Slice, ast.keyword,
)  # fmt: skip
_MOST_METHODS = 16
_UNDECIDED = object()


def why_not_plain(block: nn.Module, kind: type[nn.Module]) -> str | None:
    """What keeps the forward of `kind` from being plain for this block; None if it is."""
    try:
        _Reader(block, kind).read("forward")
    except _NotPlainError as error:
        return str(error)
    return None


class _NotPlainError(Exception):
    pass


class _Reader:
    """Reads methods of one block, branch by branch; raises at the first thing that is not plain."""

    def __init__(self, block: nn.Module, kind: type[nn.Module]) -> None:
        self.block, self.kind = block, kind
        self.settings = dict(settings_of(block, kind).attributes)
        self.read_so_far: set[str] = set()
        self.function: Any = None  # the method that is being read
        self.receiver = ""  # its `self`
        self.aliases: dict[str, str] = {}  # its names for attributes of the block
        self.options: dict[str, float] = {}  # its arguments that nobody gives, up to the line that writes to them

    def read(self, method: str) -> None:
        if method in self.read_so_far:
            return
        self.read_so_far.add(method)
        function = method_of(self.kind, method)
        tree = tree_that_runs(function) if function is not None and len(self.read_so_far) <= _MOST_METHODS else None
        if function is None or tree is None:
            raise _NotPlainError(f"the code of its {method} cannot be read")
        outer = self.function, self.receiver, self.aliases, self.options
        self.function, self.receiver = function, function.__code__.co_varnames[0]
        self._arguments(tree)
        self._statements(tree.body)
        self.function, self.receiver, self.aliases, self.options = outer

    def _arguments(self, tree: ast.FunctionDef) -> None:
        """Look at the arguments, and at the names that mean one thing throughout."""
        defaults = *(self.function.__defaults__ or ()), *(self.function.__kwdefaults__ or {}).values()
        if not all(map(_is_constant, defaults)):
            self._refuse(tree.args, "takes")
        written = Counter(node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and _is_stored(node))
        if self.receiver in written:
            self._refuse(ast.Name(self.receiver), "writes to")
        arguments = [each.arg for each in ast.walk(tree.args) if isinstance(each, ast.arg)]
        self.aliases = {}
        for node in ast.walk(tree):
            if isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.targets[0], ast.Name):
                name, attribute = node.targets[0].id, attribute_of(node.value, self.receiver)
                if attribute is not None and written[name] == 1 and name not in arguments:
                    self.aliases[name] = attribute
        ordinary = tree.args.posonlyargs + tree.args.args
        behind = ordinary[len(ordinary) - len(tree.args.defaults) :] + tree.args.kwonlyargs
        outermost = self.function is method_of(self.kind, "forward")
        lines = {each.arg: math.inf for each in behind if outermost}
        for node in ast.walk(tree):
            if isinstance(node, ast.Name) and _is_stored(node) and node.id in lines:
                lines[node.id] = min(lines[node.id], node.lineno)
        self.options = lines

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
                if len(parts) != 1 or self._own_name(parts[0]) is None:
                    self._expressions([statement.value])
                elif self._kind_of(parts[0]) is object:
                    self._refuse(statement, "has")
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
            if self._own_name(node) is not None:
                self._own_attribute(node)
            elif isinstance(node, ast.Name):
                if node.id == self.receiver or node.id not in local_names(self.function):
                    self._refuse(node, "reads")
            elif isinstance(node, ast.Attribute):
                self._attribute_of_value(node)
            elif isinstance(node, ast.Call):
                self._call(node)
            elif isinstance(node, ast.IfExp):
                self._branches(node.test, [node.body], [node.orelse], self._expressions)
            elif isinstance(node, ast.Compare) and self._looks_at_identity(node):
                self._identity(node)
            elif isinstance(node, _PARTS):
                self._expressions(part for part in ast.iter_child_nodes(node) if isinstance(part, ast.expr))
            else:
                self._refuse(node, "has")

    def _identity(self, node: ast.Compare) -> None:
        """A comparison by identity: of values; what stands for a tensor is not the same as what stands for another."""
        if self._decide(node) is not _UNDECIDED or self._looks_at_options(node):
            return
        if not self._is_value(node.left):
            self._refuse(node, "has")
        self._expressions(node.comparators)

    def _own_attribute(self, node: ast.expr) -> None:
        """An attribute that is looked at: of values and tensors only, for parts may be something else tomorrow."""
        if not (self._is_value(node) or self._kind_of(node) is Tensor):
            self._refuse(node, "reads")

    def _attribute_of_value(self, node: ast.Attribute) -> None:
        """An attribute of what must be a tensor, or made of one."""
        if node.attr.startswith("_") or not hasattr(Tensor, node.attr):
            self._refuse(node, "reads")
        self._expressions([node.value])

    def _call(self, node: ast.Call) -> None:
        self._expressions([*node.args, *(keyword.value for keyword in node.keywords)])
        name = self._own_name(node.func)
        if name is not None:
            setting = self.settings.get(name, Setting(object))
            if setting.kind in (nn.Module, type(None)):
                return  # None cannot be called, so that such code is not reached
            if setting.kind is not FunctionType or method_of(self.kind, name) is None:
                self._refuse(node.func, "calls")
            self.read(name)
        elif self._is_global(node.func):
            if id(self._value(node.func)) not in KNOWN_PLACES:
                self._refuse(node.func, "calls")
        elif isinstance(node.func, ast.Attribute) and node.func.attr not in _LEAVE_THE_GRAPH:
            self._attribute_of_value(node.func)
        else:
            self._refuse(node.func, "calls")

    def _decide(self, test: ast.expr) -> Any:
        """The truth of a test that only depends on attributes of the block; whatever is asked before is decided too."""
        if isinstance(test, ast.Constant):
            return bool(test.value)
        if isinstance(test, ast.Call) and self._is_global(test.func):
            return False if any(self._value(test.func) is each for each in ALWAYS_FALSE) else _UNDECIDED
        if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
            value = self._decide(test.operand)
            return value if value is _UNDECIDED else not value
        if isinstance(test, ast.BoolOp):
            ends = isinstance(test.op, ast.Or)
            decided = (self._decide(each) for each in test.values)
            return next((value for value in decided if value is _UNDECIDED or value is ends), not ends)
        if isinstance(test, ast.Compare) and self._looks_at_identity(test):
            kind = self._kind_of(test.left)
            if kind in (None, object) or not self._is_none(test.comparators[0]):
                return _UNDECIDED
            return (kind is type(None)) is isinstance(test.ops[0], ast.Is)
        name, kind = self._own_name(test), self._kind_of(test)
        if name is None or kind not in (bool, int, str, float, type(None), nn.Module):
            return _UNDECIDED
        truth = self.settings[name].value
        if kind is float:
            return bool(float.fromhex(truth))
        return _UNDECIDED if truth is None and kind is nn.Module else bool(truth)

    def _looks_at_identity(self, node: ast.Compare) -> bool:
        return any(isinstance(each, (ast.Is, ast.IsNot, ast.In, ast.NotIn)) for each in node.ops)

    def _looks_at_options(self, node: ast.Compare) -> bool:
        """Whether a comparison asks for None of an argument that has its default; what stands for a tensor is none."""
        asked = isinstance(node.left, ast.Name) and node.lineno < self.options.get(node.left.id, 0)
        return asked and len(node.ops) == 1 and self._is_none(node.comparators[0])

    @staticmethod
    def _is_none(node: ast.expr) -> bool:
        return isinstance(node, ast.Constant) and node.value is None

    def _own_name(self, node: ast.expr) -> str | None:
        """`name` of `self.name`, or of what stands for it."""
        if isinstance(node, ast.Name):
            return self.aliases.get(node.id)
        return attribute_of(node, self.receiver)

    def _kind_of(self, node: ast.expr) -> type | None:
        name = self._own_name(node)
        return None if name is None else self.settings.get(name, Setting(object)).kind

    def _is_value(self, node: ast.expr) -> bool:
        return self._kind_of(node) in (bool, int, str, float, type(None))

    def _is_global(self, node: ast.expr) -> bool:
        """Whether a node is a name, or an attribute of one, that is no local one."""
        path = dotted_path(node)
        return bool(path) and path[0] not in local_names(self.function)

    def _value(self, node: ast.expr) -> Any:
        return value_of_path(self.function.__globals__, dotted_path(node))

    def _refuse(self, node: ast.AST, what: str) -> NoReturn:
        text = ast.unparse(node).split("\n")[0]
        raise _NotPlainError(f"its {self.function.__name__} {what} {text!r}")


def _is_constant(value: Any) -> bool:
    """Whether a default is a value that nobody can change."""
    if type(value) is tuple:
        return all(map(_is_constant, value))
    return value is None or type(value) in (bool, int, str, float)


def _is_stored(node: ast.Name) -> bool:
    return isinstance(node.ctx, (ast.Store, ast.Del))
