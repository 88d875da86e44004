"""Layer sets against their networks' published sizes."""

import itertools
import math

import pytest

from benchmarks.layers import ConvLayer
from benchmarks.networks import layer_sets
from benchmarks.works.path import path_layers


def _is_squeeze_excite(layer: ConvLayer) -> bool:
    return layer.name.endswith(("squeeze", "excite"))


@pytest.mark.parametrize(
    ("name", "with_squeeze_excite", "parameters"),
    [
        # Parameters of the published models with 1,000 classes, as torchvision counts them.
        ("mobilenet_v2_se", False, 3_504_872),
        ("efficientnet_b0", True, 5_288_548),
        ("shufflenet_v2", True, 2_278_604),
    ],
)
def test_published_parameters(name, with_squeeze_excite, parameters):
    layers = layer_sets()[name].convolutions
    total = (layers[-1].out_channels + 1) * 1000
    for layer in layers:
        if _is_squeeze_excite(layer) and not with_squeeze_excite:
            continue
        biases = 1 if _is_squeeze_excite(layer) else 2  # or a batch norm
        total += math.prod(layer.weight_shape) + biases * layer.out_channels
    assert total == parameters


@pytest.mark.parametrize(
    ("name", "millions"), [("mobilenet_v2_se", 300), ("efficientnet_b0", 386), ("shufflenet_v2", 145)]
)
def test_published_multiplications(name, millions):
    layers = layer_sets()[name].convolutions
    assert sum(layer.multiplications for layer in layers) / 1e6 == pytest.approx(millions, rel=0.01)


@pytest.mark.parametrize("name", list(layer_sets()))
def test_distinct_layers_cover_the_network(name):
    layer_set = layer_sets()[name]
    distinct = layer_set.distinct_convolutions()
    assert sum(layer.count for layer in distinct) == len(layer_set.convolutions)
    assert len({layer.name for layer in distinct}) == len({layer.geometry + layer.kind for layer in distinct})
    total = sum(layer.count * layer.multiplications for layer in distinct)
    assert total == sum(layer.multiplications for layer in layer_set.convolutions)
    norms = layer_set.distinct_norms()
    assert sum(norm.count for norm in norms) == sum(layer.activation for layer in layer_set.convolutions)


def test_path_chains():
    layers = path_layers()
    assert len(layers) == 26
    for before, after in itertools.pairwise(layers):
        assert (before.out_channels, before.out_size) == (after.in_channels, after.size)


def test_width_keeps_image_channels_and_depthwise_groups():
    stem = ConvLayer("stem", 3, 32, 3, 32).at_width(0.25)
    assert (stem.in_channels, stem.out_channels) == (3, 8)
    depthwise = ConvLayer("depthwise", 96, 96, 3, 8, groups=96).at_width(0.5)
    assert (depthwise.in_channels, depthwise.out_channels, depthwise.groups) == (48, 48, 48)
    assert depthwise.kind == "depthwise"
