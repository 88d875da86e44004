"""Shuffle units one behind the other, whose parts nobody joins in between."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from kshot_ext.nas.networks.supernet import Supernet
from kshot_ext.nas.spaces import create_space

pytestmark = pytest.mark.usefixtures("native_backend", "one_thread")
CODE = torch.tensor([0.25, 0.75])


def operators(run: Callable[[], object]) -> list[str]:
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        run()
    return [event.name for event in profile.events()]


def images() -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(2, 3, 16, 16, generator=generator).contiguous(memory_format=torch.channels_last).requires_grad_()


def outcome(network: Callable[[Tensor], Tensor], parameters: list[Tensor]) -> list[Tensor]:
    x = images()
    output = network(x)
    return [output.detach(), *torch.autograd.grad((output * output.detach().cos()).sum(), [x, *parameters])]


@pytest.mark.parametrize("training", [True, False])
def test_a_path_computes_what_its_layers_compute_one_by_one(training: bool) -> None:
    """Values and gradients; of the units of a stage only the last is joined, for the next stage reads the whole."""
    space = create_space("shufflenet-v2", image_shape=(3, 16, 16), num_classes=4, channels=8)
    supernet = Supernet(space, 2, torch.Generator().manual_seed(0)).train(training)
    path = space.sample(torch.Generator().manual_seed(0))
    with supernet.coded_path(path, CODE) as network:
        layers = list(network)

        def one_by_one(x: Tensor) -> Tensor:
            for layer in layers:
                x = layer(x)
            return x

        used = [parameter for parameter in network.parameters() if parameter.requires_grad]
        for ours, theirs in zip(outcome(network, used), outcome(one_by_one, used)):
            torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3 * theirs.abs().max().item() + 1e-6)
        stages = sum(layer.shortcut is not None for layer in layers[1:-1])
        assert operators(lambda: network(images())).count("aten::cat") == stages
        assert operators(lambda: one_by_one(images())).count("aten::cat") == space.num_layers


def test_a_hook_sees_a_tensor() -> None:
    space = create_space("shufflenet-v2", image_shape=(3, 16, 16), num_classes=4, channels=8)
    supernet, seen = Supernet(space, 2, torch.Generator().manual_seed(0)).eval(), []
    with supernet.coded_path(space.sample(torch.Generator().manual_seed(0)), CODE) as network:
        expected = network(images())
        network[2].register_forward_hook(lambda module, inputs, output: seen.extend([inputs[0], output]))
        torch.testing.assert_close(network(images()), expected)
    assert all(isinstance(value, Tensor) for value in seen)
    assert len(seen) == 2
