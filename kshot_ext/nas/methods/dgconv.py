"""Dynamic grouping: one network is trained, and binary gates learn how many groups its convolutions have."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from kshot_ext.convert import convert, merge
from kshot_ext.nas.checks import check_at_least, check_between
from kshot_ext.nas.methods.method import Method, MethodSettings, Setup
from kshot_ext.nas.methods.parts.found_stage import FoundStage
from kshot_ext.nas.methods.selection import SelectionTools
from kshot_ext.nas.randomness import seeded_by
from kshot_ext.nas.spaces.architecture import Architecture
from kshot_ext.nas.spaces.groupable import Groupable, GroupableBlock
from kshot_ext.nas.training.divergence import check_loss
from kshot_ext.nas.training.loop import Step, Stepper
from kshot_ext.nas.training.optimization import Tally
from kshot_ext.nn import DynamicGroupConv2d, export_dynamic_groups
from kshot_ext.nn.code import set_code
from kshot_ext.optim import KShotSGD, decay_groups

_LARGEST_PUSH = 0.1  # of all gates together in a step, in units of their learning rate


@dataclass(frozen=True, kw_only=True)
class DynamicGroupSettings(MethodSettings):
    """How gates are trained.

    Args:
        penalty: what all gates of a network add to its loss together when they are open; the larger, the more groups.
        gate_start: value of every gate at the start; 0 lets them start at random, a hair above or below zero.
        gate_learning_rate: of the gates, the same throughout.
        weights_first: share of the training in which the gates stand as they start.
        weights_last: share of the training, at its end, in which they stand as they were most of the time.

    Raises:
        ValueError: if a value is out of range.
    """

    name: str = "dgconv"
    penalty: float = 1.2
    gate_start: float = 0.1
    gate_learning_rate: float = 1.0
    weights_first: float = 0.3
    weights_last: float = 0.3

    def __post_init__(self) -> None:
        check_at_least("penalty", self.penalty, 0)
        check_at_least("gate_start", self.gate_start, 0)
        check_at_least("gate_learning_rate", self.gate_learning_rate, 0)
        check_between("weights_first", self.weights_first, 0, 1)
        check_between("weights_last", self.weights_last, 0, 1)
        if self.weights_first + self.weights_last > 1:
            raise ValueError(
                "weights_first and weights_last: expected a sum of at most 1, "
                f"got {self.weights_first:g} and {self.weights_last:g}"
            )


class DynamicGroups(Method[DynamicGroupSettings]):
    """Trains the network of `Groupable` whose 3x3 convolutions are masked by the relations of gates:

        loss = cross-entropy + penalty * (share of open gates),    gradients pass the gates' threshold straight through

    First the weights alone, all gates open; then both; at last the weights alone, each gate as it was most of the time
    while both were trained, since a gate that is needed is pushed open as soon as the penalty has closed it. An
    architecture of the space inherits these weights under as many gates as it asks for, the most open ones first.
    One copy of weights is trained, and no path.

    Zhang et al., "Differentiable Learning-to-Group Channels via Groupable Convolutional Neural Networks", ICCV 2019.
    """

    summary = "one network whose convolutions learn their groups by binary gates (space groupable)"
    paper = (
        "Zhang et al., Differentiable Learning-to-Group Channels via Groupable Convolutional Neural Networks, ICCV 2019"
    )
    Settings = DynamicGroupSettings
    any_task = True
    takes_copies = False
    searches_widths = False

    def __init__(self, setup: Setup, settings: DynamicGroupSettings) -> None:
        super().__init__(setup, settings)
        if not isinstance(self.space, Groupable):
            raise ValueError(
                f"method dgconv: expected space groupable, whose layers choose groups, got {self.space.name}"
            )
        self.network = build_network(self.space, setup.generator("supernet")).to(setup.device)
        _set_only_code(self.network)
        self.layers = [layer for layer in self.network.modules() if isinstance(layer, DynamicGroupConv2d)]
        gates = [layer.group_gates for layer in self.layers]
        if settings.gate_start > 0:
            for gate in gates:
                nn.init.constant_(gate, settings.gate_start)
        self.modules = {"network": self.network}
        training, own = setup.training, {id(gate) for gate in gates}
        groups = decay_groups(self.network, training.weight_decay, decay_norms=training.decay_norms)
        groups = [{**g, "params": [p for p in g["params"] if id(p) not in own]} for g in groups]
        self.optimizers = {
            "weights": KShotSGD(groups, lr=training.learning_rate, momentum=training.momentum, nesterov=True),
            "gates": torch.optim.SGD(gates, lr=settings.gate_learning_rate),
        }
        self._opened = torch.zeros(len(gates), gates[0].numel(), device=setup.device)  # steps of each gate
        self._last = setup.num_steps - int(settings.weights_last * setup.num_steps)
        self._first = min(int(settings.weights_first * setup.num_steps), self._last)

    @property
    def networks(self) -> GroupedNetworks:
        return GroupedNetworks(self.network)

    @property
    def learnt(self) -> Architecture:
        """The groups that the gates leave now."""
        return Architecture(tuple(layer.groups.bit_length() - 1 for layer in self.layers))

    def exported(self) -> nn.Module:
        """The network as it is now, as the space builds it for :attr:`learnt`: of ordinary convolutions in groups."""
        network = merge(export_dynamic_groups(self.network), torch.ones(1, device=self.setup.device))
        for block in network.modules():
            if isinstance(block, GroupableBlock):
                _sort_channels(block)
        return network

    def step(self, images: Tensor, labels: Tensor, do: Stepper) -> Step:
        """One step of the weights, and of the gates in the middle part of the training."""
        if do.number == self._last:
            self._settle_gates(do)
        tally = Tally()
        with do.forward():
            logits = self.network(images)
            loss = self.task.training_loss(logits, labels, self.training.label_smoothing)
        closed = sum(layer.log2_groups() / layer.num_gates for layer in self.layers) / len(self.layers)
        do.backward(loss + self.settings.penalty * (1 - closed))
        [whole] = do.processes.summed([do.share * tally.add(loss, logits, labels, self.task)])
        check_loss(whole)
        do.apply(self.optimizers["weights"], clip_norm=self.training.clip_norm)
        if self._first <= do.number < self._last:
            do.apply(self.optimizers["gates"], clip_norm=_LARGEST_PUSH)
            self._opened += torch.stack([layer.hard_gates().detach() for layer in self.layers])
        self.optimizers["gates"].zero_grad()
        return Step(whole, tally)

    def selection(self, tools: SelectionTools) -> FoundStage:
        """Nothing is searched: what the gates leave is scored, and changed if it is beyond the limits of the run."""
        return FoundStage(tools.archive, lambda: [self.learnt])

    def end_epoch(self, do: Stepper) -> Mapping[str, float]:
        """How many groups each layer has; at the end gates stand as they were settled, not as their average."""
        if do.number == do.num_steps:
            self._settle_gates(do)
        return {f"groups_{index}": float(layer.groups) for index, layer in enumerate(self.layers, start=1)}

    def state_dict(self) -> dict[str, Any]:
        return {"opened": self._opened}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._opened.copy_(state["opened"])

    @torch.no_grad()
    def _settle_gates(self, do: Stepper) -> None:
        """Opens the gates that were open most of the time; those of no training stay."""
        steps = self._last - self._first
        if steps == 0:
            return
        do.before_change(layer.group_gates for layer in self.layers)
        for layer, opened in zip(self.layers, self._opened):
            layer.group_gates.copy_(opened / steps - 0.5)


@dataclass(frozen=True, eq=False)
class GroupedNetworks:
    """The networks of the space with the weights of one network.

    Args:
        whole: the network, whose gates are set for the time that an architecture is used.
    """

    whole: nn.Module

    @contextmanager
    def network(self, architecture: Architecture) -> Iterator[nn.Module]:
        """Inside the context the network under as many open gates as the architecture's groups ask for."""
        _set_only_code(self.whole)  # which a copy, sent to another process, has left behind
        layers = [layer for layer in self.whole.modules() if isinstance(layer, DynamicGroupConv2d)]
        kept = [layer.group_gates.detach().clone() for layer in layers]
        try:
            for layer, power in zip(layers, architecture.operations, strict=True):
                order = layer.group_gates.detach().argsort(descending=True, stable=True)
                rank = order.argsort()
                layer.group_gates.data.copy_(torch.where(rank < layer.num_gates - power, 1.0, -1.0))
            yield self.whole
        finally:
            for layer, gates in zip(layers, kept):
                layer.group_gates.data.copy_(gates)


def build_network(space: Groupable, generator: torch.Generator) -> nn.Module:
    """The space's network with as many gates in each 3x3 convolution as the space has numbers of groups.

    All its layers are K-shot layers of one copy, as those of supernets are: then several processes can train it.
    """
    shape = space.full_shape
    with seeded_by(generator):
        layers = [space.candidate("groups_1", layer) for layer in shape.layers]
        for block, names in zip(layers, map(space.operations, range(space.num_layers))):
            _make_dynamic(block, len(names) - 1)
        network = space.assemble(space.stem(shape.stem), layers, space.head(shape.head))
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stub lacks memory_format; images are so
    return convert(network, 1)


def _set_only_code(network: nn.Module) -> None:
    set_code(network, next(network.parameters()).new_ones(1))


@torch.no_grad()
def _sort_channels(block: Any) -> None:
    """Has the layers around an exported convolution permute its channels, which costs them nothing."""
    if isinstance(block.grouped[0], nn.Conv2d):
        return
    before, grouped, after = block.grouped[0]
    inputs, outputs = before.order, after.order.argsort()
    block.before[0].weight.copy_(block.before[0].weight[inputs])
    block.after[0].weight.copy_(block.after[0].weight[:, outputs])
    for norm, order in ((block.before[1], inputs), (block.grouped[1], outputs)):
        for values in (norm.weight, norm.bias, norm.running_mean, norm.running_var):
            values.copy_(values[order])
    block.grouped[0] = grouped


def _make_dynamic(block: Any, num_gates: int) -> None:
    plain = block.grouped[0]
    block.grouped[0] = DynamicGroupConv2d(
        plain.in_channels, plain.out_channels, plain.kernel_size, plain.stride, plain.padding, bias=False,
        num_shots=1, num_gates=num_gates,
    )  # fmt: skip
