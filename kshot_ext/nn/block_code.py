"""Whether the forward of a block is plain to see: a fixed graph of calls of its parts, of additions and activations.

Tracing a forward writes down what it does once. That is what it always does if its code has no loop, no side effect,
and calls nothing but the block's parts, methods that are themselves plain, methods of tensors and known functions of
torch; and if it branches only by attributes of the block. What it looks at besides its input, and what it calls, is
looked at again in each call: `settings_of`.
"""

from __future__ import annotations

import ast
import dis
import inspect
import math
from collections import Counter
from collections.abc import Iterable, Iterator
from types import CodeType, FunctionType, ModuleType
from typing import Any, NamedTuple, NoReturn

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
_KNOWN = (*_FUNCTIONS, *_ALWAYS_FALSE)
_PLACES = {id(function): place for place, function in enumerate(_KNOWN)}
_LEAVE_THE_GRAPH = frozenset({"item", "tolist", "numpy", "backward", "register_hook", "data_ptr", "cpu", "detach_"})
_PARTS = (
    ast.BinOp, ast.UnaryOp, ast.BoolOp, ast.Compare, ast.Tuple, ast.List, ast.Subscript, ast.Slice, ast.keyword,
)  # fmt: skip
_COUNTED = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
_SAY_NOTHING = frozenset({"CACHE", "COPY_FREE_VARS", "EXTENDED_ARG", "NOP", "PRECALL", "PUSH_NULL", "RESUME"})
_MOST_METHODS = 16
_UNDECIDED = object()


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
        functions: what they call by names out of their module, as places in `_KNOWN`, or None.
        attributes: what the block's attributes are.
    """

    methods: tuple[Any, ...]
    functions: tuple[int | None, ...]
    attributes: tuple[tuple[str, Setting], ...]


def settings_of(block: nn.Module, kind: type[nn.Module]) -> Settings:
    """What the forward of `kind` looks at in a block, as it is now."""
    code = _code_of(kind)
    functions = tuple(_PLACES.get(id(_found(function.__globals__, path))) for function, path in code.calls)
    return Settings(code.methods, functions, tuple((name, _setting(block, name)) for name in code.attributes))


def why_not_plain(block: nn.Module, kind: type[nn.Module]) -> str | None:
    """What keeps the forward of `kind` from being plain for this block; None if it is."""
    try:
        _Reader(block, kind).read("forward")
    except _NotPlainError as error:
        return str(error)
    return None


class _NotPlainError(Exception):
    pass


_NOTHING, _OTHER, _TENSOR, _METHOD = (Setting(kind) for kind in (type(None), object, Tensor, FunctionType))
_PART = {truth: Setting(nn.Module, truth) for truth in (True, False, None)}


def _setting(block: nn.Module, name: str) -> Setting:
    """Every call of a block asks for each of its attributes, so this looks where Python and torch would, itself."""
    members = vars(block)
    value: Any = getattr(type(block), name, _UNDECIDED)
    if hasattr(type(value), "__get__"):  # a method, or what computes a value whenever it is looked at
        return _METHOD if isinstance(value, FunctionType) and name not in members else _OTHER
    if name in members:
        value = members[name]
    elif value is _UNDECIDED:
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
        function = _method(kind, method)
        tree = None if function is None else _own_tree(function)
        if function is None or tree is None:
            continue
        receiver = function.__code__.co_varnames[0]
        for node in ast.walk(tree):
            name = _attribute_of(node, receiver)
            if name is not None:
                attributes.add(name)
                if _method(kind, name) is not None and name not in names:
                    names.append(name)
            elif isinstance(node, ast.Call):
                path = _path(node.func)
                if path and path[0] not in _local_names(function):
                    calls[function, path] = None
    methods = tuple(getattr(kind, name, None) for name in names)
    return _Code(tuple(names), methods, tuple(sorted(attributes)), tuple(calls))


def _attribute_of(node: ast.AST, receiver: str) -> str | None:
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


def _local_names(function: FunctionType) -> tuple[str, ...]:
    return function.__code__.co_varnames + function.__code__.co_cellvars


def _path(node: ast.expr) -> tuple[str, ...]:
    """`("torch", "nn", "relu")` of `torch.nn.relu`; empty for anything but names."""
    if isinstance(node, ast.Name):
        return (node.id,)
    before = _path(node.value) if isinstance(node, ast.Attribute) else ()
    return (*before, node.attr) if isinstance(node, ast.Attribute) and before else ()


def _found(names: dict[str, Any], path: tuple[str, ...]) -> Any:
    """What a path stands for that begins with a global name and goes through modules of Python."""
    value = names.get(path[0], _UNDECIDED)
    for name in path[1:]:
        value = vars(value).get(name, _UNDECIDED) if isinstance(value, ModuleType) else _UNDECIDED
    return value


def _method(kind: type[nn.Module], name: str) -> FunctionType | None:
    found = inspect.getattr_static(kind, name, None)
    own = isinstance(found, FunctionType) and not hasattr(found, "__wrapped__")
    return found if own and found.__code__.co_argcount else None


@memoised(4096)
def _own_tree(function: FunctionType) -> ast.FunctionDef | None:
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
        function = _method(self.kind, method)
        tree = _own_tree(function) if function is not None and len(self.read_so_far) <= _MOST_METHODS else None
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
                name, attribute = node.targets[0].id, _attribute_of(node.value, self.receiver)
                if attribute is not None and written[name] == 1 and name not in arguments:
                    self.aliases[name] = attribute
        ordinary = tree.args.posonlyargs + tree.args.args
        behind = ordinary[len(ordinary) - len(tree.args.defaults) :] + tree.args.kwonlyargs
        outermost = self.function is _method(self.kind, "forward")
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
                if node.id == self.receiver or node.id not in _local_names(self.function):
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
            if setting.kind is not FunctionType or _method(self.kind, name) is None:
                self._refuse(node.func, "calls")
            self.read(name)
        elif self._is_global(node.func):
            if id(self._value(node.func)) not in _PLACES:
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
            return False if any(self._value(test.func) is each for each in _ALWAYS_FALSE) else _UNDECIDED
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
        return _attribute_of(node, self.receiver)

    def _kind_of(self, node: ast.expr) -> type | None:
        name = self._own_name(node)
        return None if name is None else self.settings.get(name, Setting(object)).kind

    def _is_value(self, node: ast.expr) -> bool:
        return self._kind_of(node) in (bool, int, str, float, type(None))

    def _is_global(self, node: ast.expr) -> bool:
        """Whether a node is a name, or an attribute of one, that is no local one."""
        path = _path(node)
        return bool(path) and path[0] not in _local_names(self.function)

    def _value(self, node: ast.expr) -> Any:
        return _found(self.function.__globals__, _path(node))

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
