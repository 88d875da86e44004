"""What dense kernels move for real layers: sectors, bank conflicts, and bytes over the least possible.

Operands that blocks share are read again by each of them, which is for the L2 cache to absorb: no bound on the bytes.
"""

from __future__ import annotations

import pytest
from cuda_emulation.dense_cases import Axis, Case
from cuda_emulation.selection import needs_emulator, needs_full
from cuda_emulation.traffic import SECTOR
from cuda_emulation.workloads import dense

pytestmark = [needs_full, needs_emulator]

MOST_CONFLICTS = 2  # passes of an access to shared memory where one could do
# Sectors over the ideal, of any access to rows that are no whole number of them. Half a warp has a row of an odd
# dictionary: 16 elements of two bytes would fill a sector, and lie across two.
MOST_OF_PARTIAL_SECTORS = 2.5
TILE = 64  # channels of a target that a block owns


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
# Of ShuffleNetV2, whose rows of channels are no whole number of sectors, and of a searched width.
PARTIAL_SECTORS = {
    "116->116 14": layer((116, 116), 14),
    "58->58 14": layer((58, 58), 14),
    "58->58 14 3x3 stride 2": layer((58, 58), 14, 3, 2),
    "57->116 7, code per sample": layer((57, 116), 7, batch=4, shots=4, code="samples"),
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


def occupied(rows: int, channels: int, element: int) -> int:
    """Sectors that so many rows side by side lie in, one that two tiles or rows share counted for both."""
    row, tile = channels * element, TILE * element
    pieces = [(r * row + t, r * row + min(t + tile, row)) for r in range(rows) for t in range(0, row, tile)]
    return sum((end - 1) // SECTOR - begin // SECTOR + 1 for begin, end in pieces)


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("precision", ["float32", "tf32", "bfloat16"])
@pytest.mark.parametrize("name", PARTIAL_SECTORS)
def test_rows_of_partial_sectors(name: str, precision: str, direction: str) -> None:
    case = Case(**{**vars(PARTIAL_SECTORS[name]), "precision": precision})
    for kernel in dense(case, direction).count().kernels:
        print(f"{kernel['kernel'][:40]:40} {kernel['worst_sector_ratio']:.2f} at {kernel['worst_sector_line']}")
        assert kernel["worst_sector_ratio"] <= MOST_OF_PARTIAL_SECTORS, (kernel["kernel"], kernel["worst_sector_line"])
        assert kernel["worst_bank_conflict"] <= MOST_CONFLICTS, (kernel["kernel"], kernel["worst_bank_conflict_line"])


@pytest.mark.parametrize("direction", ["forward", "input_gradient"])
@pytest.mark.parametrize("precision", ["float32", "tf32", "bfloat16"])
@pytest.mark.parametrize("channels", [58, 116])
def test_stores_of_partial_sectors(channels: int, precision: str, direction: str) -> None:
    """A store touches no more sectors than its rows occupy."""
    case = Case(**{**vars(layer((channels, channels), 14)), "precision": precision})
    (kernel,) = dense(case, direction).count().kernels
    stored = sum(line["sectors"] for line in kernel["lines"] if line["memory"] == "global" and line["write"])
    rows = case.batch * case.height.output * case.width.output
    assert stored == occupied(rows, channels, 2 if precision == "bfloat16" else 4)
