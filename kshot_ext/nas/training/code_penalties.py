"""Terms of the simplex-net's loss that look at codes only."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def imbalance(codes: Tensor) -> Tensor:
    """How unequally the K entries share the codes of many architectures: ``log K - entropy(mean code)``.

    An entry that leads gets more of the gradient, and so leads more, until it holds all the weight. This penalty
    acts on the mean code only: codes may still differ from one architecture to the next. (The balance term of
    mixture-of-experts training, Shazeer et al., ICLR 2017, in the form of an entropy.)

    Args:
        codes: ``[M, K]``, rows on the simplex; or ``[M, L, K]``, codes of L layers: then the mean over the layers, as
            each has copies of its own.

    Returns:
        Scalar, 0 for equal shares up to ``log K`` for one entry that takes all; differentiable.

    Example:
        >>> imbalance(torch.eye(4))
        tensor(0.)
    """
    shares = codes.mean(dim=0)
    return math.log(codes.shape[-1]) - torch.special.entr(shares).sum(dim=-1).mean()


def width_mismatch(codes: Tensor, others: Tensor, distances: Tensor) -> Tensor:
    """How far the codes of one path at two choices of widths are from being as far apart as they should:

        mean over pairs of (||code_i - code_j||^2 - distance_ij)^2

    It has no parameter to train, and parts the codes of different widths the more, the more these differ. (Su et al.,
    "K-shot NAS", ICML 2021, name such a term; this form is ours.)

    Args:
        codes, others: ``[P, K]``, or ``[P, L, K]`` for codes of L layers, whose mean counts: P pairs of codes.
        distances: ``[P]``, the squared distance that each pair should have.

    Returns:
        Scalar, differentiable in the codes.

    Example:
        >>> width_mismatch(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]]), torch.tensor([1.5]))
        tensor(0.2500)
    """
    squares = (codes - others).square().sum(dim=-1)
    per_pair = squares if squares.dim() == 1 else squares.mean(dim=1)
    return (per_pair - distances).square().mean()
