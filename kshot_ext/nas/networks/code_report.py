"""Whether a trained supernet is a K-shot one: what its codes and copies amount to, against one bar."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from kshot_ext.nas.networks.code_analysis import Spectrum, dictionary_factors, spectrum
from kshot_ext.nas.networks.simplex_net import CodeStatistics, SimplexNet, code_statistics
from kshot_ext.nas.networks.supernet import Supernet
from kshot_ext.nas.randomness import named_generator

LEAST_DISTANCE = 0.1
"""Least mean L1 distance between codes of random architectures that makes a supernet a K-shot one; 2 is the most."""
LEAST_SHARE = 0.25
"""Least mean share of each copy, in units of the equal share 1/K."""

VERDICTS = K_SHOT, ONE_SHOT, ONE_COPY = "K-shot", "one-shot", "one copy"

_PATHS_FOR_STATISTICS = 1000
PATHS_FOR_SPECTRUM = 256


@dataclass(frozen=True)
class CodeReport(CodeStatistics):
    """Codes and copies of a trained supernet, and the verdict on them.

    A supernet of K > 1 copies is a K-shot one if the codes of two architectures have a mean L1 distance of at least
    0.1, and each copy a mean share of at least 0.25 / K. Else it is a one-shot one, whatever its K: its architectures
    share one weight per operation, or nearly so.

    Args:
        distance, entry_shares: see :class:`CodeStatistics`.
        spectrum: of the weights of all layers together, over random architectures.

    Example:
        >>> report = CodeReport(0.02, (0.5, 0.5), Spectrum((3.0, 0.03), 2, 1.06))
        >>> report.verdict
        'one-shot'
        >>> report.shortfalls[0]
        'codes are alike: 0.020 apart on average, expected at least 0.1; ...'
    """

    spectrum: Spectrum

    @property
    def num_shots(self) -> int:
        """K, the number of copies."""
        return len(self.entry_shares)

    @property
    def least_share(self) -> float:
        """Mean share of the copy that is used least."""
        return min(self.entry_shares)

    @property
    def verdict(self) -> str:
        """``"K-shot"``, ``"one-shot"``, or, for K = 1, ``"one copy"``."""
        if self.num_shots == 1:
            return ONE_COPY
        return ONE_SHOT if self.shortfalls else K_SHOT

    @property
    def shortfalls(self) -> tuple[str, ...]:
        """What keeps K > 1 copies below the bar, a sentence each, with what to change; empty if nothing does."""
        if self.num_shots == 1:
            return ()
        shortfalls = []
        if not self.distance >= LEAST_DISTANCE:  # nor is what is not a number
            shortfalls.append(
                f"codes are alike: {self.distance:.3f} apart on average, expected at least {LEAST_DISTANCE:g}; to part "
                "them, choose another codes.start, raise codes.free_share, lower codes.temperature, or train for longer"
            )
        least = LEAST_SHARE / self.num_shots
        if not self.least_share >= least:
            shortfalls.append(
                f"copy {self.entry_shares.index(self.least_share) + 1} is hardly used: a mean share of "
                f"{self.least_share:.4f}, expected at least {least:.4g}; to bring it into use, raise codes.balance, or "
                "lower codes.free_share"
            )
        return tuple(shortfalls)

    def numbers(self) -> dict[str, Any]:
        """For files of results."""
        return {
            "verdict": self.verdict,
            "distance": self.distance,
            "least_share": self.least_share,
            "entry_shares": self.entry_shares,
            "effective_rank": self.spectrum.effective_rank,
        }


@torch.no_grad()
def code_report(supernet: Supernet, simplex_net: SimplexNet, seed: int) -> CodeReport:
    """Look at the codes of random architectures, and at the weights that they mix.

    Args:
        supernet: has the copies.
        simplex_net: gives the codes.
        seed: decides the architectures.
    """
    space, generator = supernet.space, named_generator(seed, "code statistics")
    statistics = code_statistics(simplex_net, space, generator, _PATHS_FOR_STATISTICS)
    codes = simplex_net([space.sample(generator) for _ in range(PATHS_FOR_SPECTRUM)])
    whole = spectrum(codes, dictionary_factors(supernet))
    return CodeReport(statistics.distance, statistics.entry_shares, whole)
