"""A copy for each group of choices of the one or two decisions that part the training most."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from kshot_ext.nas.networks.code_starts.code_start import GroupStart
from kshot_ext.nas.spaces.architecture import Architecture
from kshot_ext.nas.spaces.space import SearchSpace


class Decision(GroupStart):
    """Groups by one choice: the layer, or width, whose choices' gradients on the shared weights agree least.

    After warm-up the gradients of every choice of every gene are compared (gradient matching). The gene of the least
    mean similarity between different choices is chosen; its choices are joined to K groups of nearly equal size, those
    of the highest mean similarity first. (So few-shot NAS splits a supernet: Zhao et al., ICML 2021, by an edge drawn
    at random; Hu et al., "Generalizing Few-Shot NAS with Gradient Matching", ICLR 2022, by this measure.)

    Raises:
        ValueError: if no gene of the space has as many choices as there are copies.

    Example:
        >>> from kshot_ext.nas.spaces import create_space
        >>> space = create_space("nas-bench-macro", image_shape=(1, 8, 8), num_classes=10)
        >>> start = Decision(space, 2, None, torch.Generator())
        >>> alike = torch.ones(3, 3)
        >>> apart = torch.tensor([[1.0, 0.9, -0.5], [0.9, 1.0, -0.5], [-0.5, -0.5, 1.0]])
        >>> start.settle([alike] * 7 + [apart])
        >>> start.groups([space.from_genes([0] * 7 + [choice]) for choice in range(3)])
        tensor([0, 0, 1])
    """

    settles = True
    num_decisions: ClassVar[int] = 1

    genes: Tensor
    choice_groups: Tensor

    def __init__(self, space: SearchSpace, num_shots: int, size: float | None, generator: torch.Generator) -> None:
        super().__init__(space, num_shots, size, generator)
        self.factors = _factors(num_shots, self.num_decisions)
        most = max(space.num_choices)
        enough = [sum(count >= factor for count in space.num_choices) for factor in self.factors]
        if any(count <= rank for rank, count in enumerate(enough)):
            wanted = f"at most {most}, the most choices that a decision of space {space.name} has"
            if self.num_decisions > 1:
                wanted = (
                    f"a product of {self.num_decisions} numbers of choices of space {space.name}, at most {most} each"
                )
            raise ValueError(f"shots: expected {wanted}, got {num_shots}")
        self.register_buffer("genes", torch.full((self.num_decisions,), -1))
        self.register_buffer("choice_groups", torch.zeros(self.num_decisions, most, dtype=torch.int64))

    @property
    def settled(self) -> bool:
        """Whether the decisions are chosen."""
        return bool((self.genes >= 0).all())

    def settle(self, similarities: Sequence[Tensor]) -> None:
        order = sorted(range(len(similarities)), key=lambda gene: mean_similarity(similarities[gene]))
        chosen: list[int] = []
        for decision, factor in enumerate(self.factors):
            gene = next(g for g in order if g not in chosen and len(similarities[g]) >= factor)
            chosen.append(gene)
            groups = join_choices(similarities[gene], factor)
            self.choice_groups[decision, : len(groups)] = torch.tensor(groups)
        self.genes.copy_(torch.tensor(chosen))

    def forward(self, architectures: Sequence[Architecture]) -> Tensor:
        logits = super().forward(architectures)
        return logits if self.settled else torch.zeros_like(logits)

    def groups(self, architectures: Sequence[Architecture]) -> Tensor:
        genes = torch.tensor([self.space.genes(path) for path in architectures], device=self.genes.device)
        group = genes.new_zeros(len(genes))
        for gene, groups, factor in zip(self.genes.tolist(), self.choice_groups, self.factors):
            group = group * factor + groups[genes[:, gene]]
        return group


class TwoDecisions(Decision):
    """Groups by two choices at once: K = K_1 * K_2, of the two genes whose choices agree least; see :class:`Decision`.

    Raises:
        ValueError: if K is no such product.
    """

    num_decisions = 2


def mean_similarity(matrix: Tensor) -> float:
    """Mean similarity of different choices; 1 where there is only one."""
    count = len(matrix)
    if count < 2:
        return 1.0
    return float((matrix.sum() - matrix.diagonal().sum()) / (count * (count - 1)))


def join_choices(similarity: Tensor, num_groups: int) -> list[int]:
    """The group of each choice, numbered in the order of their first members.

    The two groups with the highest mean similarity are joined, again and again; but none to more than its part of the
    choices as long as others can be, since a copy of few choices is seldom trained.

    Args:
        similarity: ``[C, C]``, symmetric.
        num_groups: K, at most C.
    """
    groups = [[choice] for choice in range(len(similarity))]
    part = -(-len(similarity) // num_groups)

    def rank(pair: tuple[int, int]) -> tuple[int, float]:
        one, other = groups[pair[0]], groups[pair[1]]
        return -max(len(one) + len(other), part), float(similarity[one][:, other].mean())

    while len(groups) > num_groups:
        one, other = max(((one, other) for other in range(len(groups)) for one in range(other)), key=rank)
        groups[one] += groups.pop(other)
    return [next(index for index, group in enumerate(groups) if choice in group) for choice in range(len(similarity))]


def _factors(number: int, count: int) -> list[int]:
    """A number as a product of one or two factors, as equal as they can be, the largest first."""
    if count == 1:
        return [number]
    small = max(factor for factor in range(1, math.isqrt(number) + 1) if number % factor == 0)
    return [number // small, small]
