"""Several operations at the place of one: their weighted sum."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn


class Mixture(nn.Module):
    """Adds up what some operations make of one input, each times its weight:

        output = sum_i weight_i * operation_i(input)

    No operation may change its input in place, as the others read it too.

    Args:
        operations: from one input to outputs of one shape; at least one.
        weights: a tensor of a single number for each operation, which gets its gradient; None to add them up as they
            are.

    Example:
        >>> import torch
        >>> half, third = torch.tensor(0.5), torch.tensor(0.25, requires_grad=True)
        >>> output = Mixture([nn.Identity(), nn.ReLU()], [half, third])(torch.tensor([-4.0, 4.0]))
        >>> output.tolist()
        [-2.0, 3.0]
        >>> output.sum().backward()
        >>> third.grad
        tensor(4.)
    """

    def __init__(self, operations: Sequence[nn.Module], weights: Sequence[Tensor] | None = None) -> None:
        super().__init__()
        if not operations or (weights is not None and len(weights) != len(operations)):
            raise ValueError(
                f"weights: expected one for each of at least one operation, "
                f"got {'none' if weights is None else len(weights)} for {len(operations)}"
            )
        self.operations = nn.ModuleList(operations)
        self.weights = None if weights is None else list(weights)

    def forward(self, input: Tensor) -> Tensor:
        outputs = [operation(input) for operation in self.operations]
        if self.weights is not None:
            outputs = [weight * output for weight, output in zip(self.weights, outputs)]
        total, *others = outputs
        for output in others:
            total = total + output
        return total
