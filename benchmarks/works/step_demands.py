"""The least that a training step of a network of K copies takes: bytes and operations, part after part.

What each node of the plain network's graph takes if every tensor that must exist crosses the bus once a pass
(in, out: bytes of its input and output):

    convolution     forward: in read, out written; backward: in and the gradient of out read, that of in written, and
                    out read once more if a norm follows. Three products; two of images, which ask for no gradient.
    norm            nothing: its moments are made where its input is stored, and its readers normalise while they load.
                    One that is added to something writes: forward 2 out and what is added, backward 3 out.
    sum             of two tensors that are there already: 3 out
    pool            forward: in read, out written; backward: the gradient of out read, that of in written
    linear map      as a convolution
    activations, products by a factor per channel, splits and joins of channels: nothing, as readers do them on the way

The gradient of a tensor with several readers is written once. Beside the nodes each of P parameters is read K times to
be mixed, and takes 4 K + 1 accesses in its update.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator

import torch
from torch import fx, nn
from torch.fx.passes.shape_prop import ShapeProp

from benchmarks.works.row import FLOAT32_BYTES, Demand

_ACTIVATIONS = (nn.ReLU, nn.ReLU6, nn.SiLU, nn.Hardswish, nn.Sigmoid, nn.Hardsigmoid)
_POOLS = (nn.AvgPool2d, nn.MaxPool2d, nn.AdaptiveAvgPool2d)
_FREE_MODULES = (*_ACTIVATIONS, nn.Identity, nn.Dropout, nn.Flatten)
_FREE_FUNCTIONS = (operator.mul, operator.getitem, torch.cat, torch.flatten)
_FREE_METHODS = ("chunk", "flatten", "view", "reshape", "transpose", "contiguous")


def step_demands(network: nn.Module, image_shape: tuple[int, ...], batch: int, num_shots: int) -> list[Demand]:
    """What the step's parts take, one after the other.

    Args:
        network: plain, of one path; torch.fx must be able to trace it.

    Raises:
        ValueError: the network has a node for which there is no count.
    """
    graph = _Graph(network, image_shape, batch)
    parameters = sum(parameter.numel() for parameter in network.parameters())
    of_parameters = Demand(FLOAT32_BYTES * parameters * (num_shots + 4 * num_shots + 1), 0)
    return [*graph.demands(), of_parameters]


class _Graph:
    """The nodes of a network, with what they take."""

    def __init__(self, network: nn.Module, image_shape: tuple[int, ...], batch: int) -> None:
        was_training = network.training
        self._traced = fx.symbolic_trace(network.eval())
        with torch.no_grad():
            ShapeProp(self._traced).propagate(torch.zeros(1, *image_shape))  # of one image: its statistics may be any
        network.train(was_training)
        self._modules = dict(self._traced.named_modules())
        self._batch = batch
        self._with_gradient: set[fx.Node] = set()

    def demands(self) -> Iterator[Demand]:
        for node in self._traced.graph.nodes:
            demand = self._demand(node)
            if demand is not None:
                yield demand

    def _demand(self, node: fx.Node) -> Demand | None:
        module = self._module(node)
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            return self._of_product(node, module)
        if isinstance(module, _POOLS):
            passes = 2 * self._bytes(node) + self._bytes(node.args[0]) + self._gradient_written(node.args[0])
            return Demand(passes, 0)
        if isinstance(module, nn.BatchNorm2d):
            return Demand(5 * self._bytes(node), 0) if self._is_added(node) else None
        if node.target is operator.add:
            joins = any(self._ends_here(term, node) for term in node.args)
            return Demand((1 if joins else 3) * self._bytes(node), 0)
        free = isinstance(module, _FREE_MODULES) or node.target in _FREE_FUNCTIONS
        free = free or (node.op == "call_method" and node.target in _FREE_METHODS)
        if free or node.op in ("placeholder", "output", "get_attr"):
            return None
        raise ValueError(f"no count for {module or node.target} in the graph's node {node.name}")

    def _of_product(self, node: fx.Node, module: nn.Conv2d | nn.Linear) -> Demand:
        input, normed = node.args[0], any(isinstance(self._module(user), nn.BatchNorm2d) for user in node.users)
        numbers = self._bytes(node) // FLOAT32_BYTES
        of_images = input.op == "placeholder"
        products = 2 if of_images else 3
        return Demand(
            2 * self._bytes(input) + self._gradient_written(input) + (2 + normed) * self._bytes(node),
            products * 2 * numbers * module.weight[0].numel(),
        )

    def _module(self, node: fx.Node) -> nn.Module | None:
        return self._modules[node.target] if node.op == "call_module" else None

    def _bytes(self, node: fx.Node) -> int:
        return FLOAT32_BYTES * self._batch * node.meta["tensor_meta"].shape.numel()

    def _gradient_written(self, node: fx.Node) -> int:
        """Bytes of the gradient of what a node reads, if nobody has written it yet."""
        size = self._bytes(node)
        while self._is_map(node):
            node = node.args[0]
        if node.op == "placeholder" or node in self._with_gradient:
            return 0
        self._with_gradient.add(node)
        return size

    def _is_map(self, node: fx.Node) -> bool:
        """Whether readers apply the node while they load."""
        module = self._module(node)
        return isinstance(module, _FREE_MODULES) or (isinstance(module, nn.BatchNorm2d) and not self._is_added(node))

    def _is_added(self, node: fx.Node) -> bool:
        """Whether a norm's output, activated or not, is a term of a sum."""
        return any(
            user.target is operator.add or (self._is_map_of(user) and self._is_added(user)) for user in node.users
        )

    def _is_map_of(self, node: fx.Node) -> bool:
        return isinstance(self._module(node), _FREE_MODULES)

    def _ends_here(self, term: fx.Node, node: fx.Node) -> bool:
        """Whether a term of a sum is a norm's output that nobody else reads: the norm writes the sum."""
        return isinstance(self._module(term), nn.BatchNorm2d) and list(term.users) == [node]
