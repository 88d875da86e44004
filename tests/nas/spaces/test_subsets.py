"""Spaces of sets of operations: names, counting, networks, parsing."""

import itertools

import pytest
import torch

from kshot_ext.nas.networks.check_space import check_space
from kshot_ext.nas.networks.supernet import Supernet
from kshot_ext.nas.spaces import create_space
from kshot_ext.nas.spaces.architecture import Architecture
from kshot_ext.nas.spaces.subsets import SubsetSpace

ARGUMENTS = {
    "nas-bench-macro": {"channels": 2},
    "nas-bench-201": {"channels": 2, "cells": 1},
    "shufflenet-v2": {"channels": 2},
    "mobilenet-v2-se": {"channels": 2},
}


def made(name, widths=None):
    return SubsetSpace(create_space(name, image_shape=(1, 8, 8), num_classes=3, widths=widths, **ARGUMENTS[name]))


def test_names_are_all_sets_of_the_operations():
    space = made("nas-bench-macro")
    names = ("identity", "mb3_k3", "mb6_k5")
    wanted = {frozenset(chosen) for count in (1, 2, 3) for chosen in itertools.combinations(names, count)}
    assert {frozenset(name.split("+")) for name in space.operations(0)} == wanted
    assert len(space.operations(7)) == 7
    assert len(made("mobilenet-v2-se").operations(0)) == 2**13 - 1


def test_sets_and_choices_are_the_same():
    space = made("nas-bench-201")
    for choice in range(31):
        path = Architecture((choice,) * 6)
        sets = space.sets(path)
        assert space.of_sets(sets) == path
        assert space.operations(0)[choice] == "+".join(space.space.operations(0)[member] for member in sets[0])


def test_an_architecture_of_the_space_underneath_is_the_same_here():
    space = made("nas-bench-201")
    path = Architecture((0, 1, 2, 3, 4, 0))
    assert space.sets(path) == ((0,), (1,), (2,), (3,), (4,), (0,))
    assert space.operation_names(path) == space.space.operation_names(path)
    assert space.cost(path) == space.space.cost(path)
    assert (space.sums, space.no_operation) == (((0,), (1, 2), (3, 4, 5)), "none")


def test_a_key_names_the_operations_of_each_layer():
    space = made("nas-bench-201")
    key = "none|nor_conv_3x3+skip_connect|none|none|avg_pool_3x3|none"
    assert space.sets(space.from_key(key)) == ((0,), (1, 3), (0,), (0,), (4,), (0,))
    for wrong in ("none|none", "none|none|none|none|none|pool", ""):
        with pytest.raises(ValueError, match=r"expected names of operations, joined by '\+' within each of 6 layers"):
            space.from_key(wrong)


@pytest.mark.parametrize("name", ["nas-bench-macro", "nas-bench-201"])
def test_a_set_costs_what_its_operations_cost(name):
    space = made(name)
    base = space.space
    generator = torch.Generator().manual_seed(0)
    for _ in range(5):
        path = space.sample(generator)
        macs = base.count_macs(Architecture((0,) * base.num_layers))
        macs -= sum(base.layer_cost(layer, 0).macs for layer in range(base.num_layers))
        macs += sum(base.layer_cost(layer, o).macs for layer, members in enumerate(space.sets(path)) for o in members)
        assert space.count_macs(path) == macs


@pytest.mark.parametrize(("name", "widths"), [("nas-bench-macro", (0.5, 1.0)), ("nas-bench-201", None)])
@pytest.mark.usefixtures("one_thread")
def test_networks_are_built_counted_and_extracted(name, widths):
    check_space(made(name, widths), torch.Generator().manual_seed(0), num_random=2)


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("name", ARGUMENTS)
def test_a_built_network_adds_up_as_a_mixture_of_equal_weights_does(name):
    """The supernet of the space underneath, with the weights of the built network put into it."""
    space = made(name)
    path = space.sample(torch.Generator().manual_seed(2))
    assert max(map(len, space.sets(path))) > 1
    plain = space.build(path, torch.Generator().manual_seed(3)).double().train()
    supernet = Supernet(space.space, 1, torch.Generator().manual_seed(4)).double().train()
    ones = torch.ones(supernet.space.num_layers, 13, dtype=torch.float64)
    values = [row[: len(supernet.space.operations(layer))] for layer, row in enumerate(ones)]
    images = torch.randn(6, 1, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    with supernet.coded_mixture(space.weights(path, values)) as network:
        sources = dict(plain.named_parameters())
        for name, target in network.named_parameters():  # where a set has one operation, the plain network is that
            source = sources[name] if name in sources else sources[name.replace("operations.0.", "")]
            target.data.copy_(source.data[None])
        torch.testing.assert_close(network(images), plain(images))


def test_the_largest_uses_all_and_the_cheapest_one():
    space = made("nas-bench-macro")
    assert set(space.largest().operations) <= {5, 6}  # an identity costs nothing but where it changes the shape
    assert all(len(members) == 1 for members in space.sets(space.cheapest()))


def test_what_is_no_set_of_the_space_is_refused():
    space = made("nas-bench-macro")
    with pytest.raises(ValueError, match=r"sets\[1\]: expected one or more of 0 .identity., 1 .*, got \(\)"):
        space.of_sets([{0}, set()] + [{0}] * 6)
    with pytest.raises(ValueError, match=r"sets\[0\]: expected one or more of .*, got \(3,\)"):
        space.of_sets([{3}] + [{0}] * 7)
    with pytest.raises(ValueError, match="sets: expected one for each of 8 layers, got 1"):
        space.of_sets([{0}])
    space.space._operations = (("a", "a+b"),)
    with pytest.raises(ValueError, match=r"expected names without '\+'.*got 'a\+b'"):
        SubsetSpace(space.space)
    space.space._operations = (tuple("abcdefghijklmnopq"),)
    with pytest.raises(ValueError, match="expected at most 16 operations to take sets of, got 17"):
        SubsetSpace(space.space)
