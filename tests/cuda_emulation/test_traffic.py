"""The traffic build counts what a few kernels are known to move."""

from typing import Any

import numpy as np
import pytest
from cuda_emulation import build
from cuda_emulation.emulation import ORDERS, load
from cuda_emulation.selection import needs_emulator
from cuda_emulation.traffic import table

pytestmark = needs_emulator

VALUES = np.random.default_rng(0).random(1024).astype(np.float32)
THREADS = 128


def counts(which: str, order: str = "forward") -> dict[str, Any]:
    module = load("traffic_kernels", "traffic", folder=build.HERE / "traffic_kernels")
    with module.schedule(order, seed=1):
        (kernel,) = module.traffic(lambda: module.run(which, VALUES))
    return kernel


def line(kernel: dict[str, Any], memory: str, write: bool) -> dict[str, Any]:
    """The one line of that memory and direction."""
    (found,) = (one for one in kernel["lines"] if one["memory"] == memory and one["write"] == write)
    return found


@pytest.mark.parametrize("order", ORDERS)
def test_copy_moves_the_least(order: str) -> None:
    kernel = counts("copy", order)
    assert kernel["kernel"] == "copy_kernel"
    assert kernel["launches"] == 1
    for moved in ("bytes", "unique_bytes", "block_bytes"):
        assert kernel[f"{moved}_read"] == kernel[f"{moved}_written"] == 4 * 4 * THREADS
    assert kernel["sectors"] == kernel["ideal_sectors"] == 2 * 4 * 4 * THREADS // 32
    assert kernel["worst_sector_ratio"] == 1
    assert [one["accesses"] for one in kernel["lines"]] == [16, 16]
    assert all("traffic_kernels/kernels.cu:" in one["line"] for one in kernel["lines"])


@pytest.mark.parametrize("which", ["copy_vectors", "scale_vectors"])
def test_a_vector_is_one_access(which: str) -> None:
    kernel = counts(which)
    assert [one["accesses"] for one in kernel["lines"]] == [8, 8]
    assert kernel["bytes_read"] == kernel["bytes_written"] == 2 * 16 * THREADS
    assert kernel["worst_sector_ratio"] == 1


def test_stride_touches_a_sector_for_each_value() -> None:
    kernel = counts("strided")
    read = line(kernel, "global", False)
    assert (read["bytes"], read["sectors"], read["ideal_sectors"]) == (4 * THREADS, THREADS, THREADS // 8)
    assert kernel["worst_sector_ratio"] == 8
    assert kernel["worst_sector_line"] == read["line"]
    assert kernel["block_bytes_read"] == 32 * THREADS
    assert kernel["unique_bytes_read"] == 4 * THREADS


def test_offset_touches_one_sector_more() -> None:
    read = line(counts("offset"), "global", False)
    assert (read["sectors"], read["ideal_sectors"]) == (16 * 5, 16 * 4)


def test_lanes_that_read_the_same_move_it_once() -> None:
    kernel = counts("same_for_all")
    assert kernel["bytes_read"] == 4 * THREADS // 32
    assert kernel["unique_bytes_read"] == 4
    assert line(kernel, "global", False)["sectors"] == THREADS // 32
    assert kernel["worst_sector_ratio"] == 1


def test_least_possible_counts_every_byte_once() -> None:
    kernel = counts("read_again")
    assert kernel["bytes_read"] == kernel["block_bytes_read"] == 4 * 4 * THREADS
    assert kernel["unique_bytes_read"] == 4 * THREADS
    twice = counts("read_twice")
    assert twice["bytes_read"] == 2 * 4 * 4 * THREADS
    assert twice["block_bytes_read"] == twice["unique_bytes_read"] == 4 * 4 * THREADS


@pytest.mark.parametrize("order", ORDERS)
def test_lanes_that_leave_a_loop(order: str) -> None:
    kernel = counts("triangle", order)
    read = line(kernel, "global", False)
    assert read["accesses"] == 32
    assert read["bytes"] == 4 * 32 * 33 // 2
    assert read["sectors"] == sum(4 - row // 8 for row in range(32))


@pytest.mark.parametrize(("which", "ways"), [("transpose", 32), ("transpose_padded", 1)])
def test_transposition(which: str, ways: int) -> None:
    kernel = counts(which)
    assert kernel["worst_sector_ratio"] == 1
    assert line(kernel, "shared", True)["worst_bank_conflict"] == 1
    read = line(kernel, "shared", False)
    assert (read["worst_bank_conflict"], read["bank_conflict"]) == (ways, ways)
    assert kernel["worst_bank_conflict"] == ways
    if ways > 1:
        assert kernel["worst_bank_conflict_line"] == read["line"]


@pytest.mark.parametrize(
    ("which", "ways", "passes"),
    [("shared_1_by_2", 2, 2), ("shared_2_by_2", 1, 2), ("shared_4_by_4", 1, 4), ("shared_4_by_8", 2, 8)],
)
def test_banks_serve_wide_words_in_parts(which: str, ways: int, passes: int) -> None:
    write = line(counts(which), "shared", True)
    assert (write["accesses"], write["worst_bank_conflict"], write["wavefronts"]) == (1, ways, passes)


def test_asynchronous_copy() -> None:
    kernel = counts("async_copy")
    read, write = line(kernel, "global", False), line(kernel, "shared", True)
    assert (read["accesses"], read["bytes"], read["sectors"]) == (1, 512, 16)
    assert (write["worst_bank_conflict"], write["wavefronts"]) == (1, 4)
    assert read["line"] == write["line"]


def test_lanes_that_only_clear_take_part() -> None:
    """The odd lanes' second copy belongs to the warp's second access, although it is the first that they read for."""
    kernel = counts("async_clear")
    read, write = line(kernel, "global", False), line(kernel, "shared", True)
    assert (read["accesses"], read["bytes"], read["sectors"]) == (2, 256 + 512, 16 + 16)
    assert (write["accesses"], write["wavefronts"]) == (2, 8)


@pytest.mark.parametrize(("which", "ways"), [("matrix", 2), ("matrix_padded", 1)])
def test_matrix_operations(which: str, ways: int) -> None:
    # Eight rows of 32 bytes each lie 4 apart in the banks without padding, 12 apart with it.
    kernel = counts(which)
    (load_line,) = (one for one in kernel["lines"] if one["memory"] == "shared" and not one["write"])
    assert (load_line["worst_bank_conflict"], load_line["ideal_wavefronts"]) == (ways, 4)
    written = line(kernel, "global", True)
    assert (written["bytes"], written["sectors"]) == (1024, 32)


def test_counts_add_up_over_launches() -> None:
    module = load("traffic_kernels", "traffic", folder=build.HERE / "traffic_kernels")
    kernels = module.traffic(lambda: [module.run(which, VALUES) for which in ("copy", "strided", "copy")])
    by_name = {one["kernel"]: one for one in kernels}
    assert by_name["copy_kernel"]["launches"] == 2
    assert by_name["copy_kernel"]["unique_bytes_read"] == 2 * 4 * 4 * THREADS
    assert by_name["strided_kernel"]["launches"] == 1
    assert module.traffic(lambda: None) == []
    assert len(table(kernels).splitlines()) == 3


def test_only_the_traffic_build_counts() -> None:
    module = load("traffic_kernels", "plain", folder=build.HERE / "traffic_kernels")
    with pytest.raises(RuntimeError, match="only the traffic build counts"):
        module.traffic(lambda: None)


def test_templates_are_told_apart() -> None:
    assert counts("transpose")["kernel"] == "transpose_kernel<32>"
    assert counts("transpose_padded")["kernel"] == "transpose_kernel<33>"


def test_variants_of_one_module_are_told_apart() -> None:
    plain, counted = (load("broken_kernels", variant, folder=build.HERE / "broken") for variant in ("plain", "traffic"))
    values = np.ones(256, np.float32)
    np.testing.assert_array_equal(plain.two_blocks_write_one_word(values, True), values)
    with pytest.raises(RuntimeError, match=r"another block.* in 'results' at tests/cuda_emulation/broken/accesses.cu:"):
        counted.two_blocks_write_one_word(values, True)
