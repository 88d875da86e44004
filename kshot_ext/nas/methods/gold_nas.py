"""GOLD-NAS: one supernet pruned by degrees, which leaves a series of networks, from costly to cheap, on its way."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer

from kshot_ext.nas.checks import check_at_least, check_between
from kshot_ext.nas.methods.method import MethodSettings, Setup
from kshot_ext.nas.methods.parts.found_stage import FoundStage
from kshot_ext.nas.methods.parts.relaxation import MixtureMethod, Relaxation
from kshot_ext.nas.methods.selection import SelectionTools
from kshot_ext.nas.networks.supernet import Supernet
from kshot_ext.nas.spaces.architecture import Architecture
from kshot_ext.nas.spaces.subsets import SubsetSpace
from kshot_ext.nas.training.loop import Step, Stepper

_CANDIDATES_FOR_ONE = 100


@dataclass(frozen=True, kw_only=True)
class GoldNASSettings(MethodSettings):
    """How hard the supernet is pressed to shrink, and how it is pruned.

    Args:
        prune_every: epochs between two rounds of pruning.
        least_share: an operation with at most this share of what enters its node is pruned.
        prunable_share: so is the smallest one up to this share, as long as a round has pruned fewer than `prunings`.
        prunings: as many lower the pressure, fewer raise it; None for a hundredth of all operations, at least 1.
        pressure: what the rise of the pressure begins with; the pressure itself begins at 0.
        pressure_factor: by which the pressure falls, and by which its rise grows.
        operation_cost: of each operation under pressure.
        mac_cost: of its multiply-accumulates, relative to the mean of all operations.
        stable: an architecture that more rounds than this left as it was is one of the results once pruning goes on.
        least_macs: share of the whole supernet's multiply-accumulates below which nothing is pruned any more.
        results: most architectures that are trained anew in the end.
        logit_learning_rate: of SGD with momentum 0.9 on the logits.

    Raises:
        ValueError: if a value is out of range.
    """

    name: str = "gold"
    prune_every: float = 1.0
    least_share: float = 0.01
    prunable_share: float = 0.05
    prunings: int | None = None
    pressure: float = 1e-5
    pressure_factor: float = 2.0
    operation_cost: float = 1.0
    mac_cost: float = 0.0
    stable: int = 3
    least_macs: float = 0.0
    results: int = 4
    logit_learning_rate: float = 1.0

    def __post_init__(self) -> None:
        check_at_least("prune_every", self.prune_every, 1e-3)
        check_between("least_share", self.least_share, 0, 1)
        check_between("prunable_share", self.prunable_share, self.least_share, 1)
        if self.prunings is not None:
            check_at_least("prunings", self.prunings, 1)
        check_at_least("pressure", self.pressure, 0)
        check_at_least("pressure_factor", self.pressure_factor, 1)
        check_at_least("operation_cost", self.operation_cost, 0)
        check_at_least("mac_cost", self.mac_cost, 0)
        check_at_least("stable", self.stable, 0)
        check_between("least_macs", self.least_macs, 0, 1)
        check_at_least("results", self.results, 1)
        check_at_least("logit_learning_rate", self.logit_learning_rate, 0)


@dataclass(frozen=True, eq=False)
class WeighedNetworks:
    """Networks of sets of operations, each operation by the weight that it was trained with."""

    supernet: Supernet
    relaxation: Relaxation
    space: SubsetSpace

    def network(self, architecture: Architecture) -> AbstractContextManager[nn.Module]:
        """Inside the context the supernet's own modules for an architecture."""
        weights = torch.sigmoid(self.relaxation.logits.detach())
        rows = [row[:count] for row, count in zip(weights, self.relaxation.counts)]
        return self.supernet.coded_mixture(self.space.weights(architecture, rows))


class GoldNAS(MixtureMethod[GoldNASSettings]):
    """Trains weights and logits together on every batch, and prunes operations whose share in their node is small:

        output of a node = sum_o sigma_o * operation_o(input),    share p_o = sigma_o / sum of the node's sigmas
        loss = cross-entropy + pressure * sum_o log(1 + n p_o) (operation_cost + mac_cost * macs_o / mean macs)

    with sigma the sigmoid of a logit and n the number of shares in the node above the least. Operations do not compete
    for a sum of 1, so any number of them may stay: the results are architectures of a space of sets. A round of pruning
    that finds enough to prune lowers the pressure; one that does not raises it, faster and faster.

    A node keeps one operation at least; a layer, too, unless its space has an operation for no connection.

    Bi et al., "GOLD-NAS: Gradual, One-Level, Differentiable", 2020.
    """

    summary = "a mixture of all operations, pruned by degrees under a rising pressure: a Pareto series from one run"
    paper = "Bi et al., GOLD-NAS: Gradual, One-Level, Differentiable, 2020"
    Settings = GoldNASSettings
    any_task = True

    def __init__(self, setup: Setup, settings: GoldNASSettings) -> None:
        super().__init__(setup, settings)
        space = setup.space
        self._sets = SubsetSpace(space)
        self._is_none = torch.zeros_like(self.relaxation.kept)
        for layer, choice in self.relaxation.cells():
            self._is_none[layer, choice] = space.operations(layer)[choice] == space.no_operation
        self.relaxation.kept &= ~self._is_none
        self._nodes = [list(layers) for layers in space.sums]
        self._check_shares()
        self._costs = self._operation_costs()
        self._prunings = settings.prunings or max(1, len(self.relaxation.cells()) // _CANDIDATES_FOR_ONE)
        self._interval = max(1, round(settings.prune_every * setup.steps_per_epoch))
        self._whole = self.current
        self._least_macs = settings.least_macs * self.result_space.count_macs(self._whole)
        self.pressure, self._rise, self._quiet = 0.0, settings.pressure, 0
        self.found: list[Architecture] = []

    def logit_optimizer(self) -> Optimizer:
        return torch.optim.SGD([self.relaxation.logits], self.settings.logit_learning_rate, momentum=0.9)

    @property
    def result_space(self) -> SubsetSpace:
        """Sets of operations."""
        return self._sets

    @property
    def networks(self) -> WeighedNetworks:
        return WeighedNetworks(self.supernet, self.relaxation, self.result_space)

    @property
    def current(self) -> Architecture:
        """The operations that are left, as an architecture of `result_space`."""
        return self.result_space.of_sets([row.nonzero()[:, 0].tolist() for row in self.relaxation.kept])

    def selection(self, tools: SelectionTools) -> FoundStage:
        """Scores some of the series, evenly by their order."""
        return FoundStage(tools.archive, lambda: self.series)

    @property
    def series(self) -> list[Architecture]:
        """The results that are trained anew: the last one, and as many more as are wanted."""
        most, last = self.settings.results, len(self.found) - 1
        if last < most:
            return self.found
        return [self.found[round(last * (index + 1) / most)] for index in range(most)]

    def step(self, images: Tensor, labels: Tensor, do: Stepper) -> Step:
        weights = self.relaxation.rows(torch.sigmoid(self.relaxation.logits))
        done = self.backward(weights, images, labels, do, penalty=self.pressure * self.resources())
        do.apply(self.optimizers["supernet"], clip_norm=self.training.clip_norm)
        do.apply(self.optimizers["logits"])
        if (do.number + 1) % self._interval == 0:
            self.end_round()
        if do.number + 1 == do.num_steps and self.current not in self.found:
            self.found.append(self.current)
        return done

    def shares(self) -> Tensor:
        """Share of each operation in what enters its node, ``[L, O]``; 0 of those that are pruned."""
        strength = F.logsigmoid(self.relaxation.logits).masked_fill(~self._active, -torch.inf)
        nodes = [strength[layers].flatten().softmax(dim=0).view(len(layers), -1) for layers in self._nodes]
        order = torch.tensor([layer for layers in self._nodes for layer in layers])
        return torch.cat(nodes)[order.argsort()]

    def resources(self) -> Tensor:
        """What the pressure makes small: ``sum_o log(1 + n p_o) cost_o``."""
        shares = self.shares()
        above = (shares.detach() > self.settings.least_share).sum(dim=1)
        counts = torch.zeros_like(above)
        for layers in self._nodes:
            counts[layers] = above[layers].sum()
        return (torch.log1p(counts[:, None] * shares) * self._costs).sum()

    def end_round(self) -> None:
        """Prunes what is due, keeps what was stable before as a result, and sets the pressure."""
        before = self.current
        if not self._prunable():
            self.pressure = 0.0
            return
        pruned = self._prune()
        if pruned and self._quiet > self.settings.stable and before not in (self._whole, *self.found):
            self.found.append(before)
        self._quiet = 0 if pruned else self._quiet + 1
        own = self.settings
        if pruned >= self._prunings:
            self._rise = own.pressure
            self.pressure /= own.pressure_factor
        else:
            self._rise *= own.pressure_factor
            self.pressure += self._rise

    def end_epoch(self, do: Stepper) -> Mapping[str, float]:
        current = self.current
        return {
            "pressure": self.pressure,
            "operations_left": float(self._active.sum()),
            "macs": float(self.result_space.count_macs(current)),
            "architectures": float(len(self.found)),
        }

    def state_dict(self) -> dict[str, Any]:
        found = [list(architecture.operations) for architecture in self.found]
        return {"pressure": self.pressure, "rise": self._rise, "quiet": self._quiet, "found": found}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.pressure, self._rise, self._quiet = state["pressure"], state["rise"], state["quiet"]
        self.found = [Architecture(tuple(operations)) for operations in state["found"]]

    @property
    def _active(self) -> Tensor:
        """Which operations are left, those for no connection aside."""
        return self.relaxation.kept & ~self._is_none

    def _prune(self) -> int:
        """Leaves out operations of small shares, the smallest first; how many it were."""
        pruned = 0
        while cells := self._prunable():
            shares = self.shares().detach()
            share, (layer, choice) = min((float(shares[cell]), cell) for cell in cells)
            limit = self.settings.prunable_share if pruned < self._prunings else self.settings.least_share
            if share > limit:
                break
            self.relaxation.kept[layer, choice] = False
            if not self.relaxation.kept[layer].any():
                self.relaxation.kept[layer] = self._is_none[layer]
            pruned += 1
        return pruned

    def _prunable(self) -> list[tuple[int, int]]:
        """Layer and choice of the operations that may be left out."""
        if self.result_space.count_macs(self.current) <= self._least_macs:
            return []
        return [(layer, choice) for layer, choice in self._active.nonzero().tolist() if self._may_go(layer, choice)]

    def _may_go(self, layer: int, choice: int) -> bool:
        """Whether node and layer have something left without an operation."""
        active = self._active
        [node] = [layers for layers in self._nodes if layer in layers]
        if int(active[node].sum()) == 1:
            return False
        return bool(self._is_none[layer].any()) or int(active[layer].sum()) > 1

    def _check_shares(self) -> None:
        """Refuses a least share that all operations of a node have at the start."""
        most = max(int(self._active[layers].sum()) for layers in self._nodes)
        if self.settings.least_share >= 1 / most:
            raise ValueError(
                f"least_share: a node of space {self.space.name} has {most} operations, which begin with equal shares, "
                f"and all would be pruned at once; expected below {1 / most:.3g}, got {self.settings.least_share:g}"
            )

    def _operation_costs(self) -> Tensor:
        """What each operation costs under pressure."""
        macs = torch.zeros_like(self.relaxation.logits.detach())
        for layer, choice in self.relaxation.cells():
            macs[layer, choice] = self.space.layer_cost(layer, choice).macs
        mean = macs[self.relaxation.kept].mean().clamp(min=1)
        return self.settings.operation_cost + self.settings.mac_cost * macs / mean
