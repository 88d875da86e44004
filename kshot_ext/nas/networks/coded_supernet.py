"""A supernet together with the simplex-net that gives its codes: networks with the weights that they inherit."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor, nn

from kshot_ext.nas.networks.code_report import CodeReport, code_report
from kshot_ext.nas.networks.simplex_net import SimplexNet
from kshot_ext.nas.networks.supernet import Supernet
from kshot_ext.nas.spaces.architecture import Architecture


class InheritedNetworks(Protocol):
    """Gives any network of a space with the weights that training has left it; can be sent to other processes."""

    def network(self, architecture: Architecture) -> AbstractContextManager[nn.Module]:
        """Inside the context the network of an architecture, from images to logits ``[N, num_classes]``."""


@dataclass(frozen=True, eq=False)
class CodedSupernet:
    """The networks of a supernet, each under its own code.

    Args:
        supernet: has the copies of the weights.
        simplex_net: gives the code that mixes them.
    """

    supernet: Supernet
    simplex_net: SimplexNet

    def network(self, architecture: Architecture) -> AbstractContextManager[nn.Module]:
        """Inside the context the supernet's own modules for an architecture, which hold its code."""
        return self.supernet.coded_path(architecture, self.code(architecture))

    def code(self, architecture: Architecture) -> Tensor:
        """The code of an architecture, ``[K]`` or ``[L, K]``, without gradient."""
        return self.simplex_net.code(architecture)

    def report(self, seed: int) -> CodeReport:
        """What codes and copies amount to as they are now, by random architectures that the seed decides."""
        return code_report(self.supernet, self.simplex_net, seed)
