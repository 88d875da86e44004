"""What links of a chain move for real layers: bytes over the least possible, sectors, bank conflicts."""

from __future__ import annotations

from typing import Any

import pytest
from cuda_emulation.chain_cases import DenseCase, Link, square
from cuda_emulation.depthwise_cases import Axis
from cuda_emulation.selection import needs_emulator, needs_full
from cuda_emulation.workloads import chained

pytestmark = [needs_full, needs_emulator]

MOST_BYTES = 1.15  # over the least possible, with an L2 cache that has what blocks read again
MOST_WITHOUT_CACHE = 2  # 7x7 backward; others stay below 1.5
MOST_BYTES_OF_STRETCHES = 1.5  # with sums of the weight's gradient, which are many beside so few images
MOST_CONFLICTS = 2  # passes of an access to shared memory where one could do


def layer(channels: int, size: int, kernel: int, stride: int = 1, **fields: Any) -> dict[str, Any]:
    return {"size": size, "kernel": kernel, "stride": stride, "batch": 8, "channels": channels, "shots": 8, **fields}


# Of NAS-Bench-Macro at batch 64 (fewer samples here) and MobileNetV2 at 224.
LAYERS = {
    "96ch 32 stride 2": layer(96, 32, 3, 2),
    "192ch 32 stride 2 k5": layer(96, 32, 5, 2),
    "384ch 16 k5": layer(192, 16, 5),
    "384ch 8": layer(384, 8, 3, batch=32),
    "1536ch 4 k5": layer(768, 4, 5, batch=64),
    "32ch 112": layer(32, 112, 3, batch=3),
    "144ch 56 k7": layer(96, 56, 7, batch=2),
}


def check(name: str, link: Link, direction: str, most: float) -> float:
    """Bytes over the least, without any cache but the blocks' own."""
    traffic = chained(link, direction).count()
    unique = sum(kernel["unique_bytes_read"] + kernel["unique_bytes_written"] for kernel in traffic.kernels)
    by_blocks = traffic.moved_by_blocks / traffic.least
    print(
        f"{name:22} {link.conv.dtype:9} {direction:9} bytes {unique / traffic.least:.3f}, without cache"
        f" {traffic.moved / traffic.least:.2f}, by blocks {by_blocks:.3f}, sectors {traffic.sector_ratio:.3f},"
        f" banks {traffic.bank_conflict:.2f}, at most {traffic.worst_bank_conflict}"
    )
    assert unique <= most * traffic.least
    assert traffic.worst_bank_conflict <= MOST_CONFLICTS
    return by_blocks


@pytest.mark.parametrize("direction", ["forward", "backward"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", LAYERS)
def test_depthwise(name: str, dtype: str, direction: str) -> None:
    link = Link(square(**LAYERS[name], dtype=dtype))
    assert check(name, link, direction, MOST_BYTES) <= MOST_WITHOUT_CACHE


# 1x1 convolutions of NAS-Bench-Macro and MobileNetV2: channels, positions of a side, samples.
POINTWISE = {
    "32 -> 96 at 32": (32, 96, 32, 2),
    "96 -> 64 at 16": (96, 64, 16, 8),
    "64 -> 192 at 16": (64, 192, 16, 8),
    "128 -> 384 at 8": (128, 384, 8, 16),
    "384 -> 128 at 8": (384, 128, 8, 16),
}


@pytest.mark.parametrize("direction", ["forward", "backward"])
@pytest.mark.parametrize("dtype", ["float32", "tf32", "bfloat16"])
@pytest.mark.parametrize("name", POINTWISE)
def test_pointwise(name: str, dtype: str, direction: str) -> None:
    """Every block of 64 channels reads its places again; that is for the L2 cache, so no bound without."""
    inner, outer, size, batch = POINTWISE[name]
    axis = Axis(size, 1)
    link = Link(DenseCase(axis, axis, batch, inner, outer, dtype))
    check(name, link, direction, MOST_BYTES if direction == "forward" else MOST_BYTES_OF_STRETCHES)
