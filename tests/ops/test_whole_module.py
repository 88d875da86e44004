"""Compilation and export of a module that uses every operator."""

from __future__ import annotations

import io

import pytest
import torch
from torch import Tensor, nn

from kshot_ext import functional as KF


class EveryOperator(nn.Module):
    """Uses each public operator once, on images of 3 channels; `width` channels of 8 are in use."""

    def __init__(self) -> None:
        super().__init__()
        shapes = {
            "stem": (2, 8, 3, 3, 3),
            "depthwise": (2, 8, 1, 3, 3),
            "line": (2, 8, 8, 3),
            "volume": (2, 8, 8, 1, 1, 1),
            "gated": (8, 8, 1, 1),
            "head": (2, 5, 8),
            "scale": (2, 8),
            "shift": (2, 8),
        }
        self.parameters_of = nn.ParameterDict({name: nn.Parameter(torch.randn(s)) for name, s in shapes.items()})
        self.register_buffer("mean", torch.zeros(8))
        self.register_buffer("var", torch.ones(8))

    def forward(self, images: Tensor, code: Tensor, width: int = 8) -> Tensor:
        p = self.parameters_of
        x = KF.kshot_conv2d(images, p["stem"], code, padding=1, out_channels=width)
        x = KF.batch_norm_act(x, p["scale"], p["shift"], self.mean, self.var, code=code, training=self.training)
        x = x + KF.kshot_conv2d(x, p["depthwise"], code, padding="same", groups=8)
        x = KF.gated_conv2d(x, p["gated"], gate=p["scale"][0])[:, :width]
        x = KF.kshot_conv1d(x.flatten(2), p["line"], code, padding=1, out_channels=width).unflatten(2, x.shape[2:])
        x = KF.kshot_conv3d(x.unsqueeze(2), p["volume"], code, out_channels=width).squeeze(2)
        mixed = KF.mix_weights([p["scale"], p["shift"]], code)
        x = x.mean((2, 3)) * mixed[0][..., :width] + mixed[1][..., :width]
        logits = KF.kshot_linear(x, p["head"], code)
        return logits + KF.effective_weight(p["head"], code).mean()


def inputs(batch: int = 3, size: int = 6) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(batch, 3, size, size, generator=generator), torch.tensor([0.25, 0.75])


@pytest.fixture
def module() -> EveryOperator:
    return EveryOperator()


@pytest.mark.parametrize("width", [8, 5])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=str)
def test_compile_fullgraph(module: EveryOperator, memory_format: torch.memory_format, width: int) -> None:
    torch.compiler.reset()
    images, code = inputs()
    images = images.contiguous(memory_format=memory_format)
    compiled = torch.compile(module.eval(), fullgraph=True, backend="aot_eager")
    gradients = []
    for forward in (module, compiled):
        output = forward(images, code, width)
        gradients.append([output.detach(), *torch.autograd.grad(output.square().sum(), list(module.parameters()))])
    for one, other in zip(*gradients):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-3)


def test_compile_fullgraph_in_training(module: EveryOperator) -> None:
    torch.compiler.reset()
    images, code = inputs()
    eager_statistics = EveryOperator()
    eager_statistics.load_state_dict(module.state_dict())
    expected = eager_statistics(images, code)
    output = torch.compile(module, fullgraph=True, backend="aot_eager")(images, code)
    torch.testing.assert_close(output, expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(module.mean, eager_statistics.mean)
    torch.testing.assert_close(module.var, eager_statistics.var)


def test_compile_with_dynamic_shapes(module: EveryOperator) -> None:
    torch.compiler.reset()
    compiled = torch.compile(module.eval(), fullgraph=True, backend="aot_eager", dynamic=True)
    for batch, size in ((3, 6), (5, 8)):
        torch.testing.assert_close(compiled(*inputs(batch, size)), module(*inputs(batch, size)), rtol=1e-4, atol=1e-4)


def test_export(module: EveryOperator) -> None:
    arguments = inputs()
    exported = torch.export.export(module.eval(), arguments)
    torch.testing.assert_close(exported.module()(*arguments), module(*arguments))
    assert any("kshot_ext" in str(node.target) for node in exported.graph.nodes)
    file = io.BytesIO()
    torch.export.save(exported, file)
    file.seek(0)
    torch.testing.assert_close(torch.export.load(file).module()(*arguments), module(*arguments))
