"""Optimisers for weight dictionaries, the groups of parameters they take, and clipping of their gradients."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn
from torch.optim.adamw import adamw
from torch.optim.sgd import sgd

from kshot_ext.nn.code import KShotModule
from kshot_ext.ops.adamw_update import adamw_update
from kshot_ext.ops.clipping import clip_grad_norm_
from kshot_ext.ops.dictionary_optimizer import DictionaryOptimizer, check_number
from kshot_ext.ops.dictionary_update import Uses
from kshot_ext.ops.sgd_update import sgd_update

__all__ = ["KShotAdamW", "KShotSGD", "clip_grad_norm_", "decay_groups"]


class KShotSGD(DictionaryOptimizer):
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
        lr: learning rate, a number or a tensor with one.
        momentum, dampening, weight_decay, nesterov, maximize: as in `torch.optim.SGD`.
        foreach, fused: accepted and without effect: a step is one call of our kernels anyway.
        differentiable: only False.

    Raises:
        ValueError: if a hyper-parameter is out of range, or `differentiable` is True.

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
        lr: float | Tensor = 1e-3,
        momentum: float = 0.0,
        dampening: float = 0.0,
        weight_decay: float | Tensor = 0.0,
        nesterov: bool = False,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        differentiable: bool = False,
        fused: bool | None = None,
    ) -> None:
        for name, value in (("lr", lr), ("momentum", momentum), ("weight_decay", weight_decay)):
            check_number(name, value)
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
            "foreach": foreach,
            "differentiable": differentiable,
            "fused": fused,
        }
        super().__init__(params, defaults)

    def _kind(self, parameter: Tensor, group: dict[str, Any]) -> float:
        """The dampening: there is none in the first step."""
        return 0.0 if self.state[parameter].get("momentum_buffer") is None else group["dampening"]

    def _update_by_kernels(
        self, parameters: list[Tensor], grads: list[Tensor | None], uses: Uses, group: dict[str, Any], kind: Hashable
    ) -> None:
        sgd_update(
            parameters,
            [self._momentum_buffer(parameter) for parameter in parameters] if group["momentum"] else [],
            grads,
            uses,
            lr=float(group["lr"]),
            momentum=group["momentum"],
            dampening=cast("float", kind),  # of `_kind`
            weight_decay=float(group["weight_decay"]),
            nesterov=group["nesterov"],
            maximize=group["maximize"],
        )

    def _update_as_torch_does(self, parameter: Tensor, group: dict[str, Any]) -> None:
        grad, buffers = _dense_gradient(parameter), [self.state[parameter].get("momentum_buffer")]
        rule = {name: group[name] for name in ("momentum", "dampening", "weight_decay", "nesterov", "maximize")}
        sgd([parameter], [grad], buffers, grad.is_sparse, lr=float(group["lr"]), **rule)
        if group["momentum"]:
            self.state[parameter]["momentum_buffer"] = buffers[0]

    def _momentum_buffer(self, parameter: Tensor) -> Tensor:
        state = self.state[parameter]
        if state.get("momentum_buffer") is None:
            state["momentum_buffer"] = torch.zeros_like(parameter)
        buffer: Tensor = state["momentum_buffer"]
        return buffer


class KShotAdamW(DictionaryOptimizer):
    """Adam with decoupled weight decay that never stores a dense gradient of a dictionary.

    With g = dL/dw (-dL/dw to maximize), in step t of a parameter

        m = beta1 * m + (1 - beta1) * g
        v = beta2 * v + (1 - beta2) * g^2
        w = (1 - lr * weight_decay) * w - lr / (1 - beta1^t) * m / (sqrt(u / (1 - beta2^t)) + eps)

    where u is v, or with `amsgrad` the largest v so far, element by element. Everything said of `KShotSGD` holds here:
    `step` updates all K copies with their moments from the compact gradient in one pass, and all parameters of a group
    in one call; whoever reads `parameter.grad` makes the gradient dense. Each copy has moments of its own, since codes
    change from step to step: what is saved is the gradient, not the state.

    Results equal `torch.optim.AdamW` within rounding, and state dicts load in both directions. Where a dictionary's
    code is 0 its gradient is 0, so that its moments decay and the weight moves on by them, as on dense gradients.
    Complex and distributed (`DTensor`) parameters are updated by torch's own code, sparse gradients are refused.

    Args:
        params: parameters, or groups of them as for any torch optimiser.
        lr: learning rate, a number or a tensor with one.
        betas: decay of the two moments, numbers or tensors with one.
        eps, weight_decay, amsgrad, maximize: as in `torch.optim.AdamW`.
        foreach, fused: accepted and without effect: a step is one call of our kernels anyway.
        capturable, differentiable: only False. A loaded state of an optimiser that had them runs without them.

    Raises:
        ValueError: if a hyper-parameter is out of range, or `capturable` or `differentiable` is True.
        RuntimeError: by `step`, if a gradient is sparse, or while a CUDA graph is captured.

    Example:
        >>> import kshot_ext
        >>> layer = kshot_ext.nn.KShotLinear(4, 2, num_shots=8)
        >>> optimizer = KShotAdamW(layer.parameters(), lr=1e-3, weight_decay=0.05)
        >>> layer(torch.randn(3, 4), torch.full((8,), 1 / 8)).sum().backward()
        >>> optimizer.step()
        >>> optimizer.zero_grad()

    Paper: Loshchilov and Hutter, "Decoupled Weight Decay Regularization", ICLR 2019; `amsgrad`: Reddi et al., "On the
    Convergence of Adam and Beyond", ICLR 2018.
    """

    _absent: ClassVar[dict[str, Any]] = {**DictionaryOptimizer._absent, "amsgrad": False, "capturable": False}
    _refused: ClassVar[dict[str, str]] = {
        **DictionaryOptimizer._refused,
        "capturable": "it reads the number of the step on the CPU, which a captured graph would repeat; "
        "use torch.optim.AdamW for steps inside CUDA graphs",
    }

    def __init__(
        self,
        params: Iterable[Any],
        lr: float | Tensor = 1e-3,
        betas: tuple[float | Tensor, float | Tensor] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        amsgrad: bool = False,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
    ) -> None:
        for name, value in (("lr", lr), ("eps", eps), ("weight_decay", weight_decay)):
            check_number(name, value)
        for i, beta in enumerate(betas):
            check_number(f"betas[{i}]", beta, below=1.0)
        defaults = {
            "lr": lr,
            "betas": tuple(betas),
            "eps": eps,
            "weight_decay": weight_decay,
            "amsgrad": amsgrad,
            "maximize": maximize,
            "foreach": foreach,
            "capturable": capturable,
            "differentiable": differentiable,
            "fused": fused,
        }
        super().__init__(params, defaults)

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        for of_one in self.state.values():
            if "step" in of_one:  # a number in old files; on the device where torch's optimiser was fused
                of_one["step"] = torch.as_tensor(of_one["step"], dtype=torch.float32, device="cpu")

    def _update_by_kernels(
        self, parameters: list[Tensor], grads: list[Tensor | None], uses: Uses, group: dict[str, Any], kind: Hashable
    ) -> None:
        if torch.cuda.is_initialized() and torch.cuda.is_current_stream_capturing():
            raise RuntimeError(f"KShotAdamW.step cannot be captured in a CUDA graph: {self._refused['capturable']}")
        states = [self._state_of(parameter, group) for parameter in parameters]
        steps = [state["step"] for state in states]
        beta1, beta2 = group["betas"]
        adamw_update(
            parameters,
            [state["exp_avg"] for state in states],
            [state["exp_avg_sq"] for state in states],
            [state["max_exp_avg_sq"] for state in states] if group["amsgrad"] else [],
            [float(step) + 1 for step in steps],
            grads,
            uses,
            lr=float(group["lr"]),
            beta1=float(beta1),
            beta2=float(beta2),
            eps=group["eps"],
            weight_decay=group["weight_decay"],
            maximize=group["maximize"],
        )
        torch._foreach_add_(steps, 1)

    def _update_as_torch_does(self, parameter: Tensor, group: dict[str, Any]) -> None:
        grad = _dense_gradient(parameter)
        if grad.layout != torch.strided:
            raise RuntimeError(
                "KShotAdamW does not support sparse gradients: moments of rows without a gradient decay, too; "
                "give such parameters to torch.optim.SparseAdam"
            )
        state = self._state_of(parameter, group)
        largest = [state["max_exp_avg_sq"]] if group["amsgrad"] else []
        beta1, beta2 = group["betas"]
        rule = {name: group[name] for name in ("amsgrad", "lr", "weight_decay", "eps", "maximize")}
        is_complex = parameter.is_complex()
        adamw(
            [parameter], [grad], [state["exp_avg"]], [state["exp_avg_sq"]], largest, [state["step"]],
            foreach=False, has_complex=is_complex, beta1=beta1, beta2=beta2, **rule,
        )  # fmt: skip

    def _state_of(self, parameter: Tensor, group: dict[str, Any]) -> dict[str, Tensor]:
        """What is kept of a parameter, made where there is none."""
        state: dict[str, Tensor] = self.state[parameter]
        if "step" not in state:
            state["step"] = torch.tensor(0.0, dtype=torch.float32)
        for name in ("exp_avg", "exp_avg_sq", *(("max_exp_avg_sq",) if group["amsgrad"] else ())):
            if name not in state:
                state[name] = torch.zeros_like(parameter)
        return state


def _dense_gradient(parameter: Tensor) -> Tensor:
    """The gradient of a parameter that has one."""
    grad = parameter.grad
    assert grad is not None, "only parameters with a gradient are updated"
    return grad


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
    of_copies = {part for layer in module.modules() if isinstance(layer, KShotModule) for part in _own_parts(layer)}
    for layer in module.modules():
        for parameter in layer.parameters(recurse=False):
            dim = parameter.dim() - (layer in of_copies)
            (weights if dim > 1 else others)[parameter] = None
    groups = [
        {"params": list(weights), "weight_decay": weight_decay},
        {"params": list(others), "weight_decay": weight_decay if decay_norms else 0.0},
    ]
    return [group for group in groups if group["params"]]


def _own_parts(layer: KShotModule) -> Iterator[nn.Module]:
    """The modules that hold a layer's dictionaries: itself, and lists of what they are computed from."""
    yield layer
    parametrizations = getattr(layer, "parametrizations", None)
    if isinstance(parametrizations, nn.ModuleDict):
        yield from parametrizations.values()
