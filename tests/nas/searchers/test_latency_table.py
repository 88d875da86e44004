"""What is timed and added up, on a clock that tells made-up times: real ones belong in no test."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from kshot_ext.nas.searchers.latency_table import LatencyTable
from kshot_ext.nas.spaces import create_space, space_names
from kshot_ext.nas.spaces.bit_width_space import BitWidthSpace
from kshot_ext.nas.spaces.bit_widths import parse_bits
from kshot_ext.nas.spaces.space import SearchSpace


class CountedTable(LatencyTable):
    """A table on a clock that only the `pixels` of convolutions and linear layers move, `pace` seconds for each."""

    pixels = 0.0
    pace = 1.0

    def __init__(self, space: SearchSpace) -> None:
        super().__init__(space, seconds=0.0)
        self.networks = 0

    def _runs(self, *arguments: Any) -> Iterator[Any]:
        self.networks += 1
        return super()._runs(*arguments)

    def _now(self) -> float:
        return CountedTable.pixels


@pytest.fixture(autouse=True)
def _counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CountedTable, "pace", 1.0)
    for kind in (nn.Conv2d, nn.Linear):
        forward = kind.forward

        def counted(layer: nn.Module, input: Tensor, forward: Callable[..., Tensor] = forward) -> Tensor:
            CountedTable.pixels += CountedTable.pace * input.shape[2:].numel()
            return forward(layer, input)

        monkeypatch.setattr(kind, "forward", counted)


@pytest.mark.parametrize("name", space_names())
@pytest.mark.usefixtures("one_thread")
def test_parts_add_up_to_the_whole_network(name, seeded) -> None:
    widths = None if name == "groupable" else (0.5, 1.0)
    space = create_space(name, image_shape=(3, 16, 16), num_classes=3, channels=4, widths=widths)
    table = CountedTable(space)
    error = table.error([space.cheapest(), space.sample(seeded(0)), space.largest()])
    assert (error.mean, error.worst, error.networks) == (pytest.approx(0), pytest.approx(0), 3)
    assert min(table.times.values()) >= 0 < max(table.times.values())


def test_each_part_is_timed_once(tiny_space) -> None:
    table = CountedTable(tiny_space)
    first = table(tiny_space.cheapest())
    assert (table.networks, len(table.times)) == (1, 10)
    assert table(tiny_space.cheapest()) == first
    table(tiny_space.cheapest().with_operation(3, 2))
    assert (table.networks, len(table.times)) == (2, 11)
    restored = CountedTable(tiny_space)
    restored.load_state_dict(table.state_dict())
    assert restored(tiny_space.cheapest()) == first
    assert restored.networks == 0


def test_what_happens_outside_of_parts_counts(tiny_space, monkeypatch: pytest.MonkeyPatch) -> None:
    before, assemble = CountedTable(tiny_space)(tiny_space.largest()), tiny_space.assemble
    channels, *sides = tiny_space.image_shape

    def assemble_more(*parts: Any) -> nn.Module:
        classes = tiny_space.num_classes
        return nn.Sequential(nn.Conv2d(channels, channels, 1), assemble(*parts), nn.Linear(classes, classes))

    monkeypatch.setattr(tiny_space, "assemble", assemble_more)
    more = 1e3 * (math.prod(sides) + 1)
    assert CountedTable(tiny_space)(tiny_space.largest()) == pytest.approx(before + more)


def test_times_are_relative_to_the_reference_network(tiny_space, monkeypatch: pytest.MonkeyPatch) -> None:
    table = CountedTable(tiny_space)
    cheapest, largest = table(tiny_space.cheapest()), CountedTable(tiny_space)(tiny_space.largest())
    restored = CountedTable(tiny_space)
    restored.load_state_dict(table.state_dict())
    for slow in (table, restored):
        monkeypatch.setattr(CountedTable, "pace", 3.0)
        assert slow(tiny_space.largest()) == pytest.approx(largest)
        assert slow.measure(tiny_space.cheapest()) == pytest.approx(cheapest)


def test_error_is_relative_to_the_measured_time(tiny_space, monkeypatch: pytest.MonkeyPatch) -> None:
    table = CountedTable(tiny_space)
    whole = {tiny_space.cheapest(): table(tiny_space.cheapest()) / 2, tiny_space.largest(): table(tiny_space.largest())}
    monkeypatch.setattr(table, "measure", whole.__getitem__)
    error = table.error(list(whole))
    assert (error.mean, error.worst) == (pytest.approx(0.5), pytest.approx(1.0))


def test_a_real_clock_leaves_global_randomness_alone(tiny_space, one_thread: None) -> None:
    before = torch.get_rng_state()
    table = LatencyTable(tiny_space, seconds=1e-4)
    assert table(tiny_space.cheapest()) > 0
    assert table.measure(tiny_space.cheapest()) > 0
    assert torch.equal(torch.get_rng_state(), before)


def test_bits_do_not_change_the_latency_which_is_that_of_floating_point(tiny_space, seeded) -> None:
    space = BitWidthSpace(tiny_space, parse_bits("w2a2,w8a8"))
    table, plain = CountedTable(space), CountedTable(tiny_space)
    path = tiny_space.sample(seeded(0))
    few, many = (space.with_bits(path, bits) for bits in space.bits)
    assert table(few) == table(many) == plain(path) > 0
    assert table.times.keys() == plain.times.keys()
    assert table.measure(few) == plain.measure(path)
