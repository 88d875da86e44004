"""Convolutions whose code differs from place to place in the kernel."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from calls import (
    DTYPES,
    Call,
    assert_compiles,
    assert_exact_on_integers,
    assert_gradients_check,
    assert_matches_reference,
    assert_rejects,
    draw,
)
from cases import CONV1D_CASES, CONV2D_CASES, CONV3D_CASES, LAYOUTS, ConvCase, fused_serves, lay_out, with_algorithm
from torch.nn import functional as F

from kshot_ext import functional as KF
from kshot_ext import reference

MORE_CASES = (
    ConvCase("depthwise_gate", out_channels=5, groups=5, padding=1, gate="shared", bias="shared", input_width=4),
    ConvCase("one_pixel", spatial=(1, 1), kernel=(1, 1), gate="per_sample"),
)


def without_bias_dictionary(cases: tuple[ConvCase, ...]) -> list[ConvCase]:
    return [case for case in cases if case.bias != "dictionary"]


CASES_2D = [*without_bias_dictionary(CONV2D_CASES), *MORE_CASES]
CASES = [
    pytest.param(f"kshot_conv{dims}d", case, id=f"{dims}d-{case}")
    for dims, cases in (
        (1, without_bias_dictionary(CONV1D_CASES)),
        (2, CASES_2D),
        (3, without_bias_dictionary(CONV3D_CASES)),
    )
    for case in cases
]


def call_of(case: ConvCase) -> Call:
    call = case.call()
    code = draw(torch.Generator("cpu").manual_seed(2), case.batch, case.shots, *case.kernel)
    return replace(call, tensors={**call.tensors, "code": code})


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("name", "case"), CASES)
def test_matches_reference(name: str, case: ConvCase, dtype: torch.dtype, layout: str) -> None:
    assert_matches_reference(getattr(KF, name), getattr(reference, name), lay_out(call_of(case).to(dtype), layout))


@pytest.mark.parametrize("algorithm", ["mix_then_conv", "fused"])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("case", CASES_2D, ids=str)
def test_algorithms_match_reference(case: ConvCase, layout: str, algorithm: str) -> None:
    call = lay_out(call_of(case).to(torch.float32), layout)
    if algorithm == "mix_then_conv" or fused_serves(call):
        assert_matches_reference(KF.kshot_conv2d, reference.kshot_conv2d, with_algorithm(call, algorithm))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16], ids=str)
@pytest.mark.parametrize("case", CASES_2D, ids=str)
def test_exact_on_integers(case: ConvCase, dtype: torch.dtype) -> None:
    call = call_of(replace(case, shots=min(case.shots, 3))).to(dtype)
    assert_exact_on_integers(KF.kshot_conv2d, reference.kshot_conv2d, call)


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_the_reference_is_the_formula(groups: int) -> None:
    call = call_of(ConvCase("any", in_channels=4, out_channels=4, groups=groups, gate="per_sample", stride=2))
    input, weight, code, gate = call.tensors.values()
    for n, output in enumerate(reference.kshot_conv2d(**call.tensors, **call.options)):
        own = torch.zeros_like(weight[0])
        for k in range(3):
            for y in range(3):
                for x in range(3):
                    own[..., y, x] += code[n, k, y, x] * weight[k, ..., y, x]
        expected = gate[n, :, None, None] * F.conv2d(input[n], own, stride=2, groups=groups)
        torch.testing.assert_close(output, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("groups", [1, 3])
def test_gradcheck(groups: int) -> None:
    case = ConvCase("tiny", spatial=(3, 4), kernel=(2, 3), shots=2, in_channels=3, out_channels=3, groups=groups)
    assert_gradients_check(KF.kshot_conv2d, call_of(replace(case, gate="per_sample", bias="shared")))


def test_compile_fullgraph() -> None:
    depthwise = ConvCase("depthwise", out_channels=5, groups=5, padding=1, gate="per_sample")
    cases = [ConvCase("dense", padding=1), depthwise]
    layout = "channels_last_dictionary"
    assert_compiles(KF.kshot_conv2d, [lay_out(call_of(case).to(torch.float32), layout) for case in cases])


# Of which blocks of channels, of rows and groups of panels are several; see test_per_sample_conv2d.py.
LARGE = {
    "blocks_of_channels_and_taps": ((5, 70, 6, 5), (3, 75, 72, 3, 3), {"padding": 1}),
    "blocks_of_rows": ((5, 20, 4, 3), (5, 400, 20, 2, 1), {"out_channels": 390}),
}


@pytest.mark.parametrize(("input", "weight", "options"), LARGE.values(), ids=LARGE)
def test_large_dictionaries(instruction_set, input, weight, options) -> None:
    generator = torch.Generator().manual_seed(0)
    shapes = (input, weight, (input[0], weight[0], *weight[3:]), (weight[1],))
    leaves = [torch.randn(shape, generator=generator).requires_grad_() for shape in shapes]
    exact = [leaf.detach().double().requires_grad_() for leaf in leaves]
    ours = KF.kshot_conv2d(*leaves, **options, algorithm="fused")
    expected = reference.kshot_conv2d(*exact, **options)
    grad = torch.randn(ours.shape, generator=generator)
    results = [ours, *torch.autograd.grad(ours, leaves, grad)]
    for own, other in zip(results, [expected, *torch.autograd.grad(expected, exact, grad.double())], strict=True):
        assert (own - other).abs().max() <= 4e-6 * other.abs().max()


def test_autocast_rounds_the_mixed_weight_once() -> None:
    call = call_of(ConvCase("plain", padding=1)).to(torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        output = KF.kshot_conv2d(**call.tensors, **call.options)
    mixed = reference.effective_weight(call.tensors["weight"], call.tensors["code"]).bfloat16()
    image = call.tensors["input"].bfloat16()
    expected = torch.cat([F.conv2d(x[None], own, padding=1) for x, own in zip(image, mixed)])
    torch.testing.assert_close(output, expected)


@pytest.mark.parametrize("groups", [1, 4])
def test_a_gate_brings_back_what_would_overflow(groups: int) -> None:
    """A mixture of 100,000, which float16 does not hold, times a gate of 1/100,000."""
    weight, code = torch.ones(2, 4, 4 // groups, 1, 2).half(), torch.full((3, 2, 1, 2), 5e4)
    output = KF.kshot_conv2d(torch.ones(3, 4, 2, 3).half(), weight, code, groups=groups, gate=torch.full((3, 4), 1e-5))
    torch.testing.assert_close(output, torch.full((3, 4, 2, 2), 8.0 / groups).half())


@pytest.mark.parametrize(
    ("function", "more", "code", "message"),
    [
        (KF.kshot_conv2d, {}, (2, 3, 3, 2), r"a code by place must have shape \[N, K, 3, 3\], got \[2, 3, 3, 2\]"),
        (KF.kshot_conv2d, {}, (2, 4, 3, 3), r"code must have K = 3 entries.* got shape \[2, 4, 3, 3\]"),
        (KF.kshot_conv2d, {}, (1, 3, 3, 3), "a code per sample must have N = 2 rows like input, got 1"),
        (KF.kshot_conv2d, {"bias": torch.zeros(3, 4)}, (2, 3, 3, 3), r"a bias dictionary .*\[2, 3, 3, 3\]"),
        (KF.dynamic_group_conv2d, {"group_gates": torch.ones(1)}, (2, 3, 3, 3), r"code must have shape \[K\] or"),
    ],
)
def test_rejects(function, more: dict, code: tuple[int, ...], message: str) -> None:
    arguments = {"input": torch.zeros(2, 6, 5, 5), "weight": torch.zeros(3, 4, 6, 3, 3), "code": torch.zeros(code)}
    assert_rejects(function, {**arguments, **more}, ValueError, message)


@pytest.mark.parametrize("function", [KF.effective_weight, KF.mix_weights])
def test_mixing_alone_takes_no_places(function) -> None:
    weight, code = torch.zeros(3, 4, 6, 3, 3), torch.zeros(2, 3, 3, 3)
    with pytest.raises(ValueError, match=r"code must have shape \[K\] or \[N, K\], got \[2, 3, 3, 3\]"):
        function([weight] if function is KF.mix_weights else weight, code)


def test_raw_operator_refuses() -> None:
    image, dense, depthwise = torch.zeros(2, 4, 5, 5), torch.zeros(3, 4, 4, 3, 3), torch.zeros(3, 4, 1, 3, 3)
    window = [1, 1], [0, 0, 0, 0], [1, 1]
    run = torch.ops.kshot_ext.fused_conv2d
    for weight, by_tap in ((dense, False), (depthwise, True)):
        for code in (torch.zeros(2, 3, 3, 2), torch.zeros(2, 2, 3, 3), torch.zeros(1, 3, 3, 3), torch.zeros(2, 3, 3)):
            with pytest.raises(RuntimeError, match="code"):
                run(image, weight, code, None, None, 4, *window, by_tap, False)
    with pytest.raises(RuntimeError, match="takes no gate"):
        run(image, dense, torch.zeros(2, 3, 3, 3), torch.zeros(4), None, 4, *window, False, False)
