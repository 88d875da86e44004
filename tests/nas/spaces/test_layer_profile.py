from __future__ import annotations

import pytest
import torch

from kshot_ext.nas.spaces import create_space
from kshot_ext.nas.spaces.architecture import Architecture
from kshot_ext.nas.spaces.bit_width_space import BitWidthSpace
from kshot_ext.nas.spaces.bit_widths import parse_bits
from kshot_ext.nas.spaces.counting import Cost
from kshot_ext.nas.spaces.ensembles import EnsembleSpace
from kshot_ext.nas.spaces.layer_profile import LayerProfiles
from kshot_ext.nas.spaces.space import SearchSpace
from kshot_ext.nas.spaces.subsets import SubsetSpace


def _macro(**options: object) -> SearchSpace:
    return create_space("nas-bench-macro", image_shape=(3, 16, 16), num_classes=10, channels=4, **options)


SPACES = {
    "macro": _macro,
    "macro, widths": lambda: _macro(widths=(0.5, 1.0)),
    "cells": lambda: create_space("nas-bench-201", image_shape=(3, 16, 16), num_classes=10, channels=4, cells=1),
    "ensembles": lambda: EnsembleSpace(_macro(), 2),
    "subsets": lambda: SubsetSpace(_macro()),
    "bits": lambda: BitWidthSpace(_macro(), parse_bits("w2a4,w8a8")),
}


@pytest.mark.parametrize("name", SPACES)
def test_costs_of_the_layers_add_up_to_that_of_the_network(name: str, seeded) -> None:
    space, generator = SPACES[name](), seeded(0)
    profiles = LayerProfiles(space)
    for architecture in (space.sample(generator) for _ in range(4)):
        parts = profiles.of(architecture)
        assert sum((part.cost for part in parts), start=Cost(0, 0)) == space.cost(architecture)
        assert profiles.of(architecture) == parts  # as seen, without a run


def test_shapes_are_those_of_a_real_run(seeded) -> None:
    space = _macro(widths=(0.5, 1.0))
    architecture = Architecture((0, 1, 2, 0, 1, 2, 0, 1), (0, 1) * 4)
    network = space.new_network(architecture, seeded(0)).eval()
    seen: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {}
    for name, part in network.named_children():
        part.register_forward_hook(
            lambda _, inputs, output, name=name: seen.update({name: (inputs[0].shape[1:], output.shape[1:])})
        )
    network(torch.zeros(1, 3, 16, 16))
    profiles = {
        part.place if part.place in ("stem", "head") else f"layer{part.place}": (part.input_shape, part.output_shape)
        for part in LayerProfiles(space).of(architecture)
    }
    assert profiles == {name: tuple(map(tuple, shapes)) for name, shapes in seen.items()}


def test_an_edge_that_is_not_there_has_no_shape() -> None:
    space = SPACES["cells"]()
    parts = LayerProfiles(space).of(Architecture((3, 0, 3, 0, 0, 3)))
    assert [bool(part.output_shape) for part in parts] == [True, True, False, True, False, False, True, True]
    assert (parts[1].input_shape, parts[1].output_shape) == ((4, 16, 16), (16, 4, 4))


def test_architectures_of_another_space_are_refused() -> None:
    with pytest.raises(ValueError, match="has 8 layers, got 2 operations"):
        LayerProfiles(_macro()).of(Architecture((0, 1)))
