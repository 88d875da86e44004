"""A factorised distribution over the architectures of a space, learnt by its logits."""

from __future__ import annotations

import heapq
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from kshot_ext.nas.spaces.architecture import Architecture
from kshot_ext.nas.spaces.space import SearchSpace


class OperationDistribution(nn.Module):
    """Each layer's operation is drawn by itself, widths uniformly:

        p(a) = prod_l p_l(a_l),    p_l = softmax(logits_l)

    Args:
        space: whose architectures.
        generator: source of the first logits.
        spread: standard deviation of these.

    Example:
        >>> from kshot_ext.nas.spaces import create_space
        >>> space = create_space("nas-bench-macro", image_shape=(1, 8, 8), num_classes=10)
        >>> distribution = OperationDistribution(space, torch.Generator().manual_seed(0), spread=0.0)
        >>> [round(share, 4) for share in distribution.probabilities()[0].tolist()]
        [0.3333, 0.3333, 0.3333]
    """

    def __init__(self, space: SearchSpace, generator: torch.Generator, spread: float) -> None:
        super().__init__()
        self.space = space
        counts = (len(space.operations(layer)) for layer in range(space.num_layers))
        self.logits = nn.ParameterList(spread * torch.randn(count, generator=generator) for count in counts)

    def probabilities(self) -> list[Tensor]:
        """Of the operations of each layer, float32 ``[number of them]``, differentiable in the logits."""
        return [logits.softmax(dim=0) for logits in self.logits]

    @torch.no_grad()
    def entropies(self) -> list[float]:
        """Entropy of each layer's distribution, in nats."""
        return [float(torch.special.entr(p.double()).sum()) for p in self.probabilities()]

    @torch.no_grad()
    def mean_probabilities(self) -> dict[str, float]:
        """The mean probability of each operation over the layers that offer it, by its name."""
        found: dict[str, list[float]] = {}
        for layer, row in enumerate(self.probabilities()):
            for name, value in zip(self.space.operations(layer), row.tolist()):
                found.setdefault(name, []).append(value)
        return {name: sum(values) / len(values) for name, values in found.items()}

    @torch.no_grad()
    def sample(self, generator: torch.Generator) -> Architecture:
        """An architecture drawn from the distribution."""
        operations = (int(torch.multinomial(p.cpu(), 1, generator=generator)) for p in self.probabilities())
        return Architecture(tuple(operations), self.space.sample(generator).widths)

    @torch.no_grad()
    def likeliest_first(self, generator: torch.Generator) -> Iterator[Architecture]:
        """All choices of operations, each once, the likeliest first.

        A choice that follows another differs from it in one layer, which takes its next likely operation; and never in
        a layer before the last one that was changed. So every choice has one predecessor, at least as likely, and a
        heap of those whose predecessors have been given is all that must be kept.

        Args:
            generator: draws widths, where the space searches them.
        """
        orders = [logits.double().log_softmax(dim=0).sort(descending=True, stable=True) for logits in self.logits]
        values, choices = zip(*((order.values.tolist(), order.indices.tolist()) for order in orders))
        first = (0,) * len(values)
        waiting = [(-sum(row[0] for row in values), first, 0)]
        while waiting:
            cost, ranks, changed = heapq.heappop(waiting)
            operations = tuple(row[rank] for row, rank in zip(choices, ranks))
            yield Architecture(operations, self.space.sample(generator).widths)
            for layer in range(changed, len(ranks)):
                rank = ranks[layer] + 1
                if rank < len(values[layer]):
                    step = values[layer][rank - 1] - values[layer][rank]
                    heapq.heappush(waiting, (cost + step, (*ranks[:layer], rank, *ranks[layer + 1 :]), layer))
