"""Finds mistakes in a search space of your own before hours are spent on it."""

from __future__ import annotations

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from kshot_ext.nas.networks.export import extract
from kshot_ext.nas.networks.supernet import Supernet
from kshot_ext.nas.spaces.architecture import Architecture
from kshot_ext.nas.spaces.counting import Cost
from kshot_ext.nas.spaces.space import SearchSpace

_TOLERANCE = 1e-5


def check_space(space: SearchSpace, generator: torch.Generator, *, num_random: int = 4, batch_size: int = 4) -> None:
    """Compares networks of a space, built and run, with what space and supernet say of them.

    Of the cheapest, the largest and some random architectures: the parameters and multiply-accumulates of the plain
    network (counted by ``torch.utils.flop_counter``) are those that the space counts; and the supernet, in which
    narrow layers are slices of wide ones, gives the outputs of the plain network that is extracted from it, which has
    as many parameters.

    Args:
        space: the space to check.
        generator: source of architectures, weights and images.
        num_random: number of random architectures.
        batch_size: images per run, at least 2.

    Raises:
        ValueError: naming the first architecture for which that is not so.

    Example:
        >>> from kshot_ext.nas.spaces import create_space
        >>> space = create_space("nas-bench-macro", image_shape=(1, 8, 8), num_classes=3, channels=2, widths=(0.5, 1.0))
        >>> check_space(space, torch.Generator().manual_seed(0), num_random=1)
    """
    supernet = Supernet(space, 2, generator)
    code = torch.tensor([0.4, 0.6])
    for architecture in (space.cheapest(), space.largest(), *(space.sample(generator) for _ in range(num_random))):
        images = torch.randn(batch_size, *space.image_shape, generator=generator)
        images = images.contiguous(memory_format=space.memory_format)
        counted = space.cost(architecture)
        actual = _run_and_count(space, architecture, generator, counted.bit_operations)
        if counted != actual:
            raise ValueError(f"{architecture} of space {space.name}: counted {counted}, but its network has {actual}")
        supernet.train()(images, architecture, code)  # running statistics that are not the initial ones
        network = extract(supernet.eval(), architecture, code)
        if (parameters := _count_parameters(network)) != counted.parameters:
            raise ValueError(
                f"{architecture} of space {space.name}: counted {counted}, extracted {parameters} parameters"
            )
        with torch.no_grad():
            inherited, extracted = supernet(images, architecture, code), network(images)
        if not torch.allclose(inherited, extracted, rtol=_TOLERANCE, atol=_TOLERANCE):
            raise ValueError(
                f"{architecture} of space {space.name}: the supernet's outputs differ from those of its plain network "
                f"by up to {float((inherited - extracted).abs().max()):.2g}; does a module keep state of its own?"
            )


def _run_and_count(
    space: SearchSpace, architecture: Architecture, generator: torch.Generator, bit_operations: int
) -> Cost:
    """The cost of a network that is built and run; the counter knows no bits."""
    network = space.build(architecture, generator).eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network(torch.zeros(1, *space.image_shape))
    # The counter counts a multiply-accumulate as two operations.
    return Cost(counter.get_total_flops() // 2, _count_parameters(network), bit_operations)


def _count_parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())
