"""Dense convolution on the emulator, against PyTorch in float64: random geometries in all orders and variants."""

from dataclasses import replace

import pytest
from cuda_emulation.dense_cases import PRECISIONS, UNITS, Axis, Case, Problem, check, plain_weight, random_case
from cuda_emulation.emulation import ORDERS, Emulated, load
from cuda_emulation.selection import needs_emulator, needs_full, share

pytestmark = needs_emulator

CASES = 240
GROUP = 20
DIRECTIONS = ("forward", "input_gradient", "weight_gradient", "per_sample_gradient")
# The gradients of weights and codes are float32 sums of exact products, but for tf32's rounding of both factors.
SUM_UNITS = {"float32": 2.0**-20, "tf32": 2.0**-10, "float16": 2.0**-20, "bfloat16": 2.0**-20}


def check_forward(module: Emulated, problem: Problem) -> None:
    unit = UNITS[problem.case.precision]
    check(problem.run_forward(module), problem.output(), problem.absolute().output(), unit)


def check_input_gradient(module: Emulated, problem: Problem) -> None:
    unit = UNITS[problem.case.precision]
    expected, magnitude = problem.input_gradient(), problem.absolute().input_gradient()
    check(problem.run_input_gradient(module), expected, magnitude, unit)


def check_weight_gradient(module: Emulated, problem: Problem) -> None:
    unit = SUM_UNITS[problem.case.precision]
    expected, magnitude = problem.weight_gradient(), problem.absolute().weight_gradient()
    check(problem.run_weight_gradient(module), expected, magnitude, unit)


def check_per_sample_gradient(module: Emulated, problem: Problem) -> None:
    if problem.case.code != "samples":
        problem = Problem(replace(problem.case, code="samples"))
    unit = SUM_UNITS[problem.case.precision]
    expected, magnitude = problem.per_sample_gradient(), problem.absolute().per_sample_gradient()
    for made, due, size in zip(problem.run_per_sample_gradient(module), expected, magnitude, strict=True):
        check(made, due, size, unit)


CHECKS = {
    "forward": check_forward,
    "input_gradient": check_input_gradient,
    "weight_gradient": check_weight_gradient,
    "per_sample_gradient": check_per_sample_gradient,
}


def run(direction: str, case: Case, order: str, variant: str = "plain", shift: int = 0) -> None:
    module = load("dense_conv2d", variant)
    with module.schedule(order, seed=case.seed, shift=shift):
        CHECKS[direction](module, Problem(case))


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("first", range(0, CASES, GROUP))
@pytest.mark.parametrize("direction", DIRECTIONS)
def test_random_cases(direction, first, order):
    for seed in share(range(first, first + GROUP), order):
        case = random_case(seed)
        try:
            run(direction, case, order, shift=4 if seed % 7 == 0 else 0)
        except Exception as error:
            raise AssertionError(f"{case}: {error}") from error


@needs_full
@pytest.mark.parametrize(("variant", "order"), [("asan", "forward"), ("asan", "reverse"), ("tsan", "reverse")])
@pytest.mark.parametrize("direction", DIRECTIONS)
def test_sanitizers(direction, variant, order):
    for seed in range(1000, 1012):
        case = random_case(seed)
        try:
            run(direction, case, order, variant)
        except Exception as error:
            raise AssertionError(f"{case}: {error}") from error


def square(size: int, kernel: int = 1, stride: int = 1, padding: int = 0) -> Axis:
    return Axis(size, kernel, stride, padding, 1)


def layer(precision: str, batch: int, channels: tuple[int, int], axis: Axis, **options) -> Case:
    chosen = {"shots": 3, "code": "shared", "gate": "shared", "bias": "shared", "seed": 5, **options}
    return Case(precision, batch=batch, in_channels=channels[0], out_channels=channels[1], spare_in=0, spare_out=0,
                height=axis, width=axis, **chosen)  # fmt: skip


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("code", ["shared", "samples"])
@pytest.mark.parametrize("direction", ["forward", "input_gradient"])
def test_tall_tiles(direction, code, precision):
    """So many places that the kernels take 128 of them at a time; the last tile of a group is not full."""
    batch, axis = (2, square(91)) if code == "shared" else (43, square(19))
    case = layer(precision, batch, (24, 80), axis, code=code)
    if direction == "input_gradient":
        case = replace(case, in_channels=80, out_channels=24)
    run(direction, case, "random")


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("direction", DIRECTIONS)
def test_many_chunks_and_tiles(direction, precision):
    """A reduction of many chunks, several tiles each way."""
    run(direction, layer(precision, 5, (96, 136), square(8, 3, 1, 1), code="samples", shots=5), "random")
    run(direction, layer(precision, 3, (40, 32), square(19, 5, 2, 2)), "reverse")


@pytest.mark.parametrize("precision", PRECISIONS)
def test_stretches_of_positions(precision):
    """So many positions for so small a weight that stretches of them have sums of their own."""
    for channels in ((24, 40), (7, 9)):
        run("weight_gradient", layer(precision, 3, channels, square(19, 3, 1, 1)), "random")


@pytest.mark.parametrize("order", ORDERS)
def test_samples_in_parts(order):
    """So many samples for so small a weight that parts of them have sums of their own, the last one shorter."""
    for seed in range(40, 52):
        run("per_sample_gradient", replace(random_case(seed), batch=17 + seed % 9), order)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("direction", ["forward", "input_gradient"])
def test_one_copy_without_a_code(direction, precision):
    for seed in range(20, 24):
        run(direction, plain_weight(replace(random_case(seed), precision=precision)), "forward")


def test_many_classes_of_targets():
    """A stride of three has nine classes, more than one launch takes; some have no tap at all."""
    for seed, kernel in enumerate((1, 2, 3, 5)):
        axis = Axis(11, kernel, 3, kernel // 2, 2)
        run("input_gradient", layer("float32", 2, (8, 12), axis, seed=seed), "forward")


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_same_result_in_every_order(direction):
    """Sums do not depend on the order of threads and blocks: equal bit by bit."""
    problem = Problem(layer("tf32", 4, (16, 24), square(20, 3, 1, 1), code="samples"))
    module = load("dense_conv2d")
    results = []
    for order in ORDERS:
        with module.schedule(order, seed=3):
            geometry = problem.case.geometry
            x, g, w = (problem.stored(name) for name in ("input", "grad", "weight"))
            code, gate = problem.small("code"), problem.small("gate")
            if direction == "forward":
                results.append([module.forward(*geometry, x, w, code, gate, None)])
            elif direction == "input_gradient":
                results.append([module.input_gradient(*geometry, g, w, code, gate)])
            elif direction == "weight_gradient":
                results.append([module.weight_gradient(*geometry, g, x)])
            else:
                grad_weight = w.copy()
                results.append([module.per_sample_gradient(*geometry, g, x, w, code, gate, grad_weight), grad_weight])
    for other in results[1:]:
        assert all(a.tobytes() == b.tobytes() for a, b in zip(results[0], other))
