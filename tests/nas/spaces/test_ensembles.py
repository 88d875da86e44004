"""Ensembles with a shared trunk: what they compute, cost and leave to choose."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from kshot_ext.nas.searchers.latency_table import LatencyTable
from kshot_ext.nas.spaces import create_space
from kshot_ext.nas.spaces.architecture import Architecture
from kshot_ext.nas.spaces.counting import cost_of, count_positions
from kshot_ext.nas.spaces.ensembles import BranchedNetwork, EnsembleSpace
from kshot_ext.nas.spaces.limits import SearchLimits, repair
from kshot_ext.nas.spaces.outline import outlines

WIDTHS = (0.5, 0.75, 1.0)


def space_of(name="nas-bench-macro", widths=None):
    return create_space(name, image_shape=(1, 8, 8), num_classes=3, channels=4, widths=widths)


@pytest.mark.parametrize(("name", "widths"), [("nas-bench-macro", None), ("mobilenet-v2-se", WIDTHS)])
def test_the_cost_is_that_of_the_network_that_is_built(name, widths, seeded):
    """Counted a second time on the built network, where a trunk is there once."""
    ensembles, generator = EnsembleSpace(space_of(name, widths), 3), seeded(0)
    for _ in range(2):
        ensemble = ensembles.sample(generator)
        network = ensembles.build(ensemble, seeded(1))
        with outlines():
            positions = count_positions(network.to("meta"), ensembles.image_shape)
        counted = cost_of(network, {n: positions[m] for n, m in network.named_modules() if m in positions})
        assert ensembles.cost(ensemble) == counted


@pytest.mark.parametrize("widths", [None, WIDTHS])
def test_members_are_architectures_with_one_trunk(widths, seeded):
    space = space_of(widths=widths)
    ensembles, generator, trunks = EnsembleSpace(space, 2), seeded(0), set()
    for _ in range(60):
        ensemble = ensembles.sample(generator)
        ensembles.validate(ensemble)
        trunk, (one, other) = ensembles.trunk(ensemble), ensembles.members(ensemble)
        trunks.add(trunk)
        for member in (one, other):
            space.validate(member)
        assert one.operations[:trunk] == other.operations[:trunk]
        assert (one.widths or ())[:trunk] == (other.widths or ())[:trunk]
        assert ensembles.of_members(trunk, (one, other)) == ensemble
        assert ensembles.from_genes(ensembles.genes(ensemble)) == ensemble
        assert Architecture.from_json(ensemble.to_json()) == ensemble
    assert trunks == set(range(9))


def test_genes_that_lie_in_the_trunk_do_not_count():
    ensembles = EnsembleSpace(space_of(), 2)
    genes = (3, *(0, 1, 2, 0, 1, 2, 0, 1), *(2, 2, 2, 2, 2, 2, 2, 2))
    ensemble = ensembles.from_genes(genes)
    assert ensembles.members(ensemble)[1].operations == (0, 1, 2, 2, 2, 2, 2, 2)
    with pytest.raises(ValueError, match="expected the same choices of all networks in their trunk of 3 layers"):
        ensembles.validate(Architecture(genes))


def test_operations_that_are_not_kept_give_way(seeded):
    ensembles = EnsembleSpace(space_of(), 2)
    ensembles.keep([(2,), (0, 2)] + [(0, 1, 2)] * 6)
    everywhere = ensembles.from_genes((0, *(1,) * 16))
    for member in ensembles.members(everywhere):
        assert member.operations[0] == 2
        assert member.operations[1] in (0, 2)
        assert member.operations[2:] == (1,) * 6
    generator = seeded(0)
    drawn = [member for _ in range(100) for member in ensembles.members(ensembles.sample(generator))]
    assert {member.operations[0] for member in drawn} == {2}
    assert sum(member.operations[1] == 0 for member in drawn) == pytest.approx(100, abs=25)
    assert {member.operations[0] for member in ensembles.members(ensembles.cheapest())} == {2}
    assert ensembles.members(ensembles.cheapest())[0].operations[1:] == (0,) * 7
    for kept, message in (
        ([(0,)] * 7, "kept: expected operations of 8 layers, got 7"),
        ([(0,)] * 7 + [()], r"kept\[7\]: expected one or more of \[0, 1, 2\], got \[\]"),
        ([(3,)] + [(0,)] * 7, r"kept\[0\]: expected one or more of \[0, 1, 2\], got \[3\]"),
    ):
        with pytest.raises(ValueError, match=message):
            ensembles.keep(kept)


def test_layers_get_their_cheapest_lost_operations_back():
    ensembles = EnsembleSpace(space_of(), 2)
    ensembles.keep([(2,), (0, 2), (0, 1, 2), (0,)] + [(0, 1, 2)] * 4)
    assert ensembles.give_back()
    assert ensembles.kept[:4] == [(0, 2), (0, 1, 2), (0, 1, 2), (0, 1)]
    assert ensembles.give_back()
    assert ensembles.kept == [(0, 1, 2)] * 8
    assert not ensembles.give_back()


def test_costs_lie_between_the_cheapest_and_the_largest(seeded):
    space = space_of()
    ensembles, generator = EnsembleSpace(space, 2), seeded(0)
    least, most = (ensembles.count_macs(one) for one in (ensembles.cheapest(), ensembles.largest()))
    assert all(least <= ensembles.count_macs(ensembles.sample(generator)) <= most for _ in range(50))
    assert space.count_macs(space.cheapest()) < least < 2 * space.count_macs(space.cheapest())
    assert space.count_macs(space.largest()) < most < 2 * space.count_macs(space.largest())
    limits = SearchLimits((least + most) // 3)
    for _ in range(20):
        found = repair(ensembles.sample(generator), ensembles, limits, generator)
        ensembles.validate(found)
        assert limits.admit(ensembles, found)
    with pytest.raises(ValueError, match="no architecture of space ensembles of 2 in nas-bench-macro has at most"):
        SearchLimits(10).check_reachable(ensembles)


@pytest.mark.parametrize("trunk", [0, 3, 8])
def test_an_ensemble_puts_out_the_mean_of_its_members(trunk, seeded):
    """Each member is run by itself, from stem to head, with its part of the ensemble's weights."""
    space = space_of()
    ensembles, images = EnsembleSpace(space, 2), torch.randn(5, 1, 8, 8, generator=seeded(2))
    members = Architecture((1,) * 8), Architecture((2,) * 8)
    ensemble = ensembles.of_members(trunk, members)
    shape = ensembles.shape_of(ensemble)
    stem, head = ensembles.stem(shape.stem), ensembles.head(shape.head)
    names = ensembles.operation_names(ensemble)
    layers = [ensembles.candidate(name, layer) for name, layer in zip(names, shape.layers)]
    network = ensembles.assemble(stem, layers, head).eval()
    expected = []
    for member, branch in enumerate(head):
        own = layers[1:][member * 8 :][trunk:8]
        expected.append(nn.Sequential(stem, *layers[1:][:trunk], *own, branch).eval()(images))
    torch.testing.assert_close(network(images), (expected[0] + expected[1]) / 2)
    assert not torch.allclose(expected[0], expected[1])
    built = ensembles.build(ensemble, seeded(3)).eval()
    assert built(images).shape == (5, 3)
    assert not any(type(module).__module__.startswith("kshot_ext") for module in built.modules() if module is not built)


def test_the_gradient_that_enters_the_trunk_is_scaled():
    def gradients(factor):
        torch.manual_seed(0)
        network = BranchedNetwork(nn.Linear(3, 3), [nn.Linear(3, 2), nn.Linear(3, 2)])
        sum(f.square().sum() for f in network.members(torch.ones(1, 3), factor)).backward()
        return network.trunk.weight.grad, network.branches[1].weight.grad

    (trunk, branch), (half, same) = gradients(1.0), gradients(0.5)
    torch.testing.assert_close(half, trunk / 2)
    torch.testing.assert_close(same, branch)


def test_its_latency_is_told_like_any_spaces(seeded):
    ensembles = EnsembleSpace(space_of(), 2)
    table = LatencyTable(ensembles, seconds=1e-4)
    apart = ensembles.of_members(0, [Architecture((2,) * 8)] * 2)
    shared = ensembles.of_members(8, [Architecture((2,) * 8)] * 2)
    assert table(apart) > table(shared) > 0
    assert sum(key.endswith(" None") for key in table.times) == 8


@pytest.mark.parametrize("size", [0, 1])
def test_one_network_is_no_ensemble(size):
    with pytest.raises(ValueError, match=f"size: expected at least 2, got {size}"):
        EnsembleSpace(space_of(), size)


def test_networks_that_are_no_chain_are_refused():
    with pytest.raises(ValueError, match="networks are a chain of layers; got nas-bench-201"):
        EnsembleSpace(space_of("nas-bench-201"), 2)
