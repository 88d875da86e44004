"""What depthwise kernels move for real layers: bytes over the least possible, sectors, bank conflicts."""

from __future__ import annotations

import math

import pytest
from cuda_emulation import build
from cuda_emulation.depthwise_cases import Axis, Case, Problem
from cuda_emulation.emulation import load, needs_full

pytestmark = [needs_full, pytest.mark.skipif(not build.available(), reason="the emulator needs GCC on Linux")]

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


def least_bytes(case: Case, direction: str) -> int:
    """Source and target once, the dictionary or the gradient of the taps once."""
    size = 4 if case.dtype == "float32" else 2
    images = case.height.input * case.width.input + case.height.output * case.width.output
    result = case.batch * case.channels * images * size
    if direction == "weight_gradient":
        return result + (case.batch if case.code == "sample" else 1) * case.channels * (case.taps + 1) * 4
    return result + case.shots * case.channels * case.taps * size


@pytest.mark.parametrize("direction", ["conv2d", "input_gradient", "weight_gradient"])
@pytest.mark.parametrize("channels_last", [True, False], ids=["channels_last", "contiguous"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", LAYERS)
def test_traffic(name: str, dtype: str, channels_last: bool, direction: str) -> None:
    case = Case(**{**vars(LAYERS[name]), "dtype": dtype, "channels_last": channels_last})
    module, problem = load("depthwise_conv2d", "traffic"), Problem(case)
    run = {
        "conv2d": lambda: problem.run_conv2d(module),
        "input_gradient": lambda: problem.run_input_gradient(module),
        "weight_gradient": lambda: problem.run_weight_gradient(module, case.code == "sample"),
    }[direction]
    kernels = module.traffic(run)
    moved = sum(kernel["bytes_read"] + kernel["bytes_written"] for kernel in kernels)
    ratio = moved / least_bytes(case, direction)
    sectors = math.fsum(kernel["sectors"] for kernel in kernels) / sum(kernel["ideal_sectors"] for kernel in kernels)
    conflicts = max(kernel["worst_bank_conflict"] for kernel in kernels)
    mean_conflict = max(kernel["bank_conflict"] for kernel in kernels)
    print(
        f"{name:26} {dtype:9} {'channels_last' if channels_last else 'contiguous':13} {direction:15} bytes {ratio:.2f}"
        f" sectors {sectors:.3f} banks {mean_conflict:.2f}, at most {conflicts}"
    )
    assert ratio <= MOST_BYTES
    if channels_last:
        tiled = [kernel for kernel in kernels if "partial_sums" not in kernel["kernel"]]
        assert all(kernel["worst_sector_ratio"] == 1 for kernel in tiled)
        assert conflicts <= MOST_CONFLICTS
