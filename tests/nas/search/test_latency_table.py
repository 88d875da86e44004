"""What is timed and added up, on a clock that tells made-up times: real ones belong in no test."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from kshot_ext.nas.search.latency_table import LatencyTable
from kshot_ext.nas.spaces import create_space, space_names


class CountedTable(LatencyTable):
    """Every convolution and linear layer takes a millisecond for each input pixel; nothing else takes time."""

    def _milliseconds(self, module: nn.Module, input_shape: tuple[int, ...]) -> float:
        self.timed = getattr(self, "timed", 0) + 1
        pixels = []
        hooks = [
            layer.register_forward_pre_hook(lambda _, inputs: pixels.append(inputs[0].shape[2:].numel()))
            for layer in module.modules()
            if isinstance(layer, (nn.Conv2d, nn.Linear))
        ]
        module.eval()(torch.zeros(input_shape))
        for hook in hooks:
            hook.remove()
        return float(sum(pixels))


@pytest.mark.parametrize("name", space_names())
@pytest.mark.usefixtures("one_thread")
def test_parts_add_up_to_the_whole_network(name, seeded) -> None:
    space = create_space(name, image_shape=(3, 16, 16), num_classes=3, channels=4, widths=(0.5, 1.0))
    table = CountedTable(space)
    error = table.error([space.cheapest(), space.sample(seeded(0)), space.largest()])
    assert (error.mean, error.worst, error.networks) == (0, 0, 3)
    assert min(table.times.values()) >= 0 < max(table.times.values())


def test_each_part_is_timed_once(tiny_space) -> None:
    table = CountedTable(tiny_space)
    first = table(tiny_space.cheapest())
    assert table.timed == len(table.times) == 10
    assert table(tiny_space.cheapest()) == first
    table(tiny_space.cheapest().with_operation(3, 2))
    assert table.timed == 11
    restored = CountedTable(tiny_space)
    restored.load_state_dict(table.state_dict())
    assert restored(tiny_space.cheapest()) == first
    assert not hasattr(restored, "timed")


def test_error_is_relative_to_the_measured_time(tiny_space, monkeypatch: pytest.MonkeyPatch) -> None:
    table = CountedTable(tiny_space)
    whole = {tiny_space.cheapest(): table(tiny_space.cheapest()) / 2, tiny_space.largest(): table(tiny_space.largest())}
    monkeypatch.setattr(table, "measure", whole.__getitem__)
    error = table.error(list(whole))
    assert (error.mean, error.worst) == (0.5, 1.0)


def test_a_real_clock_leaves_global_randomness_alone(tiny_space, one_thread: None) -> None:
    before = torch.get_rng_state()
    table = LatencyTable(tiny_space, seconds=1e-4)
    assert table(tiny_space.cheapest()) > 0
    assert table.measure(tiny_space.cheapest()) > 0
    assert torch.equal(torch.get_rng_state(), before)
