"""What links of a chain move for real layers: bytes over the least possible, sectors, bank conflicts."""

from __future__ import annotations

from typing import Any

import pytest
from cuda_emulation import build
from cuda_emulation.chain_cases import Link, square
from cuda_emulation.emulation import needs_full
from cuda_emulation.workloads import chained_depthwise

pytestmark = [needs_full, pytest.mark.skipif(not build.available(), reason="the emulator needs GCC on Linux")]

MOST_BYTES = 1.15  # over the least possible, a block's own second reads served by its cache
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


@pytest.mark.parametrize("direction", ["forward", "backward"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", LAYERS)
def test_depthwise(name: str, dtype: str, direction: str) -> None:
    traffic = chained_depthwise(Link(square(**LAYERS[name], dtype=dtype)), direction).count()
    print(
        f"{name:22} {dtype:9} {direction:9} bytes {traffic.moved / traffic.least:.2f}, by blocks"
        f" {traffic.moved_by_blocks / traffic.least:.3f}, sectors {traffic.sector_ratio:.3f},"
        f" banks {traffic.bank_conflict:.2f}, at most {traffic.worst_bank_conflict}"
    )
    assert traffic.moved_by_blocks <= MOST_BYTES * traffic.least
    assert traffic.worst_bank_conflict <= MOST_CONFLICTS
