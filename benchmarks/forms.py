"""A form: one way to do a piece of work. A contest: our forms, and those of the rivals."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

LAYOUTS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}


@dataclass(frozen=True)
class Form:
    """One way to do the work of a row.

    Args:
        name: unique in its contest.
        run: does the work once, forward and backward; this is what the clock sees.
        prepare: makes the arguments of `run`, off the clock.
        values: from the result of `run` to the tensors that all forms of a contest must agree on.
        layout: key of `LAYOUTS`; empty where there is only one.
        compiled: whether `torch.compile` is behind it, whose first run takes seconds.
        optional: whether there may be no kernel for it (`algorithm="fused"` says so by a ValueError).
    """

    name: str
    run: Callable[..., Sequence[Tensor]]
    prepare: Callable[[], tuple] = tuple
    values: Callable[[Sequence[Tensor]], Sequence[Tensor]] = tuple
    layout: str = ""
    compiled: bool = False
    optional: bool = False

    def result(self) -> tuple[Tensor, ...]:
        """The checked values of one run."""
        return tuple(self.values(self.run(*self.prepare())))


@dataclass(frozen=True)
class Contest:
    """Our forms against rivals; of ours, and under each rival's label, the fastest form counts.

    Args:
        ours: our forms.
        rivals: label to forms. The first form of the first rival is what all values are compared with.
        tolerance: largest error relative to the largest magnitude of the compared tensor.
    """

    ours: list[Form]
    rivals: dict[str, list[Form]] = field(default_factory=dict)
    tolerance: float = 1e-3

    def forms(self) -> list[Form]:
        return [*self.ours, *(form for forms in self.rivals.values() for form in forms)]

    def form(self, name: str) -> Form:
        return next(form for form in self.forms() if form.name == name)


def in_layout(tensor: Tensor, layout: str) -> Tensor:
    """`tensor`, an image batch, a weight or a dictionary `[K, ...]`, laid out in memory as asked."""
    if tensor.dim() == 5:
        return in_layout(tensor.flatten(0, 1), layout).unflatten(0, tensor.shape[:2])
    return tensor.contiguous(memory_format=LAYOUTS[layout]) if tensor.dim() == 4 else tensor


def differentiated(
    function: Callable[..., Tensor], operands: Sequence[Tensor], grad_output: Tensor
) -> Callable[[], tuple[Tensor, ...]]:
    """Forward and backward of `function`: its output and the gradients of all operands."""
    leaves = [operand.detach().requires_grad_() for operand in operands]

    def run() -> tuple[Tensor, ...]:
        output = function(*leaves)
        return (output.detach(), *torch.autograd.grad(output, leaves, grad_output))

    return run
