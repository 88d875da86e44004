"""The example of the README: a kernel in every build and order, on sizes around its blocks."""

import numpy as np
import pytest
from cuda_emulation.emulation import ORDERS, load
from cuda_emulation.selection import needs_emulator

pytestmark = needs_emulator


@pytest.mark.parametrize("variant", ["plain", "asan", "tsan"])
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("size", [0, 1, 255, 256, 257, 1000])
def test_block_sums(size: int, order: str, variant: str) -> None:
    module = load("block_sums", variant)
    values = np.random.default_rng(size).random(size, np.float32)
    with module.schedule(order, seed=size, shift=4):
        sums = module.block_sums(values)
    expected = [values[i : i + 256].sum(dtype=np.float64) for i in range(0, size, 256)]
    np.testing.assert_allclose(sums, expected, rtol=1e-6)
