"""Every planted mistake is found by the builds that the table names, and no build complains of the correct twin."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
from cuda_emulation import build
from cuda_emulation.emulation import ORDERS, Emulated, load
from cuda_emulation.selection import needs_emulator

pytestmark = needs_emulator

FOLDER = build.HERE / "broken"
THREADS = 128
EVERYWHERE = ("plain", "asan", "tsan", "traffic")
Array = np.ndarray


def copied(values: Array) -> Array:
    """What most kernels give."""
    return values


def turned_around(block: int) -> Callable[[Array], Array]:
    """Every `block` values in reverse order."""
    return lambda values: values.reshape(-1, block)[:, ::-1].reshape(-1)


def swapped(values: Array) -> Array:
    """Neighbours have changed places."""
    return values.reshape(-1, 2)[:, ::-1].reshape(-1)


def swapped_in_lower_half_warps(values: Array) -> Array:
    """The same for the lower 16 lanes of every warp only."""
    return np.where(np.arange(values.size) % 32 < 16, swapped(values), values)


def sum_first(values: Array) -> Array:
    """The sum of all values in place of the first."""
    return np.concatenate([[values.sum(dtype=np.float64)], values[1:]])


@dataclass(frozen=True)
class Mistake:
    """A kernel of broken/, what it must give, and the builds that must find its mistake."""

    found_by: tuple[str, ...]
    expected: Callable[[Array], Array] = copied
    size: int = 4 * THREADS


MISTAKES = {
    "missing_barrier": Mistake(("plain", "tsan"), turned_around(THREADS)),
    "missing_barrier_before_overwrite": Mistake(("plain", "tsan"), turned_around(THREADS)),
    "missing_barrier_before_refill": Mistake(("plain", "tsan"), turned_around(THREADS), 8 * THREADS),
    "missing_pipeline_wait": Mistake(("plain", "asan"), turned_around(4 * THREADS), 8 * THREADS),
    "missing_barrier_after_wait": Mistake(("plain", "tsan"), turned_around(4 * THREADS), 8 * THREADS),
    "missing_syncwarp": Mistake(("plain", "tsan"), swapped),
    "shuffle_for_syncwarp": Mistake(("tsan",), swapped),
    "off_by_one_tile": Mistake(EVERYWHERE, size=4 * THREADS - 3),
    "unwritten_output": Mistake(EVERYWHERE),
    "divergent_barrier": Mistake(EVERYWHERE),
    "out_of_bounds_load": Mistake(("asan", "traffic"), size=4 * THREADS - 3),
    "out_of_bounds_store": Mistake(EVERYWHERE, size=4 * THREADS - 3),
    "out_of_bounds_shared_store": Mistake(EVERYWHERE),
    "out_of_bounds_static_shared": Mistake(("plain", "asan", "traffic")),
    "shuffle_with_ended_lanes": Mistake(EVERYWHERE, swapped_in_lower_half_warps),
    "misaligned_vector": Mistake(("plain", "asan", "traffic")),
    "misaligned_async_copy": Mistake(EVERYWHERE, turned_around(4 * THREADS), 8 * THREADS),
    "float_atomics": Mistake(EVERYWHERE, sum_first),
    "two_blocks_write_one_word": Mistake(("traffic",)),
    "block_reads_another_blocks_result": Mistake(("traffic",)),
    "integer_division_by_zero": Mistake(("plain", "asan", "traffic")),
}


def failures(module: Emulated, name: str, broken: bool) -> list[str]:
    """What goes wrong with a kernel in the three orders: messages, or that the result is wrong."""
    mistake = MISTAKES[name]
    values = np.random.default_rng(0).uniform(1, 2, mistake.size).astype(np.float32)
    found = []
    for order in ORDERS:
        with module.schedule(order, seed=1):
            try:
                results = getattr(module, name)(values, broken)
            except RuntimeError as error:
                found.append(f"{order}: {error}")
                continue
        if not np.allclose(results, mistake.expected(values), rtol=1e-5, equal_nan=False):
            found.append(f"{order}: wrong result")
    return found


@pytest.mark.parametrize(
    ("name", "variant"), [(name, variant) for name, mistake in MISTAKES.items() for variant in mistake.found_by]
)
def test_mistake_is_found(name: str, variant: str) -> None:
    assert failures(load("broken_kernels", variant, folder=FOLDER), name, True)


@pytest.mark.parametrize("name", ["two_blocks_write_one_word", "block_reads_another_blocks_result"])
def test_blocks_that_meet_are_found_in_every_order(name: str) -> None:
    """Whether the write or the other access comes first."""
    assert len(failures(load("broken_kernels", "traffic", folder=FOLDER), name, True)) == len(ORDERS)


@pytest.mark.parametrize("variant", EVERYWHERE)
@pytest.mark.parametrize("name", MISTAKES)
def test_correct_twin_passes(name: str, variant: str) -> None:
    assert failures(load("broken_kernels", variant, folder=FOLDER), name, False) == []


@pytest.mark.parametrize(
    ("name", "variant", "words"),
    [
        ("divergent_barrier", "plain", ["divergent barrier", "broken/barriers.cu:", "thread 0-63", "__syncthreads"]),
        ("shuffle_with_ended_lanes", "plain", ["have ended", "__shfl_xor_sync(0xffffffff) at "]),
        ("misaligned_vector", "plain", ["misaligned access", "broken/accesses.cu:"]),
        ("out_of_bounds_static_shared", "plain", ["out of bounds", "broken/accesses.cu:"]),
        ("out_of_bounds_store", "plain", ["wrote 0 bytes behind the end of 'results'"]),
        ("out_of_bounds_shared_store", "plain", ["dynamic shared memory"]),
        ("integer_division_by_zero", "plain", ["division by zero"]),
        ("float_atomics", "plain", ["atomic addition", "broken/accesses.cu:"]),
        ("out_of_bounds_load", "asan", ["heap-buffer-overflow", "broken/accesses.cu:"]),
        ("missing_barrier", "tsan", ["data race", "broken/barriers.cu:"]),
    ],
)
def test_message_tells_what_and_where(name: str, variant: str, words: list[str]) -> None:
    messages = "\n".join(failures(load("broken_kernels", variant, folder=FOLDER), name, True))
    assert [word for word in words if word not in messages] == []
