"""Optimiser steps in mixed precision, with a bound on the gradient."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from kshot_ext.ops.gradient_slot import gradient_in_slot, linear_parts, with_grads
from kshot_ext.optim import clip_grad_norm_

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class GradientSteps:
    """Forward passes in a precision, and optimiser steps on gradients that are scaled, checked and clipped as needed.

    In ``float16`` small gradients would vanish, so the loss is multiplied by a factor, which adapts, and the gradient
    divided by it before a step; a step whose gradient is not finite is left out (Micikevicius et al., "Mixed Precision
    Training", ICLR 2018). Dictionaries keep their compact gradients through all of it.

    Args:
        precision: one of ``PRECISIONS``.
        device: where the network is.

    Raises:
        ValueError: for ``float16`` on another device than CUDA.
    """

    def __init__(self, precision: str, device: torch.device) -> None:
        if precision == "float16" and device.type != "cuda":
            raise ValueError(f"precision: float16 needs a CUDA device, got {device}; bfloat16 works here")
        self._dtype = PRECISIONS[precision]
        self._device = device
        self._scaler = torch.amp.GradScaler(device.type, enabled=precision == "float16")

    def autocast(self) -> AbstractContextManager[object]:
        """The context of a forward pass and its loss."""
        if self._dtype == torch.float32:
            return nullcontext()
        return torch.autocast(self._device.type, self._dtype)

    def backward(self, loss: Tensor) -> None:
        """Adds the gradient of a loss to that of others since the last step."""
        self._scaler.scale(loss).backward()

    def gradients(self, loss: Tensor, tensors: Sequence[Tensor]) -> list[Tensor | None]:
        """The gradient of a loss by each tensor, None where it does not depend on it; no ``grad`` is touched."""
        found = torch.autograd.grad(self._scaler.scale(loss), tensors, allow_unused=True)
        if not self._scaler.is_enabled():
            return list(found)
        return [None if gradient is None else gradient / self._scaler.get_scale() for gradient in found]

    def step(self, optimizer: Optimizer, *, clip_norm: float = 0.0) -> None:
        """One step of an optimiser, whose gradients are then forgotten.

        Args:
            optimizer: all of its parameters count in the norm.
            clip_norm: largest Euclidean norm of the gradient, 0 for no limit.
        """
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        scaled: Any = _Scaled(optimizer, parameters) if self._scaler.is_enabled() else optimizer
        self._scaler.unscale_(scaled)
        if clip_norm > 0:
            clip_grad_norm_(parameters, clip_norm, foreach=True)
        self._scaler.step(scaled)
        self._scaler.update()
        optimizer.zero_grad()

    def state_dict(self) -> dict[str, Any]:
        return self._scaler.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._scaler.load_state_dict(state)


class _Scaled:
    """An optimiser as a gradient scaler is to see it: with the tensors that make up the gradients.

    The scaler divides each `grad` and checks that it is finite; read from a dictionary, it would be the dense one.
    """

    def __init__(self, optimizer: Optimizer, parameters: list[Tensor]) -> None:
        gradients = [gradient for gradient in map(gradient_in_slot, parameters) if gradient is not None]
        self.param_groups = [{"params": with_grads(linear_parts(gradients))}]
        self.step = optimizer.step
