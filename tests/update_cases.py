"""Dictionaries with their gradients, for the tests of the optimisers' operators."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from calls import draw
from torch import Tensor

from kshot_ext.ops.compact_gradient import Use


@dataclass(frozen=True)
class UpdateCase:
    """A dictionary and the widths `(C_out', C_in', gated)` of its uses; None: a dense gradient."""

    name: str
    weight: tuple[int, ...] = (3, 7, 5, 3, 3)
    uses: tuple[tuple[int, int, bool], ...] | None = ((7, 5, False),)

    def __str__(self) -> str:
        return self.name


CASES = (
    UpdateCase("one_use"),
    UpdateCase("one_copy", (1, 7, 5)),
    UpdateCase("many_copies", (11, 7, 5, 1, 1), ((7, 5, True),)),
    UpdateCase("gate", uses=((7, 5, True),)),
    UpdateCase("narrow", uses=((4, 2, True),)),
    UpdateCase("several_uses", uses=((7, 5, False), (4, 5, True), (7, 2, False))),
    UpdateCase("no_use", uses=()),
    UpdateCase("bias", (3, 7), ((4, 1, False), (7, 1, True))),
    UpdateCase("linear_longer_than_a_chunk", (2, 3, 1031), ((2, 1030, False),)),
    UpdateCase("flat_longer_than_a_chunk", (2, 7, 739), ((7, 739, False),)),
    UpdateCase("dense", uses=None),
    UpdateCase("dense_vector", (7,), None),
    UpdateCase("dense_scalar", (), None),
)


Operands = tuple[Tensor, list[Tensor], "Tensor | None", list[Use]]


def operands(case: UpdateCase, dtype: torch.dtype, values: torch.dtype, innermost: bool, states: int) -> Operands:
    """Weight, so many states like it, dense gradient and uses in `dtype`, of values rounded to `values`."""
    generator = torch.Generator().manual_seed(len(case.weight) + sum(case.weight))

    def tensor(*shape: int) -> Tensor:
        drawn = draw(generator, *shape).to(values).to(dtype)
        rank = len(case.weight)
        if innermost and rank > 3 and len(shape) >= rank - 1:
            channels = 2 + len(shape) - rank
            return drawn.movedim(channels, -1).contiguous().movedim(-1, channels)
        return drawn

    weight = tensor(*case.weight)
    kept = [tensor(*case.weight) for _ in range(states)]
    grad = tensor(*case.weight) if case.uses is None else None
    sum_dtype = torch.promote_types(dtype, torch.float32)
    uses = []
    for out_channels, in_channels, gated in case.uses or ():
        code = tensor(case.weight[0]).to(sum_dtype)
        gate = tensor(out_channels).to(sum_dtype) if gated else None
        inputs = [in_channels] if len(case.weight) > 2 else []
        uses.append(Use(code, gate, tensor(out_channels, *inputs, *case.weight[3:])))
    return weight, kept, grad, uses
