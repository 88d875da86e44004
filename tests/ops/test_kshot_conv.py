"""K-shot convolution over one, two and three dimensions."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from allocations import allocations
from calls import (
    DTYPES,
    assert_compiles,
    assert_exact_on_integers,
    assert_gradients_check,
    assert_matches_reference,
)
from cases import (
    CONV1D_CASES,
    CONV2D_CASES,
    CONV3D_CASES,
    LAYOUTS,
    TINY_CONV2D_CASES,
    ConvCase,
    fused_serves,
    is_channels_last,
    lay_out,
    with_algorithm,
)
from torch.nn import functional as F

from kshot_ext import functional as KF
from kshot_ext import reference

CODES = pytest.mark.parametrize("code_per_sample", [False, True], ids=["shared_code", "code_per_sample"])
CASES = [
    pytest.param(f"kshot_conv{dims}d", case, id=f"{dims}d-{case}")
    for dims, cases in ((1, CONV1D_CASES), (2, CONV2D_CASES), (3, CONV3D_CASES))
    for case in cases
]
SHARED_CODE = torch.tensor([0.5, 0.3, 0.2])


@CODES
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("name", "case"), CASES)
def test_matches_reference(name: str, case: ConvCase, dtype: torch.dtype, layout: str, code_per_sample: bool) -> None:
    call = lay_out(case.call(code_per_sample=code_per_sample).to(dtype), layout)
    assert_matches_reference(getattr(KF, name), getattr(reference, name), call)


@CODES
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("algorithm", ["mix_then_conv", "fused"])
@pytest.mark.parametrize("case", CONV2D_CASES, ids=str)
def test_algorithms_match_reference(case: ConvCase, algorithm: str, layout: str, code_per_sample: bool) -> None:
    """Those that "auto" may have passed over, in float32, for which every kernel is made."""
    call = lay_out(case.call(code_per_sample=code_per_sample).to(torch.float32), layout)
    if algorithm == "fused" and not fused_serves(call):
        with pytest.raises(ValueError, match="algorithm='fused' has no kernel"):
            KF.kshot_conv2d(**call.tensors, **call.options, algorithm="fused")
    else:
        assert_matches_reference(KF.kshot_conv2d, reference.kshot_conv2d, with_algorithm(call, algorithm))


@CODES
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16], ids=str)
@pytest.mark.parametrize("case", CONV2D_CASES, ids=str)
def test_exact_on_integers(case: ConvCase, dtype: torch.dtype, code_per_sample: bool) -> None:
    call = replace(case, shots=min(case.shots, 3)).call(code_per_sample=code_per_sample).to(dtype)
    assert_exact_on_integers(KF.kshot_conv2d, reference.kshot_conv2d, call)


@CODES
@pytest.mark.parametrize("case", TINY_CONV2D_CASES, ids=str)
def test_gradcheck(case: ConvCase, code_per_sample: bool) -> None:
    assert_gradients_check(KF.kshot_conv2d, case.call(code_per_sample=code_per_sample))


@CODES
def test_compile_fullgraph(code_per_sample: bool) -> None:
    cases = [
        ConvCase("whole", padding=1, bias="dictionary"),
        ConvCase("narrow", padding=1, bias="dictionary", input_width=3, output_width=4),
    ]
    calls = [
        lay_out(case.call(code_per_sample=code_per_sample).to(torch.float32), layout)
        for case in cases
        for layout in ("contiguous", "channels_last_dictionary")
    ]
    assert_compiles(KF.kshot_conv2d, calls)


@pytest.mark.parametrize("name", ["kshot_conv1d", "kshot_conv3d"])
def test_compile_fullgraph_other_dimensions(name: str) -> None:
    case = CONV1D_CASES[-2] if name == "kshot_conv1d" else CONV3D_CASES[-2]
    assert_compiles(getattr(KF, name), [case.call().to(torch.float32)])


def test_compile_with_inductor() -> None:
    case = ConvCase("narrow", padding=1, input_width=3, output_width=4)
    call = lay_out(case.call().to(torch.float32), "channels_last_dictionary")
    assert_compiles(KF.kshot_conv2d, [call], backend="inductor")


@CODES
@pytest.mark.parametrize("dictionary_layout", ["contiguous", "channels_last_dictionary"])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("algorithm", ["mix_then_conv", "auto", "fused"])
@pytest.mark.parametrize("groups", [1, 5])
def test_output_follows_memory_format_of_input(
    groups: int, algorithm: str, layout: str, dictionary_layout: str, code_per_sample: bool
) -> None:
    case = ConvCase("square", out_channels=5, padding=1, groups=groups)
    call = case.call(code_per_sample=code_per_sample).to(torch.float32)
    weight = lay_out(call, dictionary_layout).tensors["weight"]
    tensors = {**lay_out(call, layout).tensors, "weight": weight}
    output = KF.kshot_conv2d(**tensors, **call.options, algorithm=algorithm)
    assert is_channels_last(output) == layout.startswith("channels_last")
    assert is_channels_last(output) or output.is_contiguous()


@CODES
@pytest.mark.parametrize("groups", [1, 5])
def test_an_expanded_dictionary_has_a_gradient_for_every_copy(groups: int, code_per_sample: bool) -> None:
    """Its copies share their memory; their gradients must not."""
    case = ConvCase("any", out_channels=5, groups=groups)
    call = case.call(code_per_sample=code_per_sample).to(torch.float32)
    expanded = call.tensors["weight"][:1].expand_as(call.tensors["weight"])
    call = replace(call, tensors={**call.tensors, "weight": expanded})
    assert_matches_reference(KF.kshot_conv2d, reference.kshot_conv2d, call)


@CODES
def test_autocast(code_per_sample: bool) -> None:
    call = CONV2D_CASES[0].call(code_per_sample=code_per_sample).to(torch.float32)
    leaves = {name: tensor.requires_grad_() for name, tensor in call.tensors.items()}
    exact = KF.kshot_conv2d(**leaves)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = KF.kshot_conv2d(**leaves)
    assert output.dtype == torch.bfloat16
    torch.testing.assert_close(output.float(), exact, rtol=2**-6, atol=2**-6 * exact.abs().max().item())
    output.sum().backward()
    assert all(leaf.grad is not None and leaf.grad.dtype == torch.float32 for leaf in leaves.values())


@pytest.mark.usefixtures("native_backend")
def test_of_a_depthwise_dictionary_only_the_part_in_use_is_copied() -> None:
    """Codes per sample mix it tap by tap, which is not how it lies in memory."""
    weight, x = torch.randn(4, 512, 1, 3, 3), torch.randn(2, 16, 4, 4).contiguous(memory_format=torch.channels_last)
    code, used = torch.rand(2, 4), slice(16)
    results = []
    taken = allocations(lambda: results.append(KF.kshot_conv2d(x, weight, code, groups=512, algorithm="fused")))
    assert sum(taken) <= 2 * weight[:, used].nbytes + results[0].nbytes  # the part, and what two samples mix from it
    expected = reference.kshot_conv2d(x.double(), weight[:, used].double(), code.double(), groups=16)
    torch.testing.assert_close(results[0].double(), expected, rtol=1e-4, atol=1e-4)


class TestProperties:
    """What the equation implies, whatever the kernels do."""

    @pytest.fixture
    def tensors(self) -> dict[str, torch.Tensor]:
        call = ConvCase("any", bias="dictionary", batch=3).call().to(torch.float32)
        return {**call.tensors, "code": SHARED_CODE}

    @pytest.mark.parametrize("k", range(3))
    def test_one_hot_code_is_the_plain_layer_of_that_copy(self, tensors: dict[str, torch.Tensor], k: int) -> None:
        output = KF.kshot_conv2d(**{**tensors, "code": torch.eye(3)[k]}, padding=1, algorithm="mix_then_conv")
        plain = F.conv2d(tensors["input"], tensors["weight"][k], tensors["bias"][k], padding=1)
        assert torch.equal(output, plain)

    def test_equal_copies_are_that_copy(self, tensors: dict[str, torch.Tensor]) -> None:
        weight, bias = tensors["weight"][0], tensors["bias"][0]
        output = KF.kshot_conv2d(tensors["input"], weight.expand(3, *weight.shape), SHARED_CODE, bias.expand(3, -1))
        torch.testing.assert_close(output, F.conv2d(tensors["input"], weight, bias))

    def test_gate_of_ones_is_no_gate(self, tensors: dict[str, torch.Tensor]) -> None:
        assert torch.equal(KF.kshot_conv2d(**tensors, gate=torch.ones(7)), KF.kshot_conv2d(**tensors))

    @pytest.mark.parametrize("gate_shape", [(7,), (3, 7)])
    def test_gate_of_zero_is_a_zero_channel(
        self, tensors: dict[str, torch.Tensor], gate_shape: tuple[int, ...]
    ) -> None:
        gate = torch.ones(gate_shape)
        gate[..., 4] = 0
        output = KF.kshot_conv2d(**tensors, gate=gate)
        assert (output[:, 4] == 0).all()
        assert (output[:, 3] != 0).all()

    @pytest.mark.parametrize("width", [1, 4, 7])
    def test_narrow_output_is_the_leading_channels(self, tensors: dict[str, torch.Tensor], width: int) -> None:
        narrow = KF.kshot_conv2d(**tensors, out_channels=width)
        torch.testing.assert_close(narrow, KF.kshot_conv2d(**tensors)[:, :width])

    @pytest.mark.parametrize("width", [1, 3])
    def test_narrow_input_is_an_input_padded_with_zeros(self, tensors: dict[str, torch.Tensor], width: int) -> None:
        padded = tensors["input"].clone()
        padded[:, width:] = 0
        narrow = KF.kshot_conv2d(**{**tensors, "input": tensors["input"][:, :width]})
        torch.testing.assert_close(narrow, KF.kshot_conv2d(**{**tensors, "input": padded}))

    def test_equal_rows_of_a_code_per_sample_are_a_shared_code(self, tensors: dict[str, torch.Tensor]) -> None:
        output = KF.kshot_conv2d(**{**tensors, "code": SHARED_CODE.expand(3, -1)})
        torch.testing.assert_close(output, KF.kshot_conv2d(**tensors))

    def test_each_sample_has_its_own_code(self, tensors: dict[str, torch.Tensor]) -> None:
        output = KF.kshot_conv2d(**{**tensors, "code": torch.eye(3)})
        for n in range(3):
            plain = F.conv2d(tensors["input"][n : n + 1], tensors["weight"][n], tensors["bias"][n])
            torch.testing.assert_close(output[n : n + 1], plain)
