"""The forward of a block as a list of steps, so that it can be run with values that wait."""

from __future__ import annotations

import operator
from collections import Counter
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from kshot_ext.nn.block_settings import settings_of
from kshot_ext.nn.deferred import Value, finished, plus, plus_in_place, times, waits
from kshot_ext.nn.flow import as_given, linked, pass_through, sees_format
from kshot_ext.nn.links import can_link
from kshot_ext.nn.plain_forward import why_not_plain
from kshot_ext.nn.side_effects import is_touched

_ADDITIONS = (operator.add, torch.add, "add")
_MULTIPLICATIONS = (operator.mul, torch.mul, "mul")
_ADDITIONS_IN_PLACE = (operator.iadd, "add_")
_ACTIVATIONS = {
    F.relu: "relu", F.relu6: "relu6", F.silu: "silu", F.hardswish: "hardswish",
    torch.relu: "relu", "relu": "relu", "relu_": "relu",
}  # fmt: skip
# What depends on how a tensor lies in memory: whether it is a view, an error, or in which order it draws.
_SEE_FORMATS = (
    "as_strided", "bernoulli", "bernoulli_", "contiguous", "data_ptr", "exponential_", "flatten", "is_contiguous",
    "normal_", "random_", "ravel", "reshape", "reshape_as", "resize_", "stride", "uniform_", "view", "view_as",
    torch.flatten, F.dropout,
)  # fmt: skip
_MOST_PROGRAMS = 4096


@dataclass(frozen=True)
class _Use:
    """The result of an earlier step as an argument."""

    step: int


class Step(NamedTuple):
    """One operation of a forward.

    Attributes:
        kind: that of a node of `torch.fx`.
        target: the name of a part, attribute or method, or a function.
        args, kwargs: its arguments, with `_Use` for results of other steps.
        is_shared: whether the result is not read exactly once, and so may not wait: a norm counts its batch when made.
        follower: the next step, if it is a part of the block and alone reads the result of this one.
        last_uses: the steps whose results nobody reads after this one.
    """

    kind: str
    target: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    is_shared: bool
    follower: int | None
    last_uses: tuple[int, ...]


Program = tuple[Step, ...]
_programs: dict[Hashable, Program | str] = {}


def program_of(block: nn.Module, kind: type[nn.Module]) -> Program | str:
    """The steps of the forward of `kind` for a block with the settings that it has now, or why they cannot be told."""
    key = kind, settings_of(block, kind)
    found = _programs.get(key)
    if found is None:
        if len(_programs) >= _MOST_PROGRAMS:
            _programs.clear()  # those in use are soon made again
        found = _programs[key] = why_not_plain(block, kind) or _traced(block, kind)
    return found


def ends_in_product(program: Program) -> bool:
    """Whether a block puts out a product, as squeeze-excite does, which its reader may make while it loads it."""
    return program[program[-1].args[0].step].target in _MULTIPLICATIONS


def run_program(block: nn.Module, program: Program, value: Value) -> Value:
    """The block's output for one input."""
    results: list[Any] = [None] * len(program)
    passed_over = -1
    for index, step in enumerate(program[:-1]):
        if index == passed_over:
            continue
        at, result = index, value
        if step.kind == "call_module":
            at, result = _part(block, program, index, results)
            passed_over = at
        elif step.kind != "placeholder":
            result = _operation(block, step, results)
        results[at] = finished(result) if program[at].is_shared else result
        for each in {index, at}:
            for dead in program[each].last_uses:
                results[dead] = None
    output: Value = results[program[-1].args[0].step]
    return output


def _part(block: nn.Module, program: Program, index: int, results: list[Any]) -> tuple[int, Value]:
    """What a part of the block puts out, or the norm behind it, and the step whose result that is."""
    step = program[index]
    part, source = block.get_submodule(step.target), step.args[0].step
    norm = None if step.follower is None else block.get_submodule(program[step.follower].target)
    _finish_touched(results, source, (part,) if norm is None else (part, norm))
    if sees_format(part):
        _give(results, source)
    if norm is not None and can_link(results[source], part, norm):
        return index + 1, linked(part, norm, results[source])
    return index, pass_through(part, results[source])


def _finish_touched(results: list[Any], source: int, parts: tuple[nn.Module, ...]) -> None:
    """Leave nothing waiting that would come out differently once `parts` have read the result of the step `source`."""
    for index, result in enumerate(results):
        if waits(result) and index != source and any(is_touched(result, part, results[source]) for part in parts):
            results[index] = result.finished()


def _operation(block: nn.Module, step: Step, results: list[Any]) -> Any:
    """The result of a step that calls no part."""
    if step.kind == "get_attr":
        return operator.attrgetter(step.target)(block)
    args, kwargs = _arguments(step, results)
    first = args[0] if args else None
    if len(args) == 2 and not kwargs:
        if step.target in _ADDITIONS:
            return plus(*args)
        if step.target in _ADDITIONS_IN_PLACE and waits(first):
            return plus_in_place(*args)
        if step.target in _MULTIPLICATIONS:
            return times(*args)
    activation = _ACTIVATIONS.get(step.target)
    if activation is not None and len(args) == 1 and waits(first) and first.activation == "identity":
        return first.with_activation(activation)
    in_place = step.target in _ADDITIONS_IN_PLACE or str(step.target).endswith("_")
    if in_place or kwargs.get("inplace") or kwargs.get("out") is not None:
        _finish_all(results)
    if step.target in _SEE_FORMATS:
        for source in _sources(step):
            _give(results, source)
    args, kwargs = _arguments(step, results, finished)
    if step.kind == "call_method":
        return getattr(args[0], step.target)(*args[1:], **kwargs)
    return step.target(*args, **kwargs)


def _give(results: list[Any], source: int) -> None:
    """Leave the result of a step as plain layers would have left it, under all names that it has."""
    before = results[source]
    after = as_given(before)
    results[:] = [after if result is before else result for result in results]


def _arguments(step: Step, results: list[Any], made: Callable[[Any], Any] = lambda result: result) -> tuple[Any, Any]:
    """Arguments of a step, with `made` of the results that are among them."""
    args, kwargs = _mapped(
        lambda each: made(results[each.step]) if isinstance(each, _Use) else each, (step.args, step.kwargs)
    )
    return args, kwargs


def _sources(step: Step) -> list[int]:
    """The steps whose results a step reads."""
    sources: list[int] = []
    _mapped(lambda each: sources.append(each.step) if isinstance(each, _Use) else None, (step.args, step.kwargs))
    return sources


def _finish_all(results: list[Any]) -> None:
    """Leave nothing waiting: a tensor that waiting values read is about to be written to."""
    results[:] = [finished(result) for result in results]


def _mapped(function: Callable[[Any], Any], arguments: Any) -> Any:
    """Arguments with `function` applied to all that is no plain container."""
    if isinstance(arguments, (tuple, list)):
        made = [_mapped(function, each) for each in arguments]
        return made if isinstance(arguments, list) else tuple(made)
    if isinstance(arguments, dict):
        return {name: _mapped(function, each) for name, each in arguments.items()}
    if isinstance(arguments, slice):
        return slice(*(_mapped(function, each) for each in (arguments.start, arguments.stop, arguments.step)))
    return function(arguments)


class _Value(fx.Proxy):
    """Stands for what a step makes."""

    def __iadd__(self, other: Any) -> fx.Proxy:  # which torch.fx would write down as an addition
        return self.tracer.create_proxy("call_function", operator.iadd, (self, other), {})


class _Part:
    """Stands for a part of a block: its calls are steps."""

    def __init__(self, name: str, part: nn.Module, tracer: _Tracer) -> None:
        self.name, self.part, self.tracer = name, part, tracer

    def __call__(self, *args: Any, **kwargs: Any) -> fx.Proxy:
        return self.tracer.create_proxy("call_module", self.name, args, kwargs)

    def __bool__(self) -> bool:
        return bool(self.part)


class _Tensors(dict[str, Any]):
    """A table of parameters or buffers whose reading is a step, once for each."""

    def __init__(self, table: Mapping[str, Any], tracer: _Tracer) -> None:
        super().__init__(table)
        self.tracer = tracer

    def __getitem__(self, name: str) -> Any:
        if isinstance(held := super().__getitem__(name), Tensor):
            held = self[name] = self.tracer.create_proxy("get_attr", name, (), {})
        return held


class _Tracer(fx.proxy.GraphAppendingTracer):
    """Writes down what a forward does with what stands for tensors and parts.

    `torch.fx.Tracer` replaces methods of all modules while it traces, and other threads may be running some.
    """

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return _Value(node, self)


def _traced(block: nn.Module, kind: type[nn.Module]) -> Program | str:
    # A twin of the block, called with one input: all others have their defaults, which branches may look at. What is
    # looked up by one name is written down by it, though the same tensor or part may have others.
    graph = fx.Graph()
    tracer = _Tracer(graph)
    twin: Any = object.__new__(kind)
    vars(twin).update(vars(block))
    vars(twin)["_modules"] = {n: part if part is None else _Part(n, part, tracer) for n, part in block._modules.items()}
    for table in ("_parameters", "_buffers"):
        vars(twin)[table] = _Tensors(vars(block)[table], tracer)
    try:
        output = kind.forward(twin, tracer.create_proxy("placeholder", "input", (), {}))
        tracer.create_node("output", "output", (tracer.create_arg(output),), {})
    except Exception as error:  # whatever the code does with what stands for a tensor
        return f"its forward cannot be traced: {str(error).splitlines()[0] if str(error) else type(error).__name__}"
    return _steps(list(graph.nodes))


def _steps(nodes: list[fx.Node]) -> Program | str:
    index = {node: position for position, node in enumerate(nodes)}
    last_uses: dict[int, list[int]] = {}
    reads: Counter[fx.Node] = Counter()  # `y * y` is two of them by one user
    for node in nodes:
        fx.map_arg((node.args, node.kwargs), lambda read: reads.update([read]))
        last_uses.setdefault(max((index[user] for user in node.users), default=index[node]), []).append(index[node])
    steps = []
    for position, node in enumerate(nodes):
        args, kwargs = _mapped(
            lambda each: _Use(index[each]) if isinstance(each, fx.Node) else each, (node.args, node.kwargs)
        )
        alone = len(args) == 1 and isinstance(args[0], _Use) and not kwargs
        if node.op in ("call_module", "output") and not alone:
            return f"its {node.target} takes or gives something else than one tensor"
        users = list(node.users)
        followed = node.op == "call_module" and len(users) == 1 and users[0].op == "call_module"
        follower = position + 1 if followed and index[users[0]] == position + 1 else None
        dead = tuple(last_uses.get(position, ()))
        steps.append(Step(node.op, node.target, args, kwargs, reads[node] != 1, follower, dead))
    inputs = [node for node in nodes if node.op == "placeholder" and node.users]
    if len(inputs) != 1:
        return f"its forward reads {len(inputs)} inputs"
    return tuple(steps)
