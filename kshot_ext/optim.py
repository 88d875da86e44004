"""Optimiser for weight dictionaries."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from kshot_ext.ops.compact_gradient import CompactGradient, want_compact_gradient
from kshot_ext.ops.sgd_update import sgd_update

_MOST_USES = 40  # of one dictionary in one step: CUDA's kernel takes no more (kMaxSgdUses)


class KShotSGD(Optimizer):
    """Stochastic gradient descent that never stores a dense gradient of a dictionary.

    The gradient of a weight dictionary is the outer product of a code and one effective-weight gradient:
    K times less memory than the dense `[K, ...]` tensor. While a KShotSGD owns a parameter, backward passes leave
    that compact form in `parameter.grad`, and `step` updates all K copies from it in one pass:

        g = dL/dw + weight_decay * w
        v = momentum * v + (1 - dampening) * g        (v = g at the first step)
        w = w - lr * (g + momentum * v if nesterov else v)

    with -dL/dw for dL/dw to maximize. Results equal `torch.optim.SGD` within rounding, and so do state dicts. All
    parameters of a group are updated in one call of the kernels (one per device), ordinary ones from their ordinary
    gradients. Inside `torch.compile`, and for codes per sample, gradients are dense and still work.

    Args:
        params: parameters, or groups of them as for any torch optimiser.
        lr: learning rate.
        momentum, dampening, weight_decay, nesterov, maximize: as in `torch.optim.SGD`.

    Raises:
        ValueError: if a hyper-parameter is out of range.

    Example:
        >>> import kshot_ext
        >>> layer = kshot_ext.nn.KShotLinear(4, 2, num_shots=8)
        >>> optimizer = KShotSGD(layer.parameters(), lr=0.1, momentum=0.9, nesterov=True)
        >>> layer(torch.randn(3, 4), torch.full((8,), 1 / 8)).sum().backward()
        >>> optimizer.step()
        >>> optimizer.zero_grad()

    Paper: the update rule is that of `torch.optim.SGD` (Sutskever et al., ICML 2013, as torch writes it).
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        momentum: float = 0.0,
        dampening: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
        *,
        maximize: bool = False,
    ) -> None:
        for name, value in (("lr", lr), ("momentum", momentum), ("weight_decay", weight_decay)):
            if not value >= 0:
                raise ValueError(f"{name} must be >= 0, got {value}")
        if nesterov and (momentum == 0 or dampening != 0):
            raise ValueError(
                f"nesterov needs momentum > 0 and dampening 0, got momentum {momentum}, dampening {dampening}"
            )
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "dampening": dampening,
            "weight_decay": weight_decay,
            "nesterov": nesterov,
            "maximize": maximize,
        }
        super().__init__(params, defaults)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        super().add_param_group(param_group)
        for parameter in self.param_groups[-1]["params"]:
            if parameter.dim() > 1:
                want_compact_gradient(parameter, self)

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor] | None = None) -> Tensor | None:
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
            group.setdefault("maximize", False)  # older state dicts have none

    def _update(self, group: dict[str, Any]) -> None:
        alike: dict[tuple[torch.device, float], list[Tensor]] = {}
        for parameter in group["params"]:
            if parameter.grad is not None:
                first = self.state[parameter].get("momentum_buffer") is None
                alike.setdefault((parameter.device, 0.0 if first else group["dampening"]), []).append(parameter)
        for (_, dampening), parameters in alike.items():
            grads = [_bounded(parameter.grad) for parameter in parameters]
            sgd_update(
                parameters,
                [self._momentum_buffer(parameter) for parameter in parameters] if group["momentum"] else [],
                [None if isinstance(grad, CompactGradient) else grad for grad in grads],
                [grad.uses if isinstance(grad, CompactGradient) else () for grad in grads],
                lr=float(group["lr"]),
                momentum=group["momentum"],
                dampening=dampening,
                weight_decay=group["weight_decay"],
                nesterov=group["nesterov"],
                maximize=group["maximize"],
            )

    def _momentum_buffer(self, parameter: Tensor) -> Tensor:
        state = self.state[parameter]
        if state.get("momentum_buffer") is None:
            state["momentum_buffer"] = torch.zeros_like(parameter)
        return state["momentum_buffer"]


def _bounded(grad: Tensor) -> Tensor:
    """The gradient in the form that the kernels take: dense if it has very many uses."""
    too_long = isinstance(grad, CompactGradient) and len(grad.uses) > _MOST_USES
    return grad.dense() if too_long else grad
