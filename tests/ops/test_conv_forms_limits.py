"""What the kernels of each backend serve, told without a GPU."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from kshot_ext import backend
from kshot_ext.ops import conv_forms
from kshot_ext.ops.conv_forms import ConvCall
from kshot_ext.ops.kshot_conv import _2D
from kshot_ext.ops.window import Window
from kshot_ext.widths import active_widths

ROOT = Path(__file__).resolve().parent.parent.parent


def call_of(shots: int, *, groups: int = 1, dtype: torch.dtype = torch.float32) -> ConvCall:
    weight = torch.empty(shots, 8, 8 // groups, 1, 1, dtype=dtype)
    widths = active_widths(8, (8, 8 // groups), groups, None)
    window = Window.of_arguments((1, 1), 1, 0, 1)
    return ConvCall(_2D, torch.empty(2, 8, 3, 3, dtype=dtype), weight, torch.ones(shots), None, None, widths, window)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_dense_kernels_of_cuda_take_128_copies(monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype) -> None:
    monkeypatch.setattr(backend, "kernels_for", lambda device: "cuda")
    assert conv_forms.fused_serves(call_of(128, dtype=dtype))
    assert not conv_forms.fused_serves(call_of(129, dtype=dtype))
    assert conv_forms.fused_serves(call_of(129, groups=8, dtype=dtype))
    assert not conv_forms.fused_serves(call_of(2, groups=2, dtype=dtype))


def test_kernels_of_cuda_and_their_callers_agree_on_the_copies() -> None:
    """The operator refuses what the public function does not send it."""
    header = (ROOT / "csrc/cuda/dense_conv2d.h").read_text()
    assert re.findall(r"kMostDenseCopies = (\d+);", header) == ["128"]


@pytest.mark.parametrize("shots", [1, 128, 129, 1000])
def test_dense_kernels_of_the_cpu_take_float32_and_any_copies(shots: int) -> None:
    assert conv_forms.fused_serves(call_of(shots))
    assert not conv_forms.fused_serves(call_of(shots, dtype=torch.bfloat16))
    assert conv_forms.fused_serves(call_of(shots, groups=8, dtype=torch.bfloat16))
