"""What the kernels that are bound by bytes move in layers of usual sizes, over the least that the operation must move.

A warp's accesses are counted, without help from the caches. The least is every operand read once and every result
written once; batch norm in training must read its input twice, and backward twice what it reads.
"""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from cuda_emulation import build, traffic
from cuda_emulation.dictionaries import DTYPES, Dictionary, memory, sum_dtype
from cuda_emulation.emulation import load, needs_full

pytestmark = [needs_full, pytest.mark.skipif(not build.available(), reason="needs GCC on Linux")]

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
    weight = torch.randn(shape, dtype=torch.float64).to(dtype).double()
    return Dictionary(weight, dtype, channels_last, *(active or shape[1:3]))


def check(name: str, run: Callable[..., object], least: int, capsys: pytest.CaptureFixture[str], what: str) -> None:
    """Counts what `run(module)` moves; `least` in bytes."""
    module = load(name, "traffic")
    counts = module.traffic(lambda: run(module))
    moved = sum(kernel["bytes_read"] + kernel["bytes_written"] for kernel in counts)
    with capsys.disabled():
        print(f"\n{what}: {moved / least:.3f} of the least {least} bytes\n{traffic.table(counts)}")
    assert moved <= MOST * least
    for kernel in counts:
        assert kernel["worst_bank_conflict"] <= 2, kernel["worst_bank_conflict_line"]
    # Whole sectors; single elements such as codes and sums of blocks are few.
    assert sum(k["sectors"] for k in counts) <= MOST * sum(k["ideal_sectors"] for k in counts)


def random(*shape: int, of: torch.dtype) -> np.ndarray:
    return memory(torch.randn(shape, dtype=torch.float64), of).reshape(shape)


@pytest.mark.parametrize("samples", [None, 16])
@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("dtype", FORMATS, ids=str)
@pytest.mark.parametrize("layer", LAYERS)
def test_mixing(layer: str, dtype: torch.dtype, gated: bool, samples: int | None, capsys) -> None:
    d, sums = dictionary(layer, dtype), sum_dtype(dtype)
    if samples and d.weight.numel() > 16 * 64 * 32 * 9:
        pytest.skip("takes long, and 8 copies tell the same")
    rows, columns = d.out_channels, d.in_channels
    geometry = d.geometry(samples or 1, rows, columns, gated)
    code = random(*([samples] if samples else []), d.shots, of=sums)
    gate = random(*([samples] if samples else []), rows, of=sums) if gated else None
    mixing = (DTYPES[dtype], geometry, d.stored(d.weight), code, gate, rows if gated and samples else 0)
    effective = d.active[0].numel() * (samples or 1)
    small = 4 * (code.size + (gate.size if gated else 0))
    least = dtype.itemsize * (d.active.numel() + effective) + small
    what = f"{layer}, {dtype}, gated={gated}, samples={samples}"
    check("effective_weight", lambda module: module.effective_weight([mixing]), least, capsys, f"mixing {what}")

    grad = random(effective, of=dtype)
    least = dtype.itemsize * (2 * d.active.numel() + effective) + 2 * small
    job = (mixing, grad, True, True, gated)
    check(
        "effective_weight",
        lambda module: module.effective_weight_backward([job], False),
        least,
        capsys,
        f"mixing backward {what}",
    )


@pytest.mark.parametrize("uses", [0, 1, 2])
@pytest.mark.parametrize("dtype", FORMATS, ids=str)
@pytest.mark.parametrize("layer", LAYERS)
def test_sgd(layer: str, dtype: torch.dtype, uses: int, capsys) -> None:
    d, sums = dictionary(layer, dtype), sum_dtype(dtype)
    whole = d.weight.shape
    whole_rows = not d.whole and uses > 0
    _, _, rows, _, run_length, *_ = d.geometry(1, d.out_channels, d.in_channels, whole_rows)
    used = [(random(d.shots, of=sums), None, random(d.active[0].numel(), of=dtype), rows, run_length)] * uses
    size = d.weight.numel()
    dense = None if uses else random(size, of=dtype)
    job = (
        *(DTYPES[dtype], d.geometry(1, whole[1], whole[2], whole_rows), d.stored(d.weight)),
        *(random(size, of=dtype), dense, used, 0.1, 0.9, 0.0, 1e-4, True, False),
    )
    least = dtype.itemsize * (4 * size + (size if dense is not None else 0) + uses * d.active[0].numel())
    check("sgd_update", lambda module: module.sgd_update([job]), least, capsys, f"SGD {layer}, {dtype}, uses={uses}")


@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("dtype", FORMATS, ids=str)
@pytest.mark.parametrize(("positions", "channels"), [(28 * 28 * 2, 64), (56 * 56, 24), (14 * 14 * 3, 160)])
def test_batch_norm(positions: int, channels: int, dtype: torch.dtype, residual: bool, capsys) -> None:
    x, grad = (random(positions, channels, of=dtype) for _ in range(2))
    other = random(positions, channels, of=dtype) if residual else None
    one = np.ones(channels, dtype=np.float32)
    problem = (DTYPES[dtype], 1, 1, 1e-5, x, other, one, one, one, one)
    tensor = dtype.itemsize * positions * channels
    what = f"[{positions}, {channels}], {dtype}, residual={residual}"

    def forward(module) -> None:
        module.moments(DTYPES[dtype], x)
        module.forward(problem)

    check("batch_norm_act", forward, (3 + residual) * tensor, capsys, f"batch norm {what}")

    def backward(module) -> None:
        module.backward(problem, grad, True, residual)

    check("batch_norm_act", backward, (5 + 3 * residual) * tensor, capsys, f"batch norm backward {what}")
