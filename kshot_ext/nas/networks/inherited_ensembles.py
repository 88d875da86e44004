"""Supernets together that hold the networks of ensembles, with the weights that these inherit."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from kshot_ext.nas.networks.simplex_net import SimplexNet
from kshot_ext.nas.networks.supernet import Supernet
from kshot_ext.nas.spaces.architecture import Architecture
from kshot_ext.nas.spaces.ensembles import BranchedNetwork, EnsembleSpace


@dataclass(frozen=True, eq=False)
class InheritedEnsembles:
    """The ensembles of a space, each network under its own code; and single networks, from the first supernet.

    Args:
        ensembles: the space.
        supernets: one for each network; the first one holds the trunk.
        simplex_net: gives the codes.
    """

    ensembles: EnsembleSpace
    supernets: tuple[Supernet, ...]
    simplex_net: SimplexNet

    @contextmanager
    def network(self, architecture: Architecture) -> Iterator[Any]:
        """Inside the context an ensemble, or a path, made of the supernets' own modules.

        Args:
            architecture: of the space, or of the one underneath.
        """
        if self.ensembles.is_single(architecture):
            with self.supernets[0].coded_path(architecture, self.simplex_net.code(architecture)) as path:
                yield path
            return
        cut = 1 + self.ensembles.trunk(architecture)  # behind the stem
        members = self.ensembles.members(architecture)
        with ExitStack() as stack:
            paths: list[Any] = [
                stack.enter_context(supernet.coded_path(member, self.simplex_net.code(member)))
                for supernet, member in zip(self.supernets, members)
            ]
            yield BranchedNetwork(paths[0][:cut], [path[cut:] for path in paths])
