"""K-shot batch norm module."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from kshot_ext.nn import KShotBatchNorm2d

CODE = torch.tensor([0.25, 0.75])
pytestmark = pytest.mark.usefixtures("native_backend", "one_thread")


def images(channels: int = 5) -> torch.Tensor:
    return torch.randn(4, channels, 3, 7) * 2 + 1


@pytest.mark.parametrize(
    "options",
    [{}, {"momentum": None}, {"momentum": 0.3, "eps": 0.1}, {"affine": False}, {"track_running_stats": False}],
    ids=str,
)
def test_is_the_plain_layer_under_a_one_hot_code(options: dict) -> None:
    """Over training and evaluation, running statistics included."""
    layer, plain = KShotBatchNorm2d(5, **options, num_shots=2), nn.BatchNorm2d(5, **options)
    if layer.affine:
        nn.init.normal_(layer.weight)
        nn.init.normal_(layer.bias)
        with torch.no_grad():
            plain.weight.copy_(layer.weight[1])
            plain.bias.copy_(layer.bias[1])
    code = torch.tensor([0.0, 1.0])
    for training in (True, True, True, False):
        x = images()
        torch.testing.assert_close(layer.train(training)(x, code), plain.train(training)(x))
    for name, buffer in plain.named_buffers():
        torch.testing.assert_close(layer.get_buffer(name), buffer)


def test_starts_as_the_identity_under_any_code_on_the_simplex() -> None:
    layer = KShotBatchNorm2d(5, eps=0, num_shots=2).eval()
    x = images()
    torch.testing.assert_close(layer(x, CODE), x)


def test_activation_and_residual() -> None:
    layer = KShotBatchNorm2d(5, num_shots=2).eval()
    x, residual = images(), images()
    torch.testing.assert_close(layer(x, CODE, activation="relu", residual=residual), (layer(x, CODE) + residual).relu())


def test_needs_no_code_without_affine_parameters() -> None:
    assert KShotBatchNorm2d(5, affine=False, num_shots=2)(images()).shape == (4, 5, 3, 7)
    with pytest.raises(ValueError, match="KShotBatchNorm2d needs a code of 2 entries"):
        KShotBatchNorm2d(5, num_shots=2)(images())


def test_narrow_input_uses_the_leading_channels() -> None:
    layer = KShotBatchNorm2d(5, num_shots=2)
    layer(images(3), CODE)
    assert (layer.running_mean[:3] != 0).all()
    assert (layer.running_mean[3:] == 0).all()


def test_reset_running_stats() -> None:
    layer = KShotBatchNorm2d(5, num_shots=2)
    layer(images(), CODE)
    assert layer.num_batches_tracked == 1
    layer.reset_running_stats()
    for name, buffer in KShotBatchNorm2d(5, num_shots=2).named_buffers():
        assert torch.equal(layer.get_buffer(name), buffer)


def test_rejects_other_ranks() -> None:
    with pytest.raises(ValueError, match=r"input must have shape \[N, C, H, W\], got \[4, 5\]"):
        KShotBatchNorm2d(5, num_shots=2)(torch.zeros(4, 5), CODE)


def test_says_what_it_is() -> None:
    expected = "KShotBatchNorm2d(5, eps=1e-05, momentum=0.1, affine=True, track_running_stats=True, num_shots=2)"
    assert repr(KShotBatchNorm2d(5, num_shots=2)) == expected


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
def test_statistics_that_are_no_longer_tracked_are_still_used(training):
    plain, ours = nn.BatchNorm2d(3).train(training), KShotBatchNorm2d(3, num_shots=2).train(training)
    for norm in (plain, ours):
        norm.running_mean.fill_(0.7)
        norm.track_running_stats = False
    x = torch.randn(4, 3, 5, 5)
    torch.testing.assert_close(ours(x, torch.tensor([0.5, 0.5])), plain(x))
    for name, buffer in plain.named_buffers():
        torch.testing.assert_close(ours.get_buffer(name), buffer)
