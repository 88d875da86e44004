"""Merging never leaves a tensor without a value."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

import kshot_ext
from kshot_ext.nn import KShotMixed, KShotModule, conversions

pytestmark = pytest.mark.usefixtures("native_backend", "one_thread")


class Shifted(nn.Module):
    def __init__(self, device: str | None = None) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.zeros(4, device=device))

    def forward(self, input: Tensor) -> Tensor:
        return input + self.shift


class WithBuffer(Shifted):
    def __init__(self, device: str | None = None) -> None:
        super().__init__(device)
        self.register_buffer("mask", torch.ones(4, device=device))


class WithTensor(Shifted):
    def __init__(self, device: str | None = None) -> None:
        super().__init__(device)
        self.scale = torch.ones(4, device=device)


@pytest.mark.parametrize(("kind", "lacking"), [(WithBuffer, "mask"), (WithTensor, "scale")])
def test_a_plain_form_with_tensors_that_nobody_has_is_refused(
    kind: type[nn.Module], lacking: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`to_plain` of a user who forgot them."""
    monkeypatch.setattr(conversions, "_CONVERSIONS", dict(conversions._CONVERSIONS))
    kshot_ext.register_conversion(Shifted, KShotMixed.from_plain, lambda layer: kind("meta"))
    layer = KShotMixed.from_plain(Shifted(), 2)  # convert would refuse it
    layer.shift = nn.Parameter(torch.ones(2, 4))
    with pytest.raises(ValueError, match=f"layer '': a KShotMixed has no value for {lacking} of the {kind.__name__}"):
        kshot_ext.merge(layer, torch.tensor([0.5, 0.5]))


def test_no_tensor_of_a_merged_model_is_on_the_meta_device() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding_mode="circular"), nn.BatchNorm2d(4), nn.GroupNorm(2, 4), nn.ConvTranspose2d(4, 4, 2),
        nn.Flatten(2), nn.Linear(25, 4), nn.TransformerDecoderLayer(4, 2, 8),
    )  # fmt: skip
    kshot = kshot_ext.convert(model, 2)
    for layer in (kshot[0], kshot[2], kshot[6].norm1):
        parametrizations.weight_norm(layer)
    parametrizations.weight_norm(kshot[6].self_attn, "in_proj_weight")
    merged = kshot_ext.merge(kshot, torch.tensor([0.25, 0.75]))
    tensors = [each for layer in merged.modules() for each in (*vars(layer).values(), *layer.state_dict().values())]
    assert not any(isinstance(each, Tensor) and each.is_meta for each in tensors)
    assert not any(isinstance(layer, KShotModule) for layer in merged.modules())
    kshot_ext.set_code(kshot, torch.tensor([0.25, 0.75]))
    x = torch.randn(5, 3, 4)
    attended = kshot[6].eval()(x[..., :4].transpose(0, 1).contiguous(), x[..., :4].transpose(0, 1).contiguous())
    wanted = merged[6].eval()(x[..., :4].transpose(0, 1).contiguous(), x[..., :4].transpose(0, 1).contiguous())
    torch.testing.assert_close(attended, wanted)
