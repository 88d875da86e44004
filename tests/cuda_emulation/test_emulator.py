"""The emulator itself: what CUDA's words mean, against NumPy and PyTorch, and which mistakes are refused."""

import numpy as np
import pytest
import torch
from cuda_emulation import build
from cuda_emulation.emulation import ORDERS, Emulated, load
from cuda_emulation.selection import needs_emulator

pytestmark = needs_emulator

LANES = np.arange(32)
KINDS = ("index", "up", "down", "xor")


@pytest.fixture(scope="module", params=["plain", "asan", "tsan"])
def semantics(request: pytest.FixtureRequest) -> Emulated:
    return load("semantics", request.param, folder=build.HERE / "semantics")


@pytest.fixture(scope="module")
def plain() -> Emulated:
    return load("semantics", "plain", folder=build.HERE / "semantics")


def source_lanes(kind: str, operands: np.ndarray, width: int) -> np.ndarray:
    """Which lane each lane reads from, by the words of the CUDA C++ Programming Guide."""
    first = LANES - LANES % width
    if kind == "index":
        return first + operands % width
    source = {"up": LANES - operands, "down": LANES + operands, "xor": LANES ^ operands}[kind]
    beyond = source < first if kind == "up" else source >= first + width
    return np.where(beyond, LANES, source)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("width", [1, 2, 4, 8, 16, 32])
def test_shuffle(plain: Emulated, kind: str, width: int, order: str) -> None:
    random = np.random.default_rng(width)
    for operand in [*range(33), None]:
        values = random.integers(-1000, 1000, 32, dtype=np.int32)
        operands = random.integers(0, 32, 32) if operand is None else np.full(32, operand)
        if kind == "xor" and operand == 32:
            continue
        with plain.schedule(order, seed=width):
            received = plain.shuffle_ints(values, operands.astype(np.int32), KINDS.index(kind), width)
        np.testing.assert_array_equal(received, values[source_lanes(kind, operands, width)])


def test_shuffle_of_eight_bytes_and_of_half_warps(semantics: Emulated) -> None:
    doubles = np.random.default_rng(0).standard_normal(32)
    np.testing.assert_array_equal(semantics.shuffle_doubles(doubles, 5), doubles[LANES ^ 5])
    ints = LANES.astype(np.int32) * 10
    halves = np.where(LANES < 16, LANES ^ 1, LANES ^ 3) * 10
    np.testing.assert_array_equal(semantics.shuffle_halves(ints), halves[::-1])


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("chance", [0.0, 0.3, 1.0])
def test_votes(semantics: Emulated, chance: float, order: str) -> None:
    predicates = (np.random.default_rng(1).random(64) < chance).astype(np.int32) * 7
    yes = predicates.reshape(2, 32) != 0
    with semantics.schedule(order, seed=2):
        results = semantics.votes(predicates).reshape(2, 32, 6)
    ballots = (yes * (1 << LANES.astype(np.uint64))).sum(1).astype(np.uint32)
    for warp in range(2):
        expected = [yes[warp].any(), yes[warp].all(), yes.any(), yes.all(), yes.sum()]
        np.testing.assert_array_equal(results[warp, :, 0].view(np.uint32), ballots[warp])
        np.testing.assert_array_equal(results[warp, :, 1:], np.tile(expected, (32, 1)))


@pytest.mark.parametrize("order", ORDERS)
def test_coordinates(plain: Emulated, order: str) -> None:
    grid, block = (3, 2, 2), (5, 3, 2)
    with plain.schedule(order, seed=3):
        seen = plain.coordinates(*grid, *block)
    where = lambda size: np.stack(np.unravel_index(np.arange(np.prod(size)), size[::-1])[::-1], -1)  # noqa: E731
    np.testing.assert_array_equal(seen[:, :, 0], np.broadcast_to(where(block)[None], (12, 30, 3)))
    np.testing.assert_array_equal(seen[:, :, 1], np.broadcast_to(where(grid)[:, None], (12, 30, 3)))
    np.testing.assert_array_equal(seen[:, :, 2], np.broadcast_to(block, (12, 30, 3)))
    np.testing.assert_array_equal(seen[:, :, 3], np.broadcast_to(grid, (12, 30, 3)))


def floats_to_round() -> np.ndarray:
    """Random bits, every float16 and its neighbours, halves between two, infinities."""
    random = np.random.default_rng(4).integers(0, 1 << 32, 20000, dtype=np.uint32).view(np.float32)
    narrow = np.arange(1 << 16, dtype=np.uint16).view(np.float16).astype(np.float32)
    narrow = narrow[np.isfinite(narrow)]
    with np.errstate(over="ignore"):
        between = ((narrow[1:].astype(np.float64) + narrow[:-1]) / 2).astype(np.float32)
        near = [np.nextafter(between, np.float32(np.inf)), np.nextafter(between, np.float32(-np.inf))]
    edges = np.array([np.inf, -np.inf, 65504, 65519.99, 65520, -65520, 3.4e38, 1e-45, -0.0, 0.0], np.float32)
    values = np.concatenate([random, narrow, between, *near, edges])
    return values[~np.isnan(values)]


def test_float16_rounds_as_numpy_does(plain: Emulated) -> None:
    values = floats_to_round()
    bits, back = plain.to_float16(values)
    with np.errstate(over="ignore"):
        expected = values.astype(np.float16)
    np.testing.assert_array_equal(bits, expected.view(np.uint16))
    np.testing.assert_array_equal(back, expected.astype(np.float32))
    doubles = np.random.default_rng(5).uniform(0.5, 1, 20000)
    ties = (doubles.astype(np.float16).astype(np.float64) + 2.0**-12) * (1 + 2.0**-40)  # a float would round to a tie
    for wide in (doubles, ties, -ties):
        np.testing.assert_array_equal(plain.double_to_float16(wide), wide.astype(np.float16).view(np.uint16))


def test_bfloat16_rounds_as_torch_does(plain: Emulated) -> None:
    values = floats_to_round()
    bits, back = plain.to_bfloat16(values)
    expected = torch.from_numpy(values).bfloat16()
    np.testing.assert_array_equal(bits, expected.view(torch.uint16).numpy())
    np.testing.assert_array_equal(back, expected.float().numpy())


def test_not_a_number_stays_one(plain: Emulated) -> None:
    values = np.array([np.nan, -np.nan], np.float32)
    for convert in (plain.to_float16, plain.to_bfloat16):
        assert np.isnan(convert(values)[1]).all()
    assert np.isnan(plain.to_tf32(values)).all()


def test_tf32_keeps_ten_bits_of_the_fraction(plain: Emulated) -> None:
    values = np.random.default_rng(6).uniform(1, 2, 1000).astype(np.float32)
    np.testing.assert_array_equal(plain.to_tf32(values), np.floor(values * 1024 + 0.5) / 1024)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("by_columns", [False, True])
@pytest.mark.parametrize(
    ("which", "dtype", "shape"),
    [
        (0, torch.float16, (16, 16, 16)),
        (1, torch.bfloat16, (16, 16, 16)),
        (2, torch.float32, (16, 16, 8)),
        (3, torch.float16, (32, 8, 16)),
        (4, torch.float16, (8, 32, 16)),
    ],
)
def test_matrix_product(
    semantics: Emulated, which: int, dtype: torch.dtype, shape: tuple[int, int, int], by_columns: bool, order: str
) -> None:
    m, n, k = shape
    generator = torch.Generator().manual_seed(7)
    # Multiples of 1/8 below 16 fit every type, and their sums fit float.
    a, b, c = (torch.randint(-127, 128, size, generator=generator).double() / 8 for size in [(m, k), (k, n), (m, n)])
    expected = c + a @ b

    def packed(matrix: torch.Tensor, dtype: torch.dtype) -> np.ndarray:
        matrix = (matrix.T if by_columns else matrix).contiguous().to(dtype)
        return (matrix.view(torch.uint16) if dtype == torch.bfloat16 else matrix).numpy()

    sums = packed(c, torch.float32)
    with semantics.schedule(order, seed=8):
        semantics.multiply(packed(a, dtype), packed(b, dtype), sums, which, by_columns)
    np.testing.assert_array_equal(sums.T if by_columns else sums, expected.numpy())


@pytest.mark.parametrize("left", [0, 1, 2, 3, 20])
def test_copies_land_in_order(semantics: Emulated, left: int) -> None:
    values = np.array([1, 2, 3], np.float32)
    expected = np.where(np.arange(3) < 3 - left, values, np.nan)
    np.testing.assert_array_equal(semantics.pipeline_batches(values, left), expected)


def test_copies_end_in_zeros(semantics: Emulated) -> None:
    # The last value is not there to be read: only zeros come from it.
    values = np.arange(1, 9, dtype=np.float32)
    expected = [1, 2, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0]
    np.testing.assert_array_equal(semantics.pipeline_zero_fill(values), expected)


def test_integer_atomics(semantics: Emulated) -> None:
    values = np.random.default_rng(9).integers(-100, 100, 300, dtype=np.int32)
    results = np.array([0, -1000, 0], np.int32)
    semantics.atomics(values, results)
    np.testing.assert_array_equal(results, [values.sum(), values.max(), 300])


def test_bits(plain: Emulated) -> None:
    values = np.array([0, 1, 2, 3, 0x80000000, 0xFFFFFFFF, 0x00012340], np.uint32)
    expected = []
    for value in map(int, values):
        text = f"{value:032b}"
        first = text[::-1].index("1") + 1 if value else 0
        expected.append([value.bit_count(), first, 32 - value.bit_length(), int(text[::-1], 2), value * value >> 32])
    np.testing.assert_array_equal(plain.bits(values), np.array(expected, np.uint32))


@pytest.mark.parametrize("order", ORDERS)
def test_shared_memory_is_poisoned_for_every_block(plain: Emulated, order: str) -> None:
    with plain.schedule(order):
        assert np.isnan(plain.unwritten_shared()).all()


@pytest.mark.parametrize("order", ORDERS)
def test_threads_that_ended_are_not_waited_for(semantics: Emulated, order: str) -> None:
    values = np.random.default_rng(10).random(64, np.float32)
    with semantics.schedule(order, seed=11):
        results = semantics.early_exit(values)
    np.testing.assert_array_equal(results[:40], values[:40][::-1])
    assert np.isnan(results[40:]).all()


@pytest.mark.parametrize(
    ("which", "message"),
    [
        ("deadlock", r"(?s)deadlock.*thread 0-15: in __shfl_sync.*thread 16-31: in __syncthreads at .*mistakes.cu:\d+"),
        ("two operations", r"different operations(?s:.*)mistakes.cu"),
        ("outside mask", "leaves out the calling lane"),
        ("source outside mask", "reads from lane 16, which the mask leaves out"),
        ("lanes that do not exist", "do not exist"),
        ("width", "width 12"),
        ("endless barriers", "does not end"),
        ("endless loop", "does not end"),
        ("null", "memory that is not there"),
        ("stack", "stack overflow"),
        ("changes input", "changed byte . of 'results', which is an input"),
        ("before array", "wrote . bytes before 'results'"),
        ("wild store", "memory that is not there"),
        ("matrix alignment", "not aligned to 32 bytes"),
        ("matrix stride", "not a multiple of 16 bytes"),
        ("matrix pointers", "different pointers"),
        ("async bytes", "12 bytes, not 4, 8 or 16"),
        ("async to global", "not shared memory"),
        ("no threads", "empty"),
        ("no blocks", "empty"),
        ("block size", "block too large"),
        ("grid size", "grid too large"),
        ("parameters", "parameters take 5000 bytes"),
        ("shared memory", "49153 bytes of dynamic shared memory"),
        ("shared memory at most", "232449 bytes"),
    ],
)
def test_mistake_is_refused(plain: Emulated, which: str, message: str) -> None:
    plain._set_budget(100_000, 1)
    with pytest.raises(RuntimeError, match=message):
        plain.mistake(which)
    plain._set_budget(200_000_000, 120)
    # The machine is whole again.
    np.testing.assert_array_equal(plain.votes(np.ones(64, np.int32))[:, 5], 64)


def test_all_of_shared_memory_may_be_asked_for(plain: Emulated) -> None:
    with pytest.raises(RuntimeError, match="do not exist"):  # the kernel runs, and makes another mistake
        plain.mistake("shared memory allowed")


def test_two_modules_do_not_meet(plain: Emulated) -> None:
    other = load("block_sums")
    values = np.ones(600, np.float32)
    with plain.schedule("reverse"), other.schedule("random", seed=12):
        np.testing.assert_array_equal(other.block_sums(values), [256, 256, 88])
        np.testing.assert_array_equal(plain.votes(np.ones(64, np.int32))[:, 5], 64)


def test_random_orders_differ_by_seed_and_repeat() -> None:
    # Which of two racing neighbours is first shows in the result of a kernel without its barrier.
    racing = load("broken_kernels", folder=build.HERE / "broken")
    values = np.random.default_rng(13).random(512).astype(np.float32)

    def run(seed: int) -> bytes:
        with racing.schedule("random", seed=seed):
            return racing.missing_barrier(values, True).tobytes()

    assert run(1) == run(1)
    assert len({run(seed) for seed in range(8)}) == 8


def test_process_that_follows_another_has_its_schedule() -> None:
    broken = load("broken_kernels", "tsan", folder=build.HERE / "broken")
    values = np.random.default_rng(14).random(256).astype(np.float32)
    with broken.schedule("reverse", shift=4):
        with pytest.raises(RuntimeError, match="data race"):
            broken.missing_barrier(values, True)
        # With buffers off alignment, a vector access is refused, and the process is a new one.
        with pytest.raises(RuntimeError, match="misaligned source"):
            broken.missing_pipeline_wait(np.resize(values, 512), False)
    np.testing.assert_array_equal(broken.unwritten_output(values, False), values)
