"""What a start of codes is, and the kind that gives groups of architectures a copy each."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kshot_ext.nas.spaces.architecture import Architecture
from kshot_ext.nas.spaces.space import SearchSpace


class CodeStart(nn.Module, ABC):
    """Logits that an untrained simplex-net gives; training adds to them.

    A start of your own is one class in a file of its own and one line in ``CODE_STARTS``. What it learns about the
    space, or while it settles, it keeps in buffers, so that checkpoints have it.

    Args:
        space: whose architectures it reads.
        num_shots: K.
        size: how far logits lie apart; None for what suits this start.
        generator: source of every random choice.

    Raises:
        ValueError: if the space does not offer as much to tell apart as there are copies.
    """

    default_size: ClassVar[float] = 8.0  # softmax then gives the largest of 4 entries 0.999
    per_layer: ClassVar[bool] = False
    """Whether it gives each layer logits of its own, which asks for codes per layer."""
    settles: ClassVar[bool] = False
    """Whether it waits for the end of warm-up; codes are equal until :meth:`settle` was called."""

    def __init__(self, space: SearchSpace, num_shots: int, size: float | None, generator: torch.Generator) -> None:
        super().__init__()
        self.space = space
        self.num_shots = num_shots
        self.size = self.default_size if size is None else size

    @abstractmethod
    def forward(self, architectures: Sequence[Architecture]) -> Tensor:
        """Logits of M architectures, float32 ``[M, 1, K]``, or ``[M, L, K]`` where each layer has its own."""

    def settle(self, similarities: Sequence[Tensor]) -> None:
        """Learns what the warm-up has shown, once.

        Args:
            similarities: for each gene of the space (the layers' operations, then the widths) a matrix ``[C, C]`` of
                how well its C choices train the same weights together, 1 for fully.
        """


class GroupStart(CodeStart):
    """A copy for each of K groups of architectures:

    logit_k(a) = size   if a is in group k,   else 0
    """

    def forward(self, architectures: Sequence[Architecture]) -> Tensor:
        groups = self.groups(architectures)
        rows = groups if groups.dim() == 2 else groups[:, None]
        return self.size * F.one_hot(rows, self.num_shots).float()

    @abstractmethod
    def groups(self, architectures: Sequence[Architecture]) -> Tensor:
        """The group of each of M architectures, int64 ``[M]``, or ``[M, L]`` for each of its layers."""
