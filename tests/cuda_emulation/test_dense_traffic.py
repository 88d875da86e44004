"""What dense kernels move for real layers: sectors, bank conflicts, and bytes over the least possible.

Operands that blocks share are read again by each of them, which is for the L2 cache to absorb: no bound on the bytes.
"""

from __future__ import annotations

import pytest
from cuda_emulation import build
from cuda_emulation.dense_cases import Axis, Case
from cuda_emulation.emulation import needs_full
from cuda_emulation.workloads import dense

pytestmark = [needs_full, pytest.mark.skipif(not build.available(), reason="the emulator needs GCC on Linux")]

MOST_CONFLICTS = 2  # passes of an access to shared memory where one could do


def layer(channels: tuple[int, int], size: int, kernel: int = 1, stride: int = 1, **fields: object) -> Case:
    axis = Axis(size, kernel, stride, kernel // 2, 1)
    options = {"batch": 2, "shots": 8, "code": "shared", "gate": "none", "bias": "none", **fields}
    return Case("tf32", in_channels=channels[0], out_channels=channels[1], spare_in=0, spare_out=0, height=axis,
                width=axis, seed=0, **options)  # fmt: skip


# Of NAS-Bench-Macro, MobileNetV2 and its relatives, on fewer images.
LAYERS = {
    "96->32 28": layer((96, 32), 28),
    "128->384 8": layer((128, 384), 8, batch=4),
    "64->128 16 stride 2": layer((64, 128), 16, stride=2),
    "160->320 7, gate and bias": layer((160, 320), 7, gate="shared", bias="shared"),
    "64->64 14 3x3": layer((64, 64), 14, 3),
    "64->96 14 3x3 stride 2": layer((64, 96), 14, 3, 2),
    "96->96 7, code per sample": layer((96, 96), 7, batch=4, shots=4, code="samples"),
    "192->192 91, tall tiles": layer((192, 192), 91, batch=1, shots=4),
}
DIRECTIONS = ("forward", "input_gradient", "weight_gradient", "per_sample_gradient")


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("precision", ["float32", "tf32", "bfloat16"])
@pytest.mark.parametrize("name", LAYERS)
def test_traffic(name: str, precision: str, direction: str) -> None:
    case = Case(**{**vars(LAYERS[name]), "precision": precision})
    traffic = dense(case, direction).count()
    print(
        f"{name:26} {precision:9} {direction:20} bytes {traffic.moved / traffic.least:.2f}, by blocks"
        f" {traffic.moved_by_blocks / traffic.least:.2f}, sectors {traffic.sector_ratio:.3f} banks"
        f" {traffic.bank_conflict:.2f}, at most {traffic.worst_bank_conflict}"
    )
    for kernel in traffic.kernels:
        assert kernel["worst_sector_ratio"] == 1, (kernel["kernel"], kernel["worst_sector_line"])
        assert kernel["worst_bank_conflict"] <= MOST_CONFLICTS, (kernel["kernel"], kernel["worst_bank_conflict_line"])
