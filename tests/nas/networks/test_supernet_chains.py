"""Supernets of every space run their convolutions as chains, at full width and narrow, and score as before."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from kshot_ext import backend
from kshot_ext.nas.networks.calibration import batch_statistics, recalibrated
from kshot_ext.nas.networks.supernet import Supernet
from kshot_ext.nas.spaces import create_space
from kshot_ext.nn import links

pytestmark = pytest.mark.usefixtures("native_backend", "one_thread")
CODE = torch.tensor([0.25, 0.75])
SPACES = ["nas-bench-macro", "nas-bench-201", "shufflenet-v2", "mobilenet-v2-se"]


def made(space_name: str, widths: tuple[float, ...] | None) -> tuple[Supernet, nn.Module, Tensor]:
    space = create_space(space_name, image_shape=(3, 16, 16), num_classes=3, channels=4, widths=widths)
    generator = torch.Generator().manual_seed(0)
    supernet = Supernet(space, 2, generator)
    images = torch.randn(8, 3, 16, 16, generator=generator).contiguous(memory_format=torch.channels_last)
    return supernet, space.sample(torch.Generator().manual_seed(3)), images


def operators(network: nn.Module, images: Tensor) -> list[str]:
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        network(images)
    return [event.name for event in profile.events()]


@pytest.mark.parametrize("widths", [None, (0.5, 1.0)])
@pytest.mark.parametrize("space_name", SPACES)
def test_links_are_where_they_can_be(space_name: str, widths: tuple[float, ...] | None) -> None:
    supernet, path, images = made(space_name, widths)
    with supernet.coded_path(path, CODE) as network:
        names = operators(network, images)
    convolutions = [m for m in network.modules() if hasattr(m, "kernel_size") and getattr(m, "bias", 0) is None]
    linked = [conv for conv in convolutions if links.obstacle(conv) is None]
    shortcuts = 2 if space_name == "nas-bench-201" else 0  # without a norm
    assert names.count("kshot_ext::chained_conv2d") == len(linked) - shortcuts > 0
    if space_name in ("nas-bench-macro", "mobilenet-v2-se"):  # norms add what blocks pass by
        assert "aten::add" not in names


@pytest.mark.parametrize("space_name", SPACES)
def test_chains_change_nothing_but_rounding(space_name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In training and evaluation, with measured statistics and those of each batch; in double, far from kinks."""
    made_by: list[list[Tensor]] = []
    for chains in (True, False):
        supernet, path, images = made(space_name, None)
        supernet, images = supernet.double(), images.double()
        if not chains:
            monkeypatch.setattr(links, "prefers_chain", lambda *operands: False)
        with backend.use_reference(), supernet.coded_path(path, CODE.double()) as network:
            outputs = [network.train()(images), network.eval()(images)]
            with recalibrated(network, [(images, None)]):
                outputs.append(network(images))
            with batch_statistics(network):
                outputs.append(network(images))
            outputs[0].square().sum().backward()
        gradients = [p.grad for p in network.parameters() if p.grad is not None and p.dim() == 5]
        made_by.append([output.detach() for output in outputs] + gradients)
    for one, other in zip(*made_by):
        torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-10 * other.abs().max().item())
