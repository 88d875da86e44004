"""A copy of a model that keeps what `copy.deepcopy` loses of its parameters."""

from __future__ import annotations

import copy
from typing import Any

from torch import Tensor, nn

from kshot_ext.nn.obstacles import overlapping_tensors
from kshot_ext.ops.gradient_slot import OwnedParameter, attributes_of


def copy_model(model: nn.Module) -> nn.Module:
    """`copy.deepcopy(model)`, with the attributes, hooks and common memory of parameters, and without graphs.

    A tensor that a hook computes (`torch.nn.utils.weight_norm`) has a graph, which cannot be copied; the copy has its
    value until the hook computes it again.
    """
    memo: dict[int, Any] = {}
    for module in model.modules():
        for value in vars(module).values():
            if isinstance(value, Tensor) and value.grad_fn is not None:
                memo[id(value)] = value.detach().clone()
    for key, tensor in overlapping_tensors(model).items():
        shared = copy.deepcopy(tensor.detach(), memo)
        memo[key] = nn.Parameter(shared, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else shared
    parameters = [p for p in model.parameters() if type(p) in (nn.Parameter, OwnedParameter)]
    copied = copy.deepcopy(model, memo)
    for parameter in parameters:
        twin: Any = memo.get(id(parameter))
        if twin is None:  # a module that copies itself in a way of its own
            continue
        vars(twin).update(copy.deepcopy(attributes_of(parameter), memo))
        for hook in (parameter._backward_hooks or {}).values():
            twin.register_hook(hook)
        for hook in (getattr(parameter, "_post_accumulate_grad_hooks", None) or {}).values():
            twin.register_post_accumulate_grad_hook(hook)
    return copied
