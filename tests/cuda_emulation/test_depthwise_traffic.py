"""What depthwise kernels move for real layers: bytes over the least possible, sectors, bank conflicts."""

from __future__ import annotations

import pytest
from cuda_emulation.depthwise_cases import Axis, Case
from cuda_emulation.selection import needs_emulator, needs_full
from cuda_emulation.workloads import depthwise

pytestmark = [needs_full, needs_emulator]

MOST_BYTES = 1.5  # over the least possible
MOST_CONFLICTS = 2  # passes of an access to shared memory where one could do


def layer(channels: int, size: int, kernel: int, stride: int = 1, **fields: object) -> Case:
    axis = Axis(size, kernel, stride, kernel // 2, kernel // 2)
    return Case(axis, axis, **{"batch": 8, "channels": channels, "shots": 4, **fields})


# Of MobileNetV2 at 224 and its relatives with larger kernels; the last one of a search space at 32.
LAYERS = {
    "96ch 112 stride 2": layer(96, 112, 3, 2, batch=2),
    "144ch 56": layer(144, 56, 3, batch=3),
    "144ch 56 k7": layer(96, 56, 7, batch=3),
    "192ch 28 stride 2 k5": layer(192, 28, 5, 2),
    "384ch 14 k5": layer(384, 14, 5),
    "960ch 7": layer(960, 7, 3),
    "960ch 7, code per sample": layer(960, 7, 3, code="sample", shots=8),
    "960ch 7 k7": layer(960, 7, 7),
    "192ch 32 k5": layer(192, 32, 5, batch=3),
}


@pytest.mark.parametrize("direction", ["conv2d", "input_gradient", "weight_gradient"])
@pytest.mark.parametrize("channels_last", [True, False], ids=["channels_last", "contiguous"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", LAYERS)
def test_traffic(name: str, dtype: str, channels_last: bool, direction: str) -> None:
    case = Case(**{**vars(LAYERS[name]), "dtype": dtype, "channels_last": channels_last})
    traffic = depthwise(case, direction).count()
    print(
        f"{name:26} {dtype:9} {'channels_last' if channels_last else 'contiguous':13} {direction:15} bytes"
        f" {traffic.moved / traffic.least:.2f} sectors {traffic.sector_ratio:.3f} banks {traffic.bank_conflict:.2f},"
        f" at most {traffic.worst_bank_conflict}"
    )
    assert traffic.moved <= MOST_BYTES * traffic.least
    if channels_last:
        tiled = [kernel for kernel in traffic.kernels if "partial_sums" not in kernel["kernel"]]
        assert all(kernel["worst_sector_ratio"] == 1 for kernel in tiled)
        assert traffic.worst_bank_conflict <= MOST_CONFLICTS
