"""Which of a model's modules its code hands to code that cannot be read, or keeps where it cannot be followed.

`self.penalty(self.proj)` may read the layer's weight. A module may be called, looped over, put in a container or given
to a function that was read and does no more with it; whatever else is done with it, it escapes. Names of a function
are taken together, in whatever order they are bound, so too many modules escape rather than too few.
"""

from __future__ import annotations

import ast
import functools
import inspect
import itertools
from collections.abc import Callable, Iterable, Iterator
from types import FunctionType, MethodType, ModuleType
from typing import Any, NamedTuple

from torch import nn
from torch.utils import checkpoint

from kshot_ext.nn.function_names import Parameters, parameters_inside, parameters_of, values_of_names
from kshot_ext.nn.reached_code import is_library, tree_of

_CONTAINERS = (nn.ModuleList, nn.ModuleDict, nn.Sequential)
_HOLD_MODULES: tuple[Any, ...] = (enumerate, zip, reversed, list, tuple, set, dict, iter, next, *_CONTAINERS)
_HOLD_MODULES += (itertools.chain, itertools.chain.from_iterable)
_HARMLESS = (len, print, id, repr, str, bool, callable, hash, any, all, super, range)
_READ_ELSEWHERE = (isinstance, type, getattr, hasattr, vars)  # by `weight_readers`
_ONLY_CALL = (checkpoint.checkpoint, checkpoint.checkpoint_sequential)  # torch's own; they call what they get
_KNOWN = (*_HOLD_MODULES, *_HARMLESS, *_READ_ELSEWHERE, *_ONLY_CALL)
_PAIRS = frozenset({"items", "named_children", "named_modules"})
_GIVE_PARTS = _PAIRS | {"children", "modules", "values", "get_submodule", "get", "pop"}
_PUT_IN = frozenset({"append", "extend", "insert", "add", "appendleft", "update", "setdefault"})
_DEEPEST = 8
"""How many functions a module is followed through."""


class Source(NamedTuple):
    """A module by the argument that it comes from and the names from there: `layer.proj` is ("layer", ("proj",))."""

    argument: str
    path: tuple[str, ...]


def escaping_modules(parent: nn.Module, function: FunctionType) -> Iterator[nn.Module]:
    """The modules of `parent` that a method of its class, or a hook on it, lets escape, with all inside them."""
    if not function.__code__.co_argcount or is_library(function):
        return
    receiver = function.__code__.co_varnames[0]
    for source in _escapes(function, frozenset({receiver}), parent, 0):
        for module in _modules_at(parent, source.path):
            yield from module.modules()


def lets_escape(function: FunctionType, arguments: Iterable[str]) -> bool:
    """Whether a function lets one of the modules escape that it is given as `arguments`."""
    return bool(_escapes(function, frozenset(arguments), None, 0))


def modules_in(value: Any, depth: int = 3) -> Iterator[nn.Module]:
    """Modules in a container, a partial, a bound method or a plain object."""
    if isinstance(value, nn.Module):
        yield value
    elif depth and not isinstance(value, (type, ModuleType, FunctionType)):
        inside: list[Any] = []
        if isinstance(value, dict):
            inside = list(value.values())
        elif isinstance(value, (list, tuple, set)):
            inside = list(value)
        elif isinstance(value, functools.partial):
            inside = [value.func, *value.args, *value.keywords.values()]
        elif isinstance(value, MethodType):
            inside = [value.__self__]
        elif hasattr(value, "__dict__"):
            inside = list(vars(value).values())
        for each in inside:
            yield from modules_in(each, depth - 1)


def _modules_at(parent: nn.Module, path: tuple[str, ...]) -> list[nn.Module]:
    found = [parent]
    for name in path:
        following = []
        for module in found:
            if name in module._modules:
                part = module._modules[name]
                following += [part] if part is not None else []
            elif name in vars(module):
                following += modules_in(vars(module)[name])
            elif isinstance(module, _CONTAINERS):  # an item's attribute
                following += [m for full, m in module.named_modules() if full and full.rsplit(".", 1)[-1] == name]
        found = following
    return found


def _escapes(
    function: FunctionType, arguments: frozenset[str], parent: nn.Module | None, depth: int
) -> frozenset[Source]:
    """What escapes of the modules that a function is given as `arguments`."""
    tree = tree_of(function)
    if tree is None:  # no source: nothing is seen of it
        return frozenset(Source(each, ()) for each in arguments) if depth else frozenset()
    if depth > _DEEPEST:
        return frozenset(Source(each, ()) for each in arguments)
    return frozenset(_Scope(tree, function, arguments, parent, depth).escapes())


class _Scope:
    """The names of one function, with those of the functions inside it."""

    def __init__(
        self, tree: ast.AST, function: FunctionType, arguments: frozenset[str], parent: nn.Module | None, depth: int
    ) -> None:
        self.nodes = list(ast.walk(tree))
        self.function, self.parent, self.depth = function, parent, depth
        self.receiver = function.__code__.co_varnames[0] if parent is not None else None
        self.bound = {name: {Source(name, ())} for name in arguments}
        self.values = values_of_names(function, self.nodes)
        inner = [node for node in self.nodes if isinstance(node, ast.FunctionDef)]
        self.inner = {node.name: node for node in inner if node.name != function.__name__}

    def escapes(self) -> set[Source]:
        found: set[Source] = set()
        while True:
            before = sum(map(len, self.bound.values()))
            for node in self.nodes:
                found |= self._escapes_at(node)
            if sum(map(len, self.bound.values())) == before:
                return found

    def _escapes_at(self, node: ast.AST) -> set[Source]:
        if isinstance(node, (ast.Assign, ast.AnnAssign, ast.NamedExpr)) and node.value is not None:
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            return set().union(*(self._assign(target, node.value) for target in targets))
        if isinstance(node, ast.AugAssign):
            return self._assign(node.target, node.value)
        if isinstance(node, ast.Match):
            return self.sources(node.subject)
        if isinstance(node, ast.arguments):
            return set().union(*(self.sources(each) for each in (*node.defaults, *node.kw_defaults) if each))
        if isinstance(node, (ast.For, ast.AsyncFor, ast.comprehension)):
            self._loop(node.target, node.iter)
        elif isinstance(node, (ast.Return, ast.Yield, ast.YieldFrom)) and node.value is not None:
            return self.sources(node.value)
        elif isinstance(node, ast.Call):
            return self._call(node)
        return set()

    def sources(self, node: ast.expr) -> set[Source]:
        """The modules that an expression may be, or hold; attributes that are no modules too."""
        if isinstance(node, ast.Name):
            return self.bound.get(node.id, set())
        if isinstance(node, ast.Attribute):
            owners = self.sources(node.value)
            return owners if node.attr == "_modules" else {Source(a, (*path, node.attr)) for a, path in owners}
        if isinstance(node, ast.Call):
            return self._sources_of_call(node)
        if isinstance(node, (ast.Subscript, ast.Starred, ast.NamedExpr)):
            parts = [node.value]
        elif isinstance(node, (ast.Tuple, ast.List, ast.Set)):
            parts = node.elts
        elif isinstance(node, (ast.BoolOp, ast.Dict)):
            parts = node.values
        elif isinstance(node, ast.IfExp):
            parts = [node.body, node.orelse]
        elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):  # of lists
            parts = [node.left, node.right]
        elif isinstance(node, (ast.ListComp, ast.SetComp, ast.GeneratorExp)):
            parts = [node.elt]
        else:
            parts = [node.value] if isinstance(node, ast.DictComp) else []
        return set().union(*map(self.sources, parts))

    def _sources_of_call(self, node: ast.Call) -> set[Source]:
        callee = self._value(node.func)
        if callee is getattr and len(node.args) > 1:
            owners, asked = self.sources(node.args[0]), node.args[1]
            if not (isinstance(asked, ast.Constant) and isinstance(asked.value, str)):
                return owners
            return {Source(a, (*path, asked.value)) for a, path in owners}
        if _is_one_of(callee, _HOLD_MODULES) or _is_one_of(callee, (filter,)):
            return set().union(*map(self.sources, _arguments(node)))
        if isinstance(node.func, ast.Attribute) and node.func.attr in _GIVE_PARTS:
            of_self = isinstance(node.func.value, ast.Name) and node.func.value.id == self.receiver
            if not of_self or hasattr(type(self.parent), node.func.attr):
                return self.sources(node.func.value)
        return set()

    def _assign(self, target: ast.expr, value: ast.expr) -> set[Source]:
        if isinstance(target, (ast.Tuple, ast.List)):
            if isinstance(value, (ast.Tuple, ast.List)) and len(value.elts) == len(target.elts):
                return set().union(*map(self._assign, target.elts, value.elts))
            return set().union(*(self._assign(each, value) for each in target.elts))
        sources = self.sources(value)
        while isinstance(target, (ast.Subscript, ast.Starred)):
            target = target.value
        if not isinstance(target, ast.Name):
            return sources
        self._bind(target.id, sources)
        return set()

    def _loop(self, target: ast.expr, over: ast.expr) -> None:
        pair = target.elts if isinstance(target, (ast.Tuple, ast.List)) else []
        if isinstance(over, ast.Call):
            callee = self._value(over.func)
            if callee is enumerate and len(pair) == 2:
                return self._loop(pair[1], over.args[0])
            if callee is zip and len(pair) == len(over.args):
                for each, values in zip(pair, over.args):
                    self._loop(each, values)
                return None
            if _is_one_of(callee, (reversed, list, tuple, iter)) and len(over.args) == 1:
                return self._loop(target, over.args[0])
            if isinstance(over.func, ast.Attribute) and over.func.attr in _PAIRS and len(pair) == 2:
                target = pair[1]
        self._assign(target, over)
        return None

    def _bind(self, name: str, sources: Iterable[Source]) -> None:
        kept = {each for each in sources if len(each.path) <= _DEEPEST}  # `node = node.next` has no end
        if kept:
            self.bound.setdefault(name, set()).update(kept)

    def _call(self, node: ast.Call) -> set[Source]:
        func = node.func
        found: set[Source] = set()
        if isinstance(func, ast.Attribute) and func.attr == "apply":
            found = set(self.sources(func.value))
        given = set().union(*map(self.sources, _arguments(node)))
        callee = self._value(func)
        if not given or _is_one_of(callee, _KNOWN):
            return found
        if isinstance(func, ast.Attribute) and func.attr in _PUT_IN and isinstance(func.value, ast.Name):
            if not self.bound.get(func.value.id, set()) & {Source(func.value.id, ())}:
                self._bind(func.value.id, given)
                return found
        if _is_one_of(callee, (map, filter, functools.reduce)) and node.args:
            items = node.args[1:]
            if callee is functools.reduce:  # gives its function the start, or an item, and an item
                items = [items[-1], items[0]]
            return found | self._given_to(node.args[0], items, [])
        return found | self._given_to(func, node.args, node.keywords)

    def _given_to(self, func: ast.expr, args: list[ast.expr], keywords: list[ast.keyword]) -> set[Source]:
        """What escapes through a function that gets arguments."""
        given = set().union(*map(self.sources, [*args, *(each.value for each in keywords)]))
        inner = func if isinstance(func, ast.Lambda) else self.inner.get(getattr(func, "id", ""))
        function, skip = (None, 0) if inner is not None else self._function(func)
        if inner is not None:
            parameters = parameters_inside(inner)
        elif function is not None:
            parameters = parameters_of(function, skip)
        else:
            return given
        handed = self._handed(parameters, args, keywords)
        if handed is None:
            return given
        if function is None:
            for name, sources in handed.items():
                self._bind(name, sources)
            return set()
        escaped = _escapes(function, frozenset(handed), None, self.depth + 1)
        return {Source(a, (*path, *more)) for name, more in escaped for a, path in handed[name]}

    def _handed(
        self, parameters: Parameters, args: list[ast.expr], keywords: list[ast.keyword]
    ) -> dict[str, set[Source]] | None:
        """The modules that each parameter of a function gets; None if it cannot be told."""
        handed: dict[str, set[Source]] = {}
        positions = [(parameters.positional[at : at + 1] or parameters.rest, each) for at, each in enumerate(args)]
        named = [((each.arg,) if each.arg in parameters.named else (), each.value) for each in keywords]
        for names, value in [*positions, *named]:
            sources = self.sources(value)
            if sources and (not names or any(isinstance(each, ast.Starred) for each in args)):
                return None
            for name in names if sources else ():
                handed.setdefault(name, set()).update(sources)
        return handed

    def _function(self, func: ast.expr) -> tuple[FunctionType | None, int]:
        """The function that a callee is, if its code is read, and how many arguments it has before those given."""
        own = isinstance(func, ast.Attribute) and isinstance(func.value, ast.Name) and func.value.id == self.receiver
        if own and isinstance(func, ast.Attribute) and self.parent is not None:
            if func.attr in vars(self.parent) or func.attr in self.parent._modules:
                return None, 0
            value = inspect.getattr_static(type(self.parent), func.attr, None)
            skip = 0 if isinstance(value, staticmethod) else 1
            value = value.__func__ if isinstance(value, (staticmethod, classmethod)) else value
        else:
            value, skip = self._value(func), 0
            value = value.__func__ if isinstance(value, staticmethod) else value
        readable = isinstance(value, FunctionType) and not is_library(value) and not hasattr(value, "__wrapped__")
        return (value, skip) if readable else (None, 0)

    def _value(self, node: ast.expr) -> Any:
        """What a name, or an attribute of a Python module or class, is; None if it cannot be told."""
        if isinstance(node, ast.Name):
            return self.values.get(node.id)
        if isinstance(node, ast.Attribute):
            owner = self._value(node.value)
            if isinstance(owner, ModuleType):
                return vars(owner).get(node.attr)
            if isinstance(owner, type):
                found = inspect.getattr_static(owner, node.attr, None)
                return getattr(owner, node.attr) if owner is itertools.chain else found
        return None


def _is_one_of(value: Any, known: Iterable[Callable[..., Any]]) -> bool:
    return any(value is each or (callable(value) and value == each) for each in known)


def _arguments(node: ast.Call) -> list[ast.expr]:
    return [*node.args, *(each.value for each in node.keywords)]
