"""A distribution over the architectures of a space, first by few factors, later free for every choice."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product

import torch
from torch import Tensor, nn

from kshot_ext.nas.spaces.architecture import Architecture
from kshot_ext.nas.spaces.space import SearchSpace


class ChoiceDistribution(nn.Module):
    """Architectures whose layers are drawn independently of each other:

        P(a) = prod_l softmax(logits_l)[a_l]

    What a layer chooses is its operation and, where each layer has a width, that too. In the factorised form the logit
    of a choice is the sum of the logits of its values: those of the variables that its operation is made of
    (:meth:`SearchSpace.values`), and of the width. Where all combinations exist, that is a product of independent
    distributions. In the joint form these sums stay as they are, and each choice has a logit of its own besides, which
    begins at 0: so :meth:`join`, which goes from the first form to the second, leaves the distribution as it is.

    Args:
        space: whose architectures.

    Attributes:
        factors: ``[F]``, the logits of all values of all layers; 0 at the start, when all choices are alike.
        own: ``[C]``, those of all choices of all layers.
        is_joint: whether the second are in use, and the first get no gradient.

    Example:
        >>> from kshot_ext.nas.spaces import create_space
        >>> space = create_space("nas-bench-macro", image_shape=(1, 8, 8), num_classes=3, widths=(0.5, 1.0))
        >>> distribution = ChoiceDistribution(space)
        >>> len(distribution.factors), len(distribution.own)
        (40, 48)
        >>> round(distribution.entropy().item() / 8, 4)  # log(6) for each of 8 layers
        1.7918
    """

    is_joint: Tensor
    incidence: Tensor

    def __init__(self, space: SearchSpace) -> None:
        super().__init__()
        self.space = space
        names: dict[tuple[int, str], int] = {}
        self._choices: list[dict[tuple[int, ...], int]] = []  # of each group of genes, where its choices stand
        self._genes: list[tuple[int, ...]] = []
        rows: list[list[int]] = []
        for group, genes in enumerate(_groups(space)):
            where = {}
            for choice in product(*(range(space.num_choices[gene]) for gene in genes)):
                where[choice] = len(rows)
                values = _values(space, genes, choice)
                rows.append([names.setdefault((group, value), len(names)) for value in values])
            self._genes.append(genes)
            self._choices.append(where)
        incidence = torch.zeros(len(rows), len(names))
        for row, places in zip(incidence, rows):
            row[places] = 1.0
        self.register_buffer("incidence", incidence, persistent=False)
        self.register_buffer("is_joint", torch.tensor(False))
        self.factors = nn.Parameter(torch.zeros(len(names)))
        self.own = nn.Parameter(torch.zeros(len(rows)))

    def join(self) -> None:
        """Lets every choice have a logit of its own from now on."""
        self.is_joint.fill_(True)

    def log_probabilities(self) -> list[Tensor]:
        """Of the choices of each group of genes."""
        factors = self.factors.detach() if self.is_joint else self.factors
        logits = self.incidence @ factors
        if self.is_joint:
            logits = logits + self.own
        return [part.log_softmax(dim=0) for part in logits.split([*map(len, self._choices)])]

    def log_probability(self, architectures: Sequence[Architecture]) -> Tensor:
        """``[M]``, of architectures of the space, differentiable in the logits."""
        whole = torch.cat(self.log_probabilities())
        genes = [self.space.genes(architecture) for architecture in architectures]
        where = [
            [choices[tuple(of[gene] for gene in group)] for group, choices in zip(self._genes, self._choices)]
            for of in genes
        ]
        return whole[torch.tensor(where, device=whole.device)].sum(dim=1)

    def entropy(self) -> Tensor:
        """Of the whole distribution, in nats: the sum over layers."""
        return sum((-(log.exp() * log).sum() for log in self.log_probabilities()), start=torch.zeros(()))

    @torch.no_grad()
    def sample(self, count: int, generator: torch.Generator) -> list[Architecture]:
        """Architectures drawn independently; the generator is one of the CPU."""
        drawn = [
            torch.multinomial(log.exp().cpu(), count, replacement=True, generator=generator).tolist()
            for log in self.log_probabilities()
        ]
        return [self._architecture(choices) for choices in zip(*drawn)]

    @torch.no_grad()
    def most_probable(self) -> Architecture:
        """The architecture of the highest probability."""
        return self._architecture([int(log.argmax()) for log in self.log_probabilities()])

    def _architecture(self, drawn: Sequence[int]) -> Architecture:
        genes = [0] * len(self.space.num_choices)
        for group, choices, number in zip(self._genes, self._choices, drawn):
            for gene, choice in zip(group, [*choices][number]):
                genes[gene] = choice
        return self.space.from_genes(genes)


def _groups(space: SearchSpace) -> Iterator[tuple[int, ...]]:
    """The genes that are drawn together: a layer's operation and width, if each has one; else each by itself."""
    layers = range(space.num_layers)
    if space.num_widths == space.num_layers:
        yield from ((layer, space.num_layers + layer) for layer in layers)
    else:
        yield from ((gene,) for gene in range(len(space.num_choices)))


def _values(space: SearchSpace, genes: tuple[int, ...], choice: tuple[int, ...]) -> Iterator[str]:
    """Names of the values whose logits a choice adds up."""
    for gene, index in zip(genes, choice):
        if gene < space.num_layers:
            yield from space.values(space.operations(gene)[index])
        else:
            yield f"width {index}"
