"""What the steps of all optimisers have in common: the gradients of many dictionaries as lists of an operator."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from kshot_ext import backend
from kshot_ext.ops.compact_gradient import Use

Uses = Sequence[Sequence[Use]]  # of each dictionary


def kernels_serve(weights: Sequence[Tensor], *others: Sequence[Tensor | None]) -> bool:
    """Whether kernels update these weights: they serve their device, and lists like the weights have their dtypes.

    Dtypes differ where only some were converted: states after `model.half()`, gradients after `weight.data = ...`.
    """
    same_dtype = all(
        other is None or other.dtype == weight.dtype for like in others for weight, other in zip(weights, like)
    )
    return same_dtype and backend.kernels_for(weights[0].device) is not None


def use_lists(uses: Uses) -> tuple[list[int], list[Tensor], list[Tensor | None], list[Tensor]]:
    """How many uses each dictionary has; codes, gates and gradients of all of them."""
    flat = [use for of_one in uses for use in of_one]
    counts = [len(of_one) for of_one in uses]
    return counts, [use.code for use in flat], [use.gate for use in flat], [use.grad for use in flat]


def tell_autograd(*written: Sequence[Tensor]) -> None:
    """That these have changed, as torch's own operators in place do: a backward pass over old values is an error."""
    torch.autograd.graph.increment_version([tensor for tensors in written for tensor in tensors])
