"""Optimiser for weight dictionaries."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from kshot_ext.ops.compact_gradient import CompactGradient, want_compact_gradient
from kshot_ext.ops.sgd_update import sgd_update


class KShotSGD(Optimizer):
    """Stochastic gradient descent that never stores a dense gradient of a dictionary.

    The gradient of a weight dictionary is the outer product of a code and one effective-weight gradient:
    K times less memory than the dense `[K, ...]` tensor. While a KShotSGD owns a parameter, backward passes leave
    that compact form in `parameter.grad`, and `step` updates all K copies from it in one pass:

        g = dL/dw + weight_decay * w
        v = momentum * v + (1 - dampening) * g        (v = g at the first step)
        w = w - lr * (g + momentum * v if nesterov else v)

    Results equal `torch.optim.SGD` within rounding, and so do state dicts. Ordinary parameters are updated from
    their ordinary gradients. Inside `torch.compile`, and for codes per sample, gradients are dense and still work.

    Args:
        params: parameters, or groups of them as for any torch optimiser.
        lr: learning rate.
        momentum, dampening, weight_decay, nesterov: as in `torch.optim.SGD`.

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
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, group)
        return loss

    def _update(self, parameter: Tensor, group: dict[str, Any]) -> None:
        state = self.state[parameter]
        momentum_buffer = state.get("momentum_buffer")
        first = momentum_buffer is None
        if first and group["momentum"] != 0:
            momentum_buffer = state["momentum_buffer"] = torch.zeros_like(parameter)
        grad = parameter.grad
        uses = grad.uses if isinstance(grad, CompactGradient) else None
        sgd_update(
            parameter,
            momentum_buffer,
            grad if uses is None else None,
            uses,
            lr=float(group["lr"]),
            momentum=group["momentum"],
            dampening=0.0 if first else group["dampening"],
            weight_decay=group["weight_decay"],
            nesterov=group["nesterov"],
        )
