"""Random small networks with random features of other people's code: convert, compare, merge back."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from conversion import check_conversion
from hypothesis import given, settings
from hypothesis import strategies as st
from repeatable import integers
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, prune, weight_norm

from kshot_ext.nn.obstacles import sort_layers

pytestmark = [
    pytest.mark.usefixtures("native_backend", "one_thread"),
    pytest.mark.filterwarnings("ignore:convert left some layers:UserWarning", "ignore::FutureWarning"),
]


class Centred(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        return self._conv_forward(x, self.weight - self.weight.mean(), self.bias)


class Reader(nn.Module):
    """Reads what it holds, past its forward."""

    def __init__(self, layer: nn.Conv2d) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.layer.weight, self.layer.bias, padding=self.layer.padding)


class Network(nn.Module):
    """Layers one after the other, the first ones from a list that modules know nothing of."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList()
        self.order: list[nn.Module] = []

    def add(self, layer: nn.Module) -> None:
        self.order.append(layer)
        self.layers.append(layer)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.order:
            x = torch.tanh(layer(x)) + x
        return x


LAYERS: dict[str, Callable[[], nn.Module]] = {
    "pointwise": lambda: nn.Conv2d(4, 4, 1),
    "spatial": lambda: nn.Conv2d(4, 4, 3, padding=1, bias=False),
    "depthwise": lambda: nn.Conv2d(4, 4, 3, padding=1, groups=4, padding_mode="circular"),
    "norm": lambda: nn.BatchNorm2d(4),
    "cumulative_norm": lambda: nn.BatchNorm2d(4, momentum=None),
    "plain_norm": lambda: nn.BatchNorm2d(4, affine=False, track_running_stats=False),
    "rows": lambda: nn.Linear(5, 5),
    "group_norm": lambda: nn.GroupNorm(2, 4),
    "transposed": lambda: nn.ConvTranspose2d(4, 4, 3, padding=1, groups=2),
    "row_norm": lambda: nn.LayerNorm(5),
    "instance_norm": lambda: nn.InstanceNorm2d(4, affine=True),
    "subclass": lambda: Centred(4, 4, 1),
}


def freeze(layer: nn.Module, _network: Network) -> None:
    layer.requires_grad_(False)


def note(layer: nn.Module, _network: Network) -> None:
    layer.register_forward_pre_hook(lambda *_: None)
    layer.role = "fixed"


def scale_the_input(layer: nn.Module, _network: Network) -> None:
    layer.register_forward_pre_hook(lambda _layer, inputs: (inputs[0] * 0.5,))


def scale_the_gradient(layer: nn.Module, _network: Network) -> None:
    layer.register_full_backward_hook(lambda _layer, grads, _outputs: (grads[0] * 0.5,))


def add_the_mean_weight(layer: nn.Module, _network: Network) -> None:
    layer.register_forward_hook(lambda module, _inputs, output: output + module.weight.mean())


def tie_to_the_network(layer: nn.Module, network: Network) -> None:
    network.register_parameter(f"tied_{len(network.layers)}", layer.weight)


def tie_to_its_kind(layer: nn.Module, network: Network) -> None:
    for other in network.layers:
        if type(other) is type(layer) and other._parameters.get("weight") is not None:
            if other.weight.shape == layer.weight.shape:
                layer.weight = other.weight


def hook_the_gradient(layer: nn.Module, _network: Network) -> None:
    layer.weight.register_hook(lambda gradient: gradient * 0.5)


def prune_half(layer: nn.Module, _network: Network) -> None:
    prune.l1_unstructured(layer, "weight", 0.5)


def own_forward(layer: nn.Module, _network: Network) -> None:
    layer.forward = torch.sin


STAYING = {
    "weight_norm": lambda layer, _network: weight_norm(layer),
    "parametrised": lambda layer, _network: parametrizations.weight_norm(layer),
    "pruned": prune_half,
    "own_forward": own_forward,
    "uses_the_weight": add_the_mean_weight,
    "tied_to_the_network": tie_to_the_network,
    "gradient_hook": hook_the_gradient,
    "buffer": lambda layer, _network: layer.register_buffer("mask", torch.ones(2)),
}
MOVING = {
    "nothing": lambda layer, _network: None,
    "frozen": freeze,
    "noted": note,
    "scaled_input": scale_the_input,
    "scaled_gradient": scale_the_gradient,
    "tied_to_its_kind": tie_to_its_kind,
}
FEATURES = {**STAYING, **MOVING}


@st.composite
def networks(draw: st.DrawFn) -> tuple[Network, set[str]]:
    """A network, and the names of the layers that must stay for what was done to themselves."""
    torch.manual_seed(draw(integers(0, 99)))
    network, staying = Network(), set()
    for index in range(draw(integers(2, 5))):
        kind = draw(st.sampled_from(sorted(LAYERS)))
        feature = draw(st.sampled_from(sorted(FEATURES)))
        layer = LAYERS[kind]()
        is_read = kind == "pointwise" and draw(st.booleans())
        if layer._parameters.get("weight") is not None and not is_read:
            FEATURES[feature](layer, network)
            if feature in STAYING:
                staying.add(f"layers.{index}")
        if kind in ("instance_norm", "subclass"):
            staying.add(f"layers.{index}")
        if is_read:
            layer = Reader(layer)
            staying.add(f"layers.{index}.layer")
        network.add(layer)
    if draw(st.booleans()):
        network.order.append(network.order[0])
    return network, staying


@settings(max_examples=50)
@given(networks())
def test_random_networks(case: tuple[Network, set[str]]) -> None:
    network, staying = case
    able, left = sort_layers(network)
    assert staying <= set(left)
    assert not staying & set(able)
    tied_to_staying = {name for name, reason in left.items() if "which stays as it is" in reason}
    assert set(left) - {""} <= staying | tied_to_staying
    if not able:
        return
    report = check_conversion(network, torch.randn(3, 4, 5, 5))
    assert set(report.swapped) == set(able)
    assert set(report.left) == set(left)
