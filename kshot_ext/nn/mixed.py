"""Any layer with K copies of its parameters: its own forward runs on the mixed ones.

    y = layer(x; p_1, p_2, ...),    p_i = sum_k code_k * dictionary_i[k]

That is what a K-shot layer means. Kinds for which a kernel of ours does better have a forward of their own.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import FunctionType
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from kshot_ext import functional as KF
from kshot_ext.nn.code import KShotModule, LeafOfGraphs
from kshot_ext.nn.memoised import memoised
from kshot_ext.nn.reached_code import names_in
from kshot_ext.nn.shots import stack_shots

if TYPE_CHECKING:
    from typing_extensions import Self

_STATE_OF_EVERY_MODULE = frozenset(vars(nn.Module()))
_OWN_ATTRIBUTES = frozenset(
    {"num_shots", "check_code", "plain", "process_group", "_code", "_rows", "_names", "sample_rows"}
)


def _known(layer: nn.Module, names: Mapping[str, Any]) -> list[str]:
    """Those of some members' names that the code of a layer's class mentions: others are not its own."""
    mentioned = _names_in_class(type(layer))
    return [name for name in names if name in mentioned and not hasattr(type(layer), name)]


@memoised(1024)
def _names_in_class(kind: type[nn.Module]) -> frozenset[str]:
    own = [ancestor for ancestor in kind.__mro__ if ancestor not in (nn.Module, object)]
    methods = [each for ancestor in own for each in vars(ancestor).values() if isinstance(each, FunctionType)]
    return frozenset().union(*(names_in(inspect.unwrap(method).__code__) for method in methods))


_Own = Callable[[nn.Module, Mapping[str, Any]], list[str]]


class KShotMixed(LeafOfGraphs):
    """A layer of any kind with K copies of each parameter, `[K, ...]`; buffers and parts are shared by the copies.

    A subclass says in `plain` which kind it is; its constructor is that of the kind, plus `num_shots`. Without a
    subclass, register the kind, and `kshot_ext.convert` does the rest:

        kshot_ext.register_conversion(MyLayer, KShotMixed.from_plain, KShotMixed.to_plain)

    `forward(*arguments, code=None)` takes the arguments of the plain layer. A call runs that layer's forward on an
    object of its class with the mixed parameters, which is forgotten then: what the forward assigns to attributes other
    than buffers is lost.

    Args:
        num_shots: K, the number of copies; all other arguments are those of the plain layer.

    Raises:
        ValueError: of `forward`, if there is a code for each sample: one layer has one set of parameters.

    Example:
        >>> class KShotBilinear(KShotMixed):
        ...     plain = nn.Bilinear
        >>> layer = KShotBilinear(3, 4, 2, num_shots=2)
        >>> layer(torch.randn(5, 3), torch.randn(5, 4), code=torch.tensor([0.5, 0.5])).shape
        torch.Size([5, 2])
    """

    _names: tuple[str, ...]
    _per_sample: ClassVar[bool] = False

    def __init_subclass__(cls, **named: Any) -> None:
        super().__init_subclass__(**named)
        if vars(cls).get("plain") is not None:
            arguments = inspect.signature(vars(cls)["plain"])
            shots = inspect.Parameter("num_shots", inspect.Parameter.KEYWORD_ONLY, default=8)
            signature = arguments.replace(parameters=[*arguments.parameters.values(), shots])
            cls.__signature__ = signature  # type: ignore[attr-defined]  # what `inspect` looks for

    def __init__(self, *arguments: Any, num_shots: int = 8, **named: Any) -> None:
        super().__init__(num_shots)
        if self.plain is None:
            raise TypeError(f"{type(self).__name__} does not say, in `plain`, which kind of layers it is")
        copies = [self.plain(*arguments, **named) for _ in range(num_shots)]
        self._take_attributes(copies[0], own=lambda _layer, names: list(names))
        for name, parameter in copies[0]._parameters.items():
            shots = [each for copy in copies if (each := copy._parameters[name]) is not None]
            self.register_parameter(name, None if parameter is None else nn.Parameter(stack_shots(shots)))

    @classmethod
    def from_plain(cls, layer: nn.Module, num_shots: int) -> Self:
        for name in vars(layer).keys() - _STATE_OF_EVERY_MODULE:
            if hasattr(cls, name) or name in _OWN_ATTRIBUTES:
                raise ValueError(f"its attribute {name!r} would hide that of the K-shot layer")
        form = cls.__new__(cls)
        KShotModule.__init__(form, num_shots)
        if cls.plain is not type(layer):
            form.plain = type(layer)
        form._take_attributes(layer)
        for name in _known(layer, layer._parameters):
            parameter = layer._parameters[name]
            form.register_parameter(name, None if parameter is None else _empty((num_shots, *parameter.shape)))
        return form

    def to_plain(self) -> nn.Module:
        dictionaries = {name: getattr(self, name) for name in self._names}
        return plain_layer(
            self, {name: None if each is None else _empty(each.shape[1:]) for name, each in dictionaries.items()}
        )

    def forward(self, *arguments: Any, code: Tensor | None = None, **named: Any) -> Any:
        if self._per_sample and not named and len(arguments) == 1:
            if code is None and self._code is not None and self._rows is not None:
                return self._rows.call(self, arguments[0], self._code)
            if code is not None and code.dim() == 2:
                return self._forward_per_sample(arguments[0], code)
        return self.mixed(code).forward(*arguments, **named)

    def mixed(self, code: Tensor | None = None) -> nn.Module:
        """The plain layer with this one's parameters mixed by a code `[K]`: tensors with a graph, for one call."""
        return plain_layer(self, self.mixed_parameters(code))

    def mixed_parameters(self, code: Tensor | None, samples: int | None = None) -> dict[str, Tensor | None]:
        """The parameters by name, mixed: see the function of this name."""
        return mixed_parameters(self, self._names, code, samples)

    def narrowed(self, plain: Any) -> Self:
        wanted = {name: None if each is None else tuple(each.shape) for name, each in plain._parameters.items()}
        kept = {name: None if getattr(self, name) is None else tuple(getattr(self, name).shape[1:]) for name in wanted}
        if kept != wanted or type(plain) is not self.plain:
            raise ValueError(f"{self._get_name()} cannot be narrowed: it keeps {kept}, which cannot be {wanted}")
        return super().narrowed(plain)

    def extra_repr(self) -> str:
        own = self.to_plain().extra_repr()
        return f"{own}, num_shots={self.num_shots}" if own else f"num_shots={self.num_shots}"

    def _get_name(self) -> str:
        own = "plain" in vars(type(self)) or self.plain is None
        return type(self).__name__ if own or self.plain is None else f"KShot{self.plain.__name__}"

    def _take_attributes(self, layer: nn.Module, own: _Own = _known) -> None:
        """Attributes, buffers and parts of a plain layer; not what somebody else gave it."""
        vars(self).update({n: value for n, value in vars(layer).items() if n not in _STATE_OF_EVERY_MODULE})
        self._buffers.update({name: layer._buffers[name] for name in own(layer, layer._buffers)})
        self._non_persistent_buffers_set |= layer._non_persistent_buffers_set
        self._modules.update({name: layer._modules[name] for name in own(layer, layer._modules)})
        self._names = tuple(own(layer, layer._parameters))
        self.training = layer.training

    def _forward_per_sample(self, input: Tensor, code: Tensor) -> Tensor:
        parameters = self.mixed_parameters(code, len(input))
        absent = {name: None for name, each in parameters.items() if each is None}

        def run(present: dict[str, Tensor], sample: Tensor) -> Tensor:
            batch: Tensor = plain_layer(self, {**absent, **present}).forward(sample[None])
            return batch[0]

        output: Tensor = torch.func.vmap(run)({n: each for n, each in parameters.items() if each is not None}, input)
        return output


class KShotBySamples(KShotMixed):
    """A layer that treats each sample by itself, with K copies of its parameters.

    `forward(input, code=None)` runs the layer's own forward: a code is `[K]`, or `[N, K]` for one row per sample, under
    `torch.func.vmap`.
    """

    _per_sample = True


class KShotOfLastAxis(KShotBySamples):
    """A layer that treats each vector along the last axis by itself, so that any other axis may count samples."""

    def row_axes(self, input: Tensor) -> range:
        return range(input.dim() - 1)


def mixed_parameters(
    layer: KShotModule, names: Iterable[str], code: Tensor | None, samples: int | None = None
) -> dict[str, Tensor | None]:
    """Parameters of a K-shot layer by name, mixed by a code `[K]`, or `[N, K]` for N samples: they are `[N, ...]` then.

    Args:
        layer: its parameters may be computed (`torch.nn.utils.parametrize`), or be absent, as a bias.
        names: of the parameters.
        code: default: the one that `set_code` left in the layer.
        samples: N; None if all samples must have the same code.
    """
    dictionaries = {name: getattr(layer, name) for name in names}
    present = [each for each in dictionaries.values() if each is not None]
    if not present:
        return dictionaries
    code = layer.resolve_code(code)
    if code.dim() == 2 and samples is None:
        raise ValueError(
            f"code: expected [{layer.num_shots}], one for all samples, as {layer._get_name()} has one set of "
            f"parameters in a call, got {list(code.shape)}"
        )
    if code.dim() == 2 and len(code) != samples:
        raise ValueError(f"a code per sample must have N = {samples} rows like input, got {len(code)}")
    values = iter(mixed_tensors(present, code))
    return {name: None if each is None else next(values) for name, each in dictionaries.items()}


def plain_layer(layer: KShotModule, parameters: Mapping[str, Tensor | None]) -> nn.Module:
    """An object of a K-shot layer's plain class with these parameters and all else of the layer's."""
    assert layer.plain is not None, "a mixed layer has a plain class"
    plain = layer.plain.__new__(layer.plain)
    kept = {name: value for name, value in vars(layer).items() if name not in _OWN_ATTRIBUTES}
    vars(plain).update({**kept, "_parameters": dict(parameters)})
    return plain


def _empty(shape: tuple[int, ...]) -> nn.Parameter:
    return nn.Parameter(torch.empty(shape, device="meta"))


def mixed_tensors(dictionaries: Sequence[Tensor], code: Tensor) -> list[Tensor]:
    """Each dictionary `[K, ...]`, a number's `[K]` too, mixed by a code `[K]` or `[N, K]`: `[...]` or `[N, ...]`."""
    of_usual_rank = [each if 2 <= each.dim() <= 6 else each.reshape(len(each), -1) for each in dictionaries]
    values = KF.mix_weights(of_usual_rank, code)
    return [
        value if each is given else value.reshape((*code.shape[:-1], *given.shape[1:]))
        for value, each, given in zip(values, of_usual_rank, dictionaries)
    ]
