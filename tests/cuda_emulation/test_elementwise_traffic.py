"""What the kernels that are bound by bytes move in layers of usual sizes, over the least that the operation must move.

A warp's accesses are counted, without help from the caches.
"""

import pytest
import torch
from cuda_emulation import traffic
from cuda_emulation.dictionaries import Dictionary
from cuda_emulation.selection import needs_emulator, needs_full
from cuda_emulation.workloads import (
    Workload,
    adamw,
    batch_norm,
    batch_norm_backward,
    grouping,
    mixing,
    mixing_backward,
    random_dictionary,
    sgd,
)

pytestmark = [needs_full, needs_emulator]

MOST = 1.15
LAYERS = {
    "3x3": ((8, 64, 64, 3, 3), False, None),
    "3x3, 16 copies, channels last": ((16, 64, 32, 3, 3), True, None),
    "1x1, 4 copies": ((4, 128, 96, 1, 1), False, None),
    "3x3, fewer channels, channels last": ((8, 64, 64, 3, 3), True, (48, 40)),
}
FORMATS = [torch.float32, torch.bfloat16]


def dictionary(layer: str, dtype: torch.dtype) -> Dictionary:
    shape, channels_last, active = LAYERS[layer]
    return random_dictionary(shape, dtype, channels_last, active)


def margins(d: Dictionary) -> float:
    """Sectors that the active channels of a tap lie in, over those that as many bytes fill: 1 where they fill them."""
    run = d.dtype.itemsize * d.in_channels
    return 1.0 if d.whole else -(-run // traffic.SECTOR) * traffic.SECTOR / run


def check(workload: Workload, margins: float = 1.0) -> None:
    counted = workload.count()
    print(f"{counted.moved / counted.least:.3f} of the least {counted.least} bytes\n{traffic.table(counted.kernels)}")
    assert counted.moved <= MOST * counted.least
    for kernel in counted.kernels:
        assert kernel["worst_bank_conflict"] <= 2, kernel["worst_bank_conflict_line"]
    # Whole sectors; single elements such as codes and sums of blocks are few.
    assert counted.sector_ratio <= MOST * margins


@pytest.mark.parametrize("samples", [None, 16])
@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("dtype", FORMATS, ids=str)
@pytest.mark.parametrize("layer", LAYERS)
def test_mixing(layer: str, dtype: torch.dtype, gated: bool, samples: int | None) -> None:
    d = dictionary(layer, dtype)
    check(mixing(d, samples=samples, gated=gated), margins(d))
    check(mixing_backward(d, samples=samples, gated=gated), margins(d))


@pytest.mark.parametrize("dtype", FORMATS, ids=str)
@pytest.mark.parametrize("gates", [(1, 1, 1), (0, 1, 1), (0, 0, 1)], ids=str)
def test_grouping(gates: tuple[int, ...], dtype: torch.dtype) -> None:
    """Blocks of 8 channels and 9 taps. Of 8 copies four gradients are made at a time, so g is read two times more."""
    d = dictionary("3x3", dtype)
    check(grouping(d, gates))
    counted = grouping(d, gates, backward=True).count()
    assert counted.moved <= MOST * (counted.least + 2 * dtype.itemsize * d.active[0].numel())


@pytest.mark.parametrize("uses", [0, 1, 2])
@pytest.mark.parametrize("dtype", FORMATS, ids=str)
@pytest.mark.parametrize("layer", LAYERS)
def test_sgd(layer: str, dtype: torch.dtype, uses: int) -> None:
    check(sgd(dictionary(layer, dtype), uses))


@pytest.mark.parametrize(("uses", "amsgrad"), [(0, False), (1, False), (2, False), (1, True)])
@pytest.mark.parametrize("dtype", FORMATS, ids=str)
@pytest.mark.parametrize("layer", LAYERS)
def test_adamw(layer: str, dtype: torch.dtype, uses: int, amsgrad: bool) -> None:
    check(adamw(dictionary(layer, dtype), uses, amsgrad))


@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("dtype", FORMATS, ids=str)
@pytest.mark.parametrize(
    ("positions", "channels"), [(28 * 28 * 2, 64), (56 * 56, 24), (14 * 14 * 3, 160), (14 * 14, 1280)]
)
def test_batch_norm(positions: int, channels: int, dtype: torch.dtype, residual: bool) -> None:
    check(batch_norm(positions, channels, dtype, residual=residual))
    check(batch_norm_backward(positions, channels, dtype, residual=residual))
