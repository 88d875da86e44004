"""What optimisers of weight dictionaries have in common: they own parameters, and update those alike in one call."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Hashable, Iterator
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.optim import Optimizer

from kshot_ext.ops.compact_gradient import SumOfUses
from kshot_ext.ops.dictionary_update import Uses
from kshot_ext.ops.gradient_slot import gradient_in_slot, own, zero_compact

_MOST_USES = 40  # of one dictionary in one step: CUDA's kernels take no more (kMostUses)


class DictionaryOptimizer(Optimizer):
    """An optimiser that takes gradients of dictionaries in their compact form; see `kshot_ext.optim`."""

    # Settings that states written by older versions, or by torch, may lack; and how they were meant.
    _absent: ClassVar[dict[str, Any]] = {"maximize": False, "foreach": None, "differentiable": False, "fused": None}
    # Ways to run that torch's optimisers have and this has not, and why. They say nothing about the rule, so a
    # state that was written by an optimiser that ran so is loaded and run in the one way that there is.
    _refused: ClassVar[dict[str, str]] = {
        "differentiable": "its kernels have no derivative; use torch's optimiser to differentiate through steps"
    }

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        settings = {**self.defaults, **param_group}
        for name, why in self._refused.items():
            if settings.get(name):
                raise ValueError(f"{type(self).__name__} does not support {name}=True: {why}")
        super().add_param_group(param_group)
        for parameter in self.param_groups[-1]["params"]:
            self._own(parameter)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients, as in torch, at no cost for compact ones.

        Args:
            set_to_none: whether they become None rather than zeros.
        """
        compact = [p for p in self._parameters() if isinstance(gradient_in_slot(p), SumOfUses)]
        for parameter in compact:
            parameter.grad = None
        super().zero_grad(set_to_none)
        if not set_to_none:
            for parameter in compact:
                zero_compact(parameter)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update every parameter that has a gradient. `closure` re-evaluates the model and returns the loss."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            self._update(group)
        return loss

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        for group in self.param_groups:
            for name, value in self._absent.items():
                group.setdefault(name, value)
            group.update(dict.fromkeys(self._refused, False))
        for parameter in self._parameters():  # plain ones, if this optimiser was copied or unpickled
            self._own(parameter)

    def _parameters(self) -> Iterator[Tensor]:
        return (parameter for group in self.param_groups for parameter in group["params"])

    def _own(self, parameter: Tensor) -> None:
        if parameter.dim() > 1:
            own(parameter, self)

    def _update(self, group: dict[str, Any]) -> None:
        alike: dict[tuple[torch.device, Hashable], list[Tensor]] = {}
        for parameter in group["params"]:
            gradient = gradient_in_slot(parameter)
            if gradient is not None and not _kernels_take(parameter, gradient):
                self._update_as_torch_does(parameter, group)
            elif gradient is not None:
                alike.setdefault((parameter.device, self._kind(parameter, group)), []).append(parameter)
        for (_, kind), parameters in alike.items():
            grads = [_as_kernels_take_it(parameter) for parameter in parameters]
            dense = [None if isinstance(grad, SumOfUses) else grad for grad in grads]
            uses = [grad.uses if isinstance(grad, SumOfUses) else () for grad in grads]
            self._update_by_kernels(parameters, dense, uses, group, kind)

    def _kind(self, parameter: Tensor, group: dict[str, Any]) -> Hashable:
        """What parameters of one call have in common beside their group."""
        return None

    @abstractmethod
    def _update_by_kernels(
        self, parameters: list[Tensor], grads: list[Tensor | None], uses: Uses, group: dict[str, Any], kind: Hashable
    ) -> None:
        """Parameters on one device, of one kind, in one call."""

    @abstractmethod
    def _update_as_torch_does(self, parameter: Tensor, group: dict[str, Any]) -> None:
        """A parameter, or a gradient, that kernels do not take."""


def check_number(name: str, value: float | Tensor, below: float | None = None) -> None:
    """A setting that is a number, or a tensor with one, of at least 0.

    Raises:
        ValueError: it has several elements, or is out of range.
    """
    if isinstance(value, Tensor) and value.numel() != 1:
        raise ValueError(f"{name} must be a number or a tensor with one element, got shape {list(value.shape)}")
    if not value >= 0 or (below is not None and not value < below):
        raise ValueError(f"{name} must be >= 0{'' if below is None else f' and < {below:g}'}, got {value}")


def _kernels_take(parameter: Tensor, gradient: Tensor | SumOfUses) -> bool:
    """Whether neither is sparse, complex, or spread over processes (a `DTensor`) or otherwise of a class of its own."""
    return isinstance(gradient, SumOfUses) or all(
        tensor.layout == torch.strided
        and tensor.is_floating_point()
        and type(tensor).__torch_dispatch__ is Tensor.__torch_dispatch__
        for tensor in (parameter, gradient)
    )


def _as_kernels_take_it(parameter: Tensor) -> Tensor | SumOfUses | None:
    """The gradient: dense if it has very many uses, or if the parameter got another dtype or device since."""
    gradient = gradient_in_slot(parameter)
    if isinstance(gradient, SumOfUses):
        alike = (gradient.dtype, gradient.device) == (parameter.dtype, parameter.device)
        if len(gradient.uses) > _MOST_USES or not alike:
            return parameter.grad
    return gradient
