"""Effective weight: mix, gate, slice."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

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
from cases import lay_out

from kshot_ext import functional as KF
from kshot_ext import reference

LAYOUTS = ("contiguous", "sliced", "inputs_innermost")
FAR_BEYOND_ONE_CHUNK = 1031  # the kernels work off rows in chunks of 512 elements


@dataclass(frozen=True)
class MixCase:
    name: str
    weight: tuple[int, ...]  # [K, C_out, C_in, *kernel]
    gate: str | None = None  # "shared", "active" or "per_sample"
    out_channels: int | None = None
    in_channels: int | None = None
    samples: int = 3

    def __str__(self) -> str:
        return self.name

    def call(self, *, code_per_sample: bool = False, seed: int = 0) -> Call:
        generator = torch.Generator().manual_seed(seed)
        shots, channels = self.weight[:2]
        tensors = {
            "weight": draw(generator, *self.weight),
            "code": draw(generator, *([self.samples, shots] if code_per_sample else [shots])),
        }
        if self.gate:
            width = self.out_channels if self.gate == "active" and self.out_channels else channels
            tensors["gate"] = draw(generator, *([self.samples] if self.gate == "per_sample" else []), width)
        return Call(tensors, {"out_channels": self.out_channels, "in_channels": self.in_channels})


CASES = (
    MixCase("plain", (3, 7, 5, 3, 3)),
    MixCase("one_copy", (1, 7, 5, 3, 3)),
    MixCase("many_copies", (13, 3, 5, 3, 1)),
    MixCase("bias", (3, 7)),
    MixCase("narrow_bias", (3, 7), out_channels=4, gate="shared"),
    MixCase("linear", (4, 7, 11), gate="shared"),
    MixCase("conv1d", (4, 7, 5, 3), in_channels=2),
    MixCase("conv3d", (4, 3, 5, 2, 3, 1), out_channels=2, in_channels=3),
    MixCase("narrow_output", (3, 7, 5, 3, 3), out_channels=4),
    MixCase("narrow_input", (3, 7, 5, 3, 3), in_channels=2),
    MixCase("narrow_both_gated", (3, 7, 5, 3, 3), out_channels=4, in_channels=2, gate="shared"),
    MixCase("gate_of_active_channels", (3, 7, 5, 1, 1), out_channels=4, gate="active"),
    MixCase("gate_per_sample", (3, 7, 5, 3, 3), out_channels=5, gate="per_sample"),
    MixCase("long_rows", (5, 2, FAR_BEYOND_ONE_CHUNK), gate="shared"),
    MixCase("long_flat", (5, 7, 61, 3, 5)),
    MixCase("no_samples", (3, 7, 5, 3, 3), samples=0, gate="shared"),
)
CODES = pytest.mark.parametrize("code_per_sample", [False, True], ids=["shared_code", "code_per_sample"])


def in_layout(call: Call, layout: str) -> Call:
    if layout != "inputs_innermost":
        return lay_out(call, layout)
    weight = call.tensors["weight"]
    moved = weight.movedim(2, -1).contiguous().movedim(-1, 2) if weight.dim() > 3 else weight
    return Call({**call.tensors, "weight": moved}, call.options)


@CODES
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_matches_reference(case: MixCase, dtype: torch.dtype, layout: str, code_per_sample: bool) -> None:
    call = in_layout(case.call(code_per_sample=code_per_sample).to(dtype), layout)
    assert_matches_reference(KF.effective_weight, reference.effective_weight, call)


@CODES
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", [case for case in CASES if not case.name.startswith("long")], ids=str)
def test_exact_on_integers(case: MixCase, dtype: torch.dtype, code_per_sample: bool) -> None:
    # Only the smaller cases stay within the 256 consecutive integers of bfloat16.
    if dtype == torch.bfloat16:
        case = MixCase(case.name, tuple(min(size, 3) for size in case.weight), case.gate, samples=case.samples)
    assert_exact_on_integers(
        KF.effective_weight, reference.effective_weight, case.call(code_per_sample=code_per_sample).to(dtype)
    )


@CODES
@pytest.mark.parametrize("gate", [None, "shared", "per_sample"])
def test_gradcheck(gate: str | None, code_per_sample: bool) -> None:
    case = MixCase("tiny", (2, 3, 3, 2, 1), gate, out_channels=2, in_channels=2)
    assert_gradients_check(KF.effective_weight, case.call(code_per_sample=code_per_sample))


@CODES
def test_compile_fullgraph(code_per_sample: bool) -> None:
    cases = [CASES[0], MixCase("narrow", (3, 7, 5, 3, 3), "per_sample", out_channels=4, in_channels=2)]
    calls = [
        in_layout(case.call(code_per_sample=code_per_sample).to(torch.float32), layout)
        for case in cases
        for layout in ("contiguous", "inputs_innermost")
    ]
    assert_compiles(KF.effective_weight, calls)


@CODES
@pytest.mark.parametrize("width", [None, 3])
def test_result_has_the_memory_layout_of_the_copies(width: int | None, code_per_sample: bool) -> None:
    case = MixCase("any", (3, 7, 5, 3, 3), in_channels=width)
    for layout, innermost in (("contiguous", -1), ("inputs_innermost", -3)):
        call = in_layout(case.call(code_per_sample=code_per_sample).to(torch.float32), layout)
        mixed = KF.effective_weight(**call.tensors, **call.options)
        assert mixed.movedim(innermost, -1).is_contiguous()


@pytest.mark.parametrize("code_dtype", DTYPES, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_code_and_gate_of_any_dtype(dtype: torch.dtype, code_dtype: torch.dtype) -> None:
    tensors = MixCase("any", (2, 3, 2, 2, 2), "shared").call().tensors
    weight = tensors["weight"].to(dtype)
    code, gate = (tensors[name].to(code_dtype).requires_grad_() for name in ("code", "gate"))
    mixed = KF.effective_weight(weight, code, gate=gate)
    mixed.sum().backward()
    assert mixed.dtype == dtype
    assert code.grad.dtype == gate.grad.dtype == code_dtype
    torch.testing.assert_close(mixed, reference.effective_weight(weight, code, gate=gate))


def test_any_real_code_is_accepted() -> None:
    weight = torch.ones(2, 3, 1)
    assert KF.effective_weight(weight, torch.tensor([-2.0, 5.0])).flatten().tolist() == [3.0] * 3


@pytest.mark.parametrize("k", range(3))
def test_one_hot_code_picks_its_copy(k: int) -> None:
    weight = CASES[0].call().tensors["weight"].float()
    assert torch.equal(KF.effective_weight(weight, torch.eye(3)[k]), weight[k])


def arguments(**changes: Any) -> dict[str, Any]:
    return {"weight": torch.zeros(3, 4, 5, 1, 1), "code": torch.zeros(3), **changes}


REJECTIONS: dict[str, tuple[dict[str, Any], type, str]] = {
    "weight_no_tensor": ({"weight": None}, TypeError, r"weight must be a tensor \[K, C_out.*got NoneType"),
    "weight_rank": ({"weight": torch.zeros(3)}, ValueError, r"weight must have shape \[K, C_out.*got \[3\]"),
    "weight_integers": ({"weight": torch.zeros(3, 4, dtype=torch.int8)}, TypeError, "weight must be one of.*int8"),
    "weight_no_copy": ({"weight": torch.zeros(0, 4)}, ValueError, r"K >= 1\), got shape \[0, 4\]"),
    "code_shots": ({"code": torch.zeros(2)}, ValueError, r"code must have K = 3 entries.*got shape \[2\]"),
    "code_rank": ({"code": torch.zeros(())}, ValueError, r"code must have shape \[K\] or \[N, K\], got \[\]"),
    "code_device": ({"code": torch.zeros(3, device="meta")}, ValueError, "code must be on cpu like weight, got meta"),
    "gate_size": ({"gate": torch.zeros(5)}, ValueError, r"gate must have C_out = 4 entries, got shape \[5\]"),
    "gate_rows": (
        {"gate": torch.zeros(3, 4), "code": torch.zeros(2, 3)},
        ValueError,
        "gate per sample must have N = 2 rows like input, got 3",
    ),
    "gate_integers": ({"gate": torch.ones(4, dtype=torch.bool)}, TypeError, "gate must be one of.*got torch.bool"),
    "output_too_wide": ({"out_channels": 5}, ValueError, r"out_channels must be 1 to 4 for weight .*, got 5"),
    "output_no_channel": ({"out_channels": 0}, ValueError, "out_channels must be 1 to 4.*got 0"),
    "input_too_wide": ({"in_channels": 6}, ValueError, "in_channels must be 1 to 5.*got 6"),
    "input_negative": ({"in_channels": -1}, ValueError, "in_channels must be 1 to 5.*got -1"),
    "input_of_bias": (
        {"weight": torch.zeros(3, 4), "in_channels": 1},
        ValueError,
        r"in_channels needs a weight with input channels, got weight \[3, 4\]",
    ),
}


@pytest.mark.parametrize(("changes", "error", "message"), REJECTIONS.values(), ids=REJECTIONS)
def test_rejects(changes: dict[str, Any], error: type, message: str) -> None:
    assert_rejects(KF.effective_weight, arguments(**changes), error, message)
