"""What codes and dictionary of a trained supernet span, and whether codes follow architectures.

The weight of one operation over N paths is ``W = code @ dictionary``, ``[N, K] @ [K, d]``: a one-shot supernet has rank
1, a K-shot one at most K. Su et al., "K-shot NAS: Learnable Weight-Sharing for NAS with K-shot Supernets", ICML 2021.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from kshot_ext.nas.networks.simplex_net import SimplexNet
from kshot_ext.nas.spaces.architecture import Architecture
from kshot_ext.nas.spaces.space import SearchSpace
from kshot_ext.nn.code import KShotModule

_PAIRS_PER_DISTANCE = 64


@dataclass(frozen=True)
class Spectrum:
    """How many dimensions the weights of many paths span.

    Args:
        singular_values: of the matrix of the paths' weights, falling; K of them, or more with a code per layer.
        rank: number of those above rounding.
        effective_rank: exponential of the entropy of their shares, 1 to K: near 1 if one dwarfs the others (Roy and
            Vetterli, "The effective rank", EUSIPCO 2007).
    """

    singular_values: tuple[float, ...]
    rank: int
    effective_rank: float


def dictionary_factors(supernet: nn.Module) -> dict[str, Tensor]:
    """A float64 ``R [K, K]`` for each K-shot layer, by name: ``R^T R = D D^T`` for its flat dictionary ``D [K, d]``.

    The codes reach all that the weights span through R: ``code @ R^T`` has the singular values of ``code @ D``.
    """
    factors = {}
    for name, layer in supernet.named_modules():
        if isinstance(layer, KShotModule):
            copies = [each.detach().reshape(len(each), -1) for each in layer.parameters(recurse=False)]
            flat = torch.cat(copies, dim=1).double().cpu()
            padding = flat.new_zeros(len(flat), max(len(flat) - flat.shape[1], 0))  # a square R for d < K too
            factors[name] = torch.linalg.qr(torch.cat([flat, padding], dim=1).T, mode="r").R
    return factors


def spectrum(codes: Tensor, factors: Mapping[str, Tensor]) -> Spectrum:
    """The spectrum of the weights that codes mix from the dictionaries of some layers, all side by side.

    Args:
        codes: ``[N, K]``; or ``[N, L, K]``, a code per searched layer, and then the rank may be up to ``L * K``.
        factors: of these layers, see :func:`dictionary_factors`.

    Returns:
        All of it NaN, and rank 0, if a weight is not finite.
    """
    weights = torch.cat([_codes_of(name, codes).double() @ factor.T for name, factor in factors.items()], dim=1)
    most = codes.shape[-1] if codes.dim() == 2 else min(weights.shape)
    if not weights.isfinite().all():
        return Spectrum((math.nan,) * most, 0, math.nan)
    values = torch.linalg.svdvals(weights)[:most]
    rounding = float(values.max()) * max(codes.shape) * torch.finfo(codes.dtype).eps
    shares = values / values.sum()
    return Spectrum(
        singular_values=tuple(values.tolist()),
        rank=int((values > rounding).sum()),
        effective_rank=float(torch.special.entr(shares).sum().exp()),
    )


def _codes_of(layer: str, codes: Tensor) -> Tensor:
    """The codes ``[N, K]`` that a layer of this name uses, on the CPU."""
    codes = codes.cpu()
    if codes.dim() == 2:
        return codes
    role, _, rest = layer.partition(".")
    return codes[:, int(rest.partition(".")[0])] if role == "layers" else codes.mean(dim=1)


@dataclass(frozen=True)
class CodeDistances:
    """Distance of codes of pairs of architectures, by the architectures' own distance.

    Args:
        operations: mean L1 distance of codes by the number of layers whose operations differ, from 1 up.
        widths: likewise by the number of widths that differ; empty where none are searched.
    """

    operations: tuple[float, ...]
    widths: tuple[float, ...]


@torch.no_grad()
def code_distances(simplex_net: SimplexNet, space: SearchSpace, generator: torch.Generator) -> CodeDistances:
    """Measure how codes move when choices do: pairs that differ in so many random places, and nowhere else.

    Args:
        simplex_net: gives the codes.
        space: where architectures are drawn from, uniformly.
        generator: draws them.
    """

    def mean_distance(first: int, last: int, count: int) -> float:
        """Of pairs that differ in ``count`` of the genes from ``first`` to before ``last``."""
        ones = [space.sample(generator) for _ in range(_PAIRS_PER_DISTANCE)]
        others = [_changed(space, one, range(first, last), count, generator) for one in ones]
        return float((simplex_net(ones) - simplex_net(others)).abs().sum(dim=-1).mean())

    layers, genes = space.num_layers, len(space.num_choices)
    return CodeDistances(
        operations=tuple(mean_distance(0, layers, count) for count in range(1, layers + 1)),
        widths=tuple(mean_distance(layers, genes, count) for count in range(1, space.num_widths + 1)),
    )


def _changed(
    space: SearchSpace, architecture: Architecture, places: range, count: int, generator: torch.Generator
) -> Architecture:
    """The architecture with other choices in ``count`` random ones of some places."""
    genes = list(space.genes(architecture))
    order = torch.randperm(len(places), generator=generator)[:count].tolist()
    for gene in (places[index] for index in order):
        others = space.num_choices[gene]
        # From 1 to others - 1 further on, around: never the same choice, unless there is only one.
        step = 1 + int(torch.randint(max(others - 1, 1), (), generator=generator))
        genes[gene] = (genes[gene] + step) % others
    return space.from_genes(genes)
