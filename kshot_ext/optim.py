"""Optimiser for weight dictionaries, the groups of parameters it takes, and clipping of their gradients."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.sgd import sgd

from kshot_ext.nn.code import KShotModule
from kshot_ext.ops.clipping import clip_grad_norm_
from kshot_ext.ops.compact_gradient import SumOfUses
from kshot_ext.ops.gradient_slot import gradient_in_slot, own, zero_compact
from kshot_ext.ops.sgd_update import sgd_update

__all__ = ["KShotSGD", "clip_grad_norm_", "decay_groups"]

_MOST_USES = 40  # of one dictionary in one step: CUDA's kernel takes no more (kMaxSgdUses)


class KShotSGD(Optimizer):
    """Stochastic gradient descent that never stores a dense gradient of a dictionary.

    The gradient of a weight dictionary is the outer product of a code and one effective-weight gradient:
    K times less memory than the dense `[K, ...]` tensor. While a KShotSGD owns an `nn.Parameter`, backward passes
    keep that compact form beside it, and `step` updates all K copies from it in one pass:

        g = dL/dw + weight_decay * w
        v = momentum * v + (1 - dampening) * g        (v = g at the first step)
        w = w - lr * (g + momentum * v if nesterov else v)

    with -dL/dw for dL/dw to maximize. Results equal `torch.optim.SGD` within rounding, and so do state dicts. All
    parameters of a group are updated in one call of the kernels (one per device), ordinary ones from their ordinary
    gradients. Sparse, complex and distributed (`DTensor`) ones are updated by torch's own code.

    Whoever reads `parameter.grad` gets the dense tensor, an ordinary one, which is the gradient from then on: every
    edit of it counts, whether in place, through a view, by a hook or by assignment. Only that reading costs: the time
    and memory of a dense gradient, until `zero_grad`. So to keep the compact form, call this optimiser's `zero_grad`
    and not the model's, and clip by `kshot_ext.optim.clip_grad_norm_`; `torch.nn.utils` and gradient scalers are as
    right, on dense gradients. Gradients are dense from the start for parameters with hooks, for codes per sample,
    with `create_graph`, inside `torch.compile`, and while the gradient to add to is dense.

    The parameters' class changes to one of this library, derived from `nn.Parameter`. Copied, pickled and sent to
    other processes they are plain parameters.

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
        for parameter in self._parameters():  # plain ones, if this optimiser was copied or unpickled
            self._own(parameter)

    def _parameters(self) -> Iterator[Tensor]:
        return (parameter for group in self.param_groups for parameter in group["params"])

    def _own(self, parameter: Tensor) -> None:
        if parameter.dim() > 1:
            own(parameter, self)

    def _update(self, group: dict[str, Any]) -> None:
        alike: dict[tuple[torch.device, float], list[Tensor]] = {}
        for parameter in group["params"]:
            gradient = gradient_in_slot(parameter)
            if gradient is not None and not _kernels_take(parameter, gradient):
                self._update_as_torch_does(parameter, group)
            elif gradient is not None:
                first = self.state[parameter].get("momentum_buffer") is None
                alike.setdefault((parameter.device, 0.0 if first else group["dampening"]), []).append(parameter)
        for (_, dampening), parameters in alike.items():
            grads = [_as_kernels_take_it(parameter) for parameter in parameters]
            sgd_update(
                parameters,
                [self._momentum_buffer(parameter) for parameter in parameters] if group["momentum"] else [],
                [None if isinstance(grad, SumOfUses) else grad for grad in grads],
                [grad.uses if isinstance(grad, SumOfUses) else () for grad in grads],
                lr=float(group["lr"]),
                momentum=group["momentum"],
                dampening=dampening,
                weight_decay=group["weight_decay"],
                nesterov=group["nesterov"],
                maximize=group["maximize"],
            )

    def _update_as_torch_does(self, parameter: Tensor, group: dict[str, Any]) -> None:
        buffers = [self.state[parameter].get("momentum_buffer")]
        rule = {name: group[name] for name in ("momentum", "dampening", "weight_decay", "nesterov", "maximize")}
        sgd([parameter], [parameter.grad], buffers, parameter.grad.is_sparse, lr=float(group["lr"]), **rule)
        if group["momentum"]:
            self.state[parameter]["momentum_buffer"] = buffers[0]

    def _momentum_buffer(self, parameter: Tensor) -> Tensor:
        state = self.state[parameter]
        if state.get("momentum_buffer") is None:
            state["momentum_buffer"] = torch.zeros_like(parameter)
        return state["momentum_buffer"]


def decay_groups(module: nn.Module, weight_decay: float, *, decay_norms: bool = False) -> list[dict[str, Any]]:
    """A module's parameters in groups for an optimiser: weights, which decay, then biases and norm parameters.

    The second kind sets offsets and scales, which do not make a network larger than its data (He et al., "Bag of
    Tricks for Image Classification with Convolutional Neural Networks", CVPR 2019). It is told by having a single
    number per channel, in a K-shot layer one for each copy: a rule like `p.ndim <= 1` finds none of those there.

    Args:
        module: each of its parameters lands in one group.
        weight_decay: of the first group.
        decay_norms: whether the second group decays as well.

    Returns:
        Groups as optimisers take them; an empty one is left out.

    Example:
        >>> groups = decay_groups(nn.Sequential(nn.Linear(4, 2), nn.BatchNorm1d(2)), 0.1)
        >>> [(len(group["params"]), group["weight_decay"]) for group in groups]
        [(1, 0.1), (3, 0.0)]
    """
    weights: dict[nn.Parameter, None] = {}
    others: dict[nn.Parameter, None] = {}
    for layer in module.modules():
        for parameter in layer.parameters(recurse=False):
            dim = parameter.dim() - isinstance(layer, KShotModule)
            (weights if dim > 1 else others)[parameter] = None
    groups = [
        {"params": list(weights), "weight_decay": weight_decay},
        {"params": list(others), "weight_decay": weight_decay if decay_norms else 0.0},
    ]
    return [group for group in groups if group["params"]]


def _kernels_take(parameter: Tensor, gradient: Tensor | SumOfUses) -> bool:
    """Whether neither is sparse, complex, or spread over processes (a `DTensor`) or otherwise of a class of its own."""
    return isinstance(gradient, SumOfUses) or all(
        tensor.layout == torch.strided
        and tensor.is_floating_point()
        and type(tensor).__torch_dispatch__ is Tensor.__torch_dispatch__
        for tensor in (parameter, gradient)
    )


def _as_kernels_take_it(parameter: Tensor) -> Tensor | SumOfUses:
    """The gradient: dense if it has very many uses, or if the parameter got another dtype or device since."""
    gradient = gradient_in_slot(parameter)
    if isinstance(gradient, SumOfUses):
        alike = (gradient.dtype, gradient.device) == (parameter.dtype, parameter.device)
        if len(gradient.uses) > _MOST_USES or not alike:
            return parameter.grad
    return gradient
