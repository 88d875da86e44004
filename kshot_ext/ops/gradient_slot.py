"""Who sees the gradient of a parameter that an optimiser of dictionaries owns.

Autograd leaves the gradient in the parameter's slot, where it may be compact (`ops/compact_gradient.py`) for as long as
only the optimiser, and functions here, look at it. Whoever reads `parameter.grad` puts the dense tensor into the slot
and gets that: an ordinary tensor in every respect, to which later backward passes add as ever.
"""

from __future__ import annotations

import contextlib
import sys
import weakref
from collections.abc import Callable, Iterable
from multiprocessing.reduction import ForkingPickler
from typing import Any

import torch
from torch import Tensor, nn

from kshot_ext.ops.compact_gradient import CompactGradient, SumOfUses

_slot: Any = Tensor.grad  # the descriptor of the slot that C++ keeps


def attributes_of(parameter: Tensor) -> dict[str, Any]:
    """The attributes that users gave a parameter."""
    return {name: value for name, value in vars(parameter).items() if name not in _OURS}


class OwnedParameter(nn.Parameter):
    """A parameter whose gradient may be compact until someone reads `grad`.

    Parameters become one by `own`. Copies, pickled ones and what another process gets are ordinary parameters again.
    """

    @property
    def grad(self) -> Tensor | None:
        gradient: Tensor | None = _slot.__get__(self)
        if not isinstance(gradient, CompactGradient):
            return gradient
        dense = gradient.content.dense()
        # If the parameter got another dtype since, torch refuses; it leaves gradients as they are then.
        with contextlib.suppress(RuntimeError):
            _slot.__set__(self, dense)
        return dense

    @grad.setter
    def grad(self, gradient: Tensor | None) -> None:
        _slot.__set__(self, gradient)

    @grad.deleter
    def grad(self) -> None:
        _slot.__delete__(self)

    def as_parameter(self) -> nn.Parameter:
        """An ordinary parameter of the same memory."""
        parameter = nn.Parameter(self.data, self.requires_grad)
        parameter.__dict__.update(attributes_of(self))
        return parameter

    def detach(self) -> Tensor:
        detached = super().detach()
        if sys._getframe(1).f_code is nn.Parameter.__new__.__code__:  # which makes parameters of one class from it only
            detached.__class__ = OwnedParameter
        return detached

    def __repr__(self) -> str:  # type: ignore[override]  # torch's takes an argument of its own use
        return repr(self.as_parameter())

    def __deepcopy__(self, memo: dict[int, Any]) -> nn.Parameter:
        copied: nn.Parameter = nn.Parameter.__deepcopy__(self, memo)
        copied.__class__ = nn.Parameter
        return copied

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self.as_parameter().__reduce_ex__(protocol)


_OWNERS = "_compact_gradient_owners"
_OURS = (_OWNERS, "_is_param")  # the second is how torch marks parameters of other classes


def _itself(parameter: nn.Parameter) -> nn.Parameter:
    return parameter


# Between processes torch shares the memory of parameters, by their exact class.
ForkingPickler.register(OwnedParameter, lambda parameter: (_itself, (parameter.as_parameter(),)))


def own(parameter: Tensor, owner: object) -> None:
    """Let gradients of `parameter` be compact for as long as `owner` (an optimiser) lives.

    Parameters of classes of their own, and other leaves, keep dense gradients: their `grad` is not ours to answer for.
    """
    if type(parameter) is nn.Parameter:
        parameter.__class__ = OwnedParameter
    if isinstance(parameter, OwnedParameter):
        vars(parameter).setdefault(_OWNERS, weakref.WeakSet()).add(owner)


def takes_compact_gradient(parameter: OwnedParameter | None, node: torch.autograd.graph.Node) -> bool:
    """Whether the backward pass that runs now may leave a compact gradient: nothing but the slot would get it.

    The forward pass has kept `parameter` if the dictionary is one that an optimiser may own, and its code is shared.
    `node` is the one that runs: the `ctx` of an autograd function.

    Not with hooks on the gradient, for `torch.autograd.grad`, with `create_graph`, or in a compiler; nor where the slot
    has a dense gradient, to which autograd then adds in place.
    """
    if parameter is None or not getattr(parameter, _OWNERS, None):
        return False
    if parameter._backward_hooks or torch.is_grad_enabled() or torch.compiler.is_compiling():
        return False
    return not isinstance(gradient_in_slot(parameter), Tensor) and _accumulates_now(parameter, node)


def _accumulates_now(parameter: Tensor, node: torch.autograd.graph.Node) -> bool:
    """Whether the backward pass that runs now adds to the parameter's gradient; where torch does not tell, no."""
    will_execute: Callable[..., bool] | None = getattr(
        torch._C, "_will_engine_execute_node", None
    )  # no public name has it
    if will_execute is None:
        return False
    try:
        for reader, _ in node.next_functions:  # what `get_gradient_edge` gives, at a fiftieth of the time
            if getattr(reader, "variable", None) is parameter:
                return will_execute(reader)
        return will_execute(torch.autograd.graph.get_gradient_edge(parameter).node)
    except RuntimeError:  # captured by torch.autograd.grad; or the parameter was frozen after the forward pass
        return False


def gradient_in_slot(parameter: Tensor) -> Tensor | SumOfUses | None:
    """The gradient in the form that it has: the uses of a compact one, else `parameter.grad`.

    For functions that know that form, and give nothing of it away.
    """
    gradient: Tensor | None = _slot.__get__(parameter)
    if not isinstance(gradient, CompactGradient):
        return gradient
    content = gradient.content
    return content.dense() if content.is_dense else content


def zero_compact(parameter: Tensor) -> None:
    """Leave a compact gradient of zero."""
    _slot.__set__(parameter, CompactGradient(SumOfUses(parameter, ())))


def linear_parts(gradients: Iterable[Tensor | SumOfUses]) -> list[Tensor]:
    """Tensors whose scaling or summing scales or sums gradients, as `gradient_in_slot` gives them."""
    return [
        part
        for gradient in gradients
        for part in ([use.grad for use in gradient.uses] if isinstance(gradient, SumOfUses) else [gradient])
    ]


def with_grads(tensors: Iterable[Tensor]) -> list[Tensor]:
    """Tensors that have these as their `grad`, for functions of torch that look there for what they change."""
    stand_ins = []
    for tensor in tensors:
        stand_ins.append(tensor.detach())
        stand_ins[-1].grad = tensor
    return stand_ins
