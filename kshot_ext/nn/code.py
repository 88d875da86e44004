"""The code of a module: given with the call, or set beforehand for a whole model."""

from __future__ import annotations

import copy
import functools
import inspect
import operator
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn
from torch.fx import Proxy

from kshot_ext.nn.sample_rows import SampleRows, UnknownRows
from kshot_ext.nn.shots import stack_shots

if TYPE_CHECKING:
    from typing_extensions import Self


class KShotModule(nn.Module):
    """Base of the modules that keep K copies of their parameters.

    The first dimension of every parameter counts the copies. Copies may be kept in channels_last:
    `model.to(memory_format=torch.channels_last)` works as on plain layers.

    Attributes:
        num_shots: K, the number of copies.
        sample_rows: where the input has its samples, as `kshot_ext.find_batch_axes` found; None if nobody has told.
        check_code: verify that each code is finite, non-negative and sums to one; costs a device
            synchronisation on CUDA, so it is off unless asked for.
        plain: the class of plain layers that it stands for, if any; a layer that `kshot_ext.convert` made of another
            class has that one.
    """

    plain: type[nn.Module] | None = None
    parts_read: ClassVar[frozenset[str]] = frozenset()  # parts whose weight its forward reads, K-shot ones too
    num_shots: int
    check_code: bool = False

    def __init__(self, num_shots: int) -> None:
        nn.Module.__init__(self)  # and of no class of plain layers that a K-shot one belongs to
        if isinstance(num_shots, bool) or not isinstance(num_shots, int) or num_shots < 1:
            raise ValueError(f"num_shots must be an int >= 1, got {num_shots!r}")
        self.num_shots = num_shots
        self.sample_rows: SampleRows | None = None
        self._code: Tensor | None = None
        self._rows: SampleRows | None = None

    def leaf_of_graph(self, *arguments: Any, **named: Any) -> Proxy:
        """A call of this layer in a graph that `torch.fx` traces: the layer is a leaf, as torch's own layers are.

        Forwards ask by `isinstance(input, Proxy)`, as a `__call__` would take time in every call.
        """
        tracer = arguments[0].tracer
        given = {name: value for name, value in named.items() if value is not None}
        leaf: Proxy = tracer.create_proxy("call_module", tracer.path_of_module(self), arguments, given)
        return leaf

    def __prepare_scriptable__(self) -> nn.Module:
        raise RuntimeError(
            f"torch.jit.script cannot compile a {self._get_name()}: script kshot_ext.merge(model, code), or take "
            "torch.export or torch.jit.trace"
        )

    def _get_name(self) -> str:
        return type(self).__name__

    def row_axes(self, input: Tensor) -> range:
        """The axes of an input that could count samples."""
        return range(1)

    def code_of_rows(self, input: Tensor) -> Tensor | None:
        """The code that `set_code` left here; one per sample as that of each row of the input."""
        if self._rows is None or self._code is None:
            return self._code
        return self._rows.spread(self, input, self._code)

    def resolve_code(self, code: Tensor | None) -> Tensor:
        """The code to use: the given one, else the one that `set_code` left here."""
        if code is None:
            code = self._code
        if code is None:
            raise ValueError(
                f"{self._get_name()} needs a code of {self.num_shots} entries: "
                "pass it to forward, or call kshot_ext.set_code(model, code) before (copies of a model have none)"
            )
        if self.check_code:
            require_simplex(code)
        return code

    @classmethod
    def geometry(cls, layer: nn.Module) -> dict[str, Any]:
        """The arguments, but for device and dtype, that make a layer like a plain or a K-shot one of this kind."""
        raise NotImplementedError(f"{cls.__name__} does not say what makes a layer like {type(layer).__name__}")

    @classmethod
    def from_plain(cls, layer: nn.Module, num_shots: int) -> Self:
        """A K-shot layer with the geometry of a plain one, on the meta device: see `kshot_ext.register_conversion`."""
        make: Callable[..., Self] = cls
        return make(**cls.geometry(layer), device="meta", num_shots=num_shots)

    def to_plain(self) -> nn.Module:
        """A plain layer with the geometry of this one, on the meta device."""
        assert self.plain is not None, "a class without a plain one has a to_plain of its own"
        make: Callable[..., nn.Module] = self.plain
        return make(**self.geometry(self), device="meta")

    def copies(self) -> Iterator[nn.Module]:
        """Plain layers, one for each copy: their parameters are views of the dictionaries; all else is shared."""
        for shot in range(self.num_shots):
            plain = self.to_plain().train(self.training)
            for name, parameter in plain._parameters.items():
                if parameter is not None:
                    dictionary = getattr(self, name)
                    leading = (shot, *map(slice, parameter.shape))
                    view = dictionary.detach()[leading]
                    plain._parameters[name] = nn.Parameter(view, dictionary.requires_grad)
            vars(plain)["_buffers"] = self._buffers
            yield plain

    def reset_parameters(self) -> None:
        """Start each copy as the plain layer starts, with the fan of one copy; its running statistics, too."""
        plain: Any
        for plain in self.copies():
            plain.reset_parameters()

    def settle_copies(self) -> None:
        """Make equal again what must be equal in all copies, after noise was added to them."""

    def narrowed(self, plain: Any) -> Self:
        """This layer with the channel counts of a plain one: it uses the leading channels of the same tensors.

        Parameters and buffers are shared, not copied: training either trains both.

        Args:
            plain: layer of the same kind; on the meta device it costs no memory.

        Raises:
            ValueError: if it has other parameters, or larger ones.
        """
        shapes, wanted = ({name: tuple(p.shape) for name, p in _parameters(layer)} for layer in (self, plain))
        fits = shapes.keys() == wanted.keys() and all(
            len(shape) == len(wanted[name]) + 1 and all(map(operator.ge, shape[1:], wanted[name]))
            for name, shape in shapes.items()
        )
        if not fits:
            raise ValueError(f"{type(self).__name__} keeps {shapes}, whose leading part cannot be {wanted}")
        return copy.copy(self)  # a shallow copy shares the tables of parameters and buffers themselves

    def __getstate__(self) -> dict[str, Any]:
        # A set code may hang on a graph, which neither copies nor pickles; it belongs to a step, not to the model.
        return {**self.__dict__, "_code": None, "_rows": None}

    def _load_from_state_dict(
        self, state_dict: Mapping[str, Any], prefix: str, local_metadata: Mapping[str, Any], *arguments: Any
    ) -> None:
        # The tensor of a plain layer fills all copies.
        filled = {}
        for name, dictionary in self._parameters.items():
            value = state_dict.get(prefix + name)
            if isinstance(value, Tensor) and dictionary is not None and value.shape == dictionary.shape[1:]:
                copies = value.expand(self.num_shots, *value.shape)
                assigned = local_metadata.get("assign_to_params_buffers", False)
                filled[prefix + name] = stack_shots(copies) if assigned else copies
        super()._load_from_state_dict({**state_dict, **filled}, prefix, local_metadata, *arguments)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        # Module.to(memory_format=...) looks at the rank: show it the copies as one tall plain weight.
        def apply_to_copies(tensor: Tensor) -> Tensor:
            if tensor.dim() < 3:
                return fn(tensor)
            changed: Tensor = fn(tensor.flatten(0, 1)).unflatten(0, tensor.shape[:2])
            return changed

        applied: Self = super()._apply(apply_to_copies, recurse)  # type: ignore[no-untyped-call]  # torch's own
        return applied


class LeafOfGraphs(KShotModule):
    """Base of layers whose every call may ask whether `torch.fx` traces it, so that no forward of theirs has to."""

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        if arguments and isinstance(arguments[0], Proxy):
            return self.leaf_of_graph(*arguments, **named)
        return super().__call__(*arguments, **named)


def by_samples(forward: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """A layer's forward, `forward(self, input, ..., code=None)`, that gives each row of its input its sample's code."""
    signature = inspect.signature(forward)

    @functools.wraps(forward)
    def with_own_codes(self: KShotModule, *arguments: Any, **named: Any) -> Tensor:
        if self._rows is None:
            return forward(self, *arguments, **named)
        given = signature.bind(self, *arguments, **named).arguments
        if given.get("code") is not None:
            return forward(self, *arguments, **named)
        _, name_of_input, *others = given
        options = {name: given[name] for name in others if name != "code"}
        return self._rows.call(self, given[name_of_input], self._code, **options)

    return with_own_codes


def _parameters(layer: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    return layer.named_parameters(recurse=False)


def require_simplex(code: Tensor) -> None:
    """Raise ValueError unless every row of `code` is finite, non-negative and sums to one (within 1e-3)."""
    values = _all_entries(code.detach()).to(torch.promote_types(code.dtype, torch.float32))
    if not torch.isfinite(values).all():
        raise ValueError(f"code must be finite, got {_shown(values)}")
    if (values < -1e-6).any():
        raise ValueError(f"code must be non-negative, got {_shown(values)}")
    if ((values.sum(-1) - 1).abs() > 1e-3).any():
        raise ValueError(f"each row of code must sum to 1, got sums {_shown(values.sum(-1))}")


def _all_entries(code: Tensor) -> Tensor:
    """The codes of all entries under `torch.func.vmap`, in one plain tensor: Python may decide by its values."""
    functorch = torch._C._functorch
    while functorch.is_functorch_wrapped_tensor(code):
        batch_dim = functorch.maybe_get_bdim(code)  # -1 for the wrappers of other transforms
        code = functorch.get_unwrapped(code)
        code = code if batch_dim < 0 else code.movedim(batch_dim, 0)
    return code


def set_code(model: nn.Module, code: Tensor | None) -> None:
    """Give all K-shot layers of `model` the code that they use when a call brings none.

    Args:
        model: any module that holds K-shot layers.
        code: `[K]`, or `[N, K]` for one row per sample; a code with a graph receives gradients. None takes
            the code away. Where a network moves its batch (windows, patches, positions first), let its layers know
            their samples by `kshot_ext.find_batch_axes` before.

    Raises:
        ValueError: if `model` has no K-shot layer, or a layer has another number of copies, naming the layer.

    Example:
        >>> import torch, kshot_ext
        >>> model = kshot_ext.convert(torch.nn.Sequential(torch.nn.Linear(4, 2)), num_shots=2)
        >>> kshot_ext.set_code(model, torch.tensor([0.5, 0.5]))
        >>> model(torch.randn(3, 4)).shape
        torch.Size([3, 2])
    """
    layers = [(name, layer) for name, layer in model.named_modules() if isinstance(layer, KShotModule)]
    if not layers:
        raise ValueError(f"{type(model).__name__} holds no K-shot layer; make some with kshot_ext.convert(model)")
    if code is not None:
        for name, layer in layers:
            if code.dim() not in (1, 2) or code.shape[-1] != layer.num_shots:
                raise ValueError(
                    f"layer {name or type(layer).__name__!r} keeps {layer.num_shots} copies: "
                    f"code must be [{layer.num_shots}] or [N, {layer.num_shots}], got {list(code.shape)}"
                )
    per_sample = code is not None and code.dim() == 2
    for _, layer in layers:
        layer._code = code
        layer._rows = (layer.sample_rows or UnknownRows()) if per_sample else None


def _shown(values: Tensor) -> str:
    flat = [f"{value:.4g}" for value in values.flatten()[:8].tolist()]
    return "[" + ", ".join(flat) + (", ...]" if values.numel() > 8 else "]")
