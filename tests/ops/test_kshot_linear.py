"""K-shot linear map."""

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
from torch.nn import functional as F

from kshot_ext import functional as KF
from kshot_ext import reference

CODES = pytest.mark.parametrize("code_per_sample", [False, True], ids=["shared_code", "code_per_sample"])


@dataclass(frozen=True)
class LinearCase:
    """One call of a K-shot linear map; `rows` are the dimensions between batch and features."""

    name: str
    batch: int = 3
    rows: tuple[int, ...] = ()
    shots: int = 3
    in_features: int = 5
    out_features: int = 7
    bias: str | None = None  # "shared" or "dictionary"
    gate: str | None = None  # "shared", "active" or "per_sample"
    input_width: int | None = None
    output_width: int | None = None

    def __str__(self) -> str:
        return self.name

    def call(self, *, code_per_sample: bool = False, seed: int = 0) -> Call:
        generator = torch.Generator().manual_seed(seed)
        tensors = {
            "input": draw(generator, self.batch, *self.rows, self.input_width or self.in_features),
            "weight": draw(generator, self.shots, self.out_features, self.in_features),
            "code": draw(generator, *([self.batch] if code_per_sample else []), self.shots),
        }
        if self.bias:
            tensors["bias"] = draw(generator, *([self.shots] if self.bias == "dictionary" else []), self.out_features)
        if self.gate:
            width = (self.output_width or self.out_features) if self.gate == "active" else self.out_features
            tensors["gate"] = draw(generator, *([self.batch] if self.gate == "per_sample" else []), width)
        return Call(tensors, {"out_features": self.output_width})


CASES = (
    LinearCase("plain"),
    LinearCase("one_copy", shots=1, bias="shared"),
    LinearCase("bias_dictionary", bias="dictionary"),
    LinearCase("tokens", rows=(11,), bias="dictionary"),
    LinearCase("image_of_tokens", rows=(2, 5), gate="per_sample", bias="shared"),
    LinearCase("narrow", input_width=3, output_width=4, bias="dictionary", gate="shared"),
    LinearCase("gate_of_active_features", output_width=4, bias="shared", gate="active"),
    LinearCase("gate_per_sample", output_width=4, bias="dictionary", gate="per_sample"),
    LinearCase("empty_batch", batch=0, bias="dictionary", gate="shared"),
    LinearCase("empty_batch_of_tokens", batch=0, rows=(3,), bias="shared"),
    LinearCase("no_tokens", rows=(0,), bias="dictionary"),
)


@CODES
@pytest.mark.parametrize("layout", ["contiguous", "sliced"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_matches_reference(case: LinearCase, dtype: torch.dtype, layout: str, code_per_sample: bool) -> None:
    call = lay_out(case.call(code_per_sample=code_per_sample).to(dtype), layout)
    assert_matches_reference(KF.kshot_linear, reference.kshot_linear, call)


@CODES
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16], ids=str)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_exact_on_integers(case: LinearCase, dtype: torch.dtype, code_per_sample: bool) -> None:
    call = case.call(code_per_sample=code_per_sample).to(dtype)
    assert_exact_on_integers(KF.kshot_linear, reference.kshot_linear, call)


@CODES
@pytest.mark.parametrize("gate", [None, "shared", "per_sample"])
def test_gradcheck(gate: str | None, code_per_sample: bool) -> None:
    case = LinearCase("tiny", 2, (2,), 2, 3, 3, "dictionary", gate, input_width=2, output_width=2)
    assert_gradients_check(KF.kshot_linear, case.call(code_per_sample=code_per_sample))


@CODES
def test_compile_fullgraph(code_per_sample: bool) -> None:
    cases = [CASES[2], LinearCase("narrow", bias="dictionary", input_width=3, output_width=4), CASES[3]]
    calls = [case.call(code_per_sample=code_per_sample).to(torch.float32) for case in cases]
    assert_compiles(KF.kshot_linear, calls)


@CODES
def test_autocast(code_per_sample: bool) -> None:
    call = LinearCase("any", bias="dictionary").call(code_per_sample=code_per_sample).to(torch.float32)
    leaves = {name: tensor.requires_grad_() for name, tensor in call.tensors.items()}
    exact = KF.kshot_linear(**leaves)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = KF.kshot_linear(**leaves)
    assert output.dtype == torch.bfloat16
    torch.testing.assert_close(output.float(), exact, rtol=2**-6, atol=2**-6 * exact.abs().max().item())
    output.sum().backward()
    assert all(leaf.grad is not None and leaf.grad.dtype == torch.float32 for leaf in leaves.values())


@pytest.mark.parametrize("k", range(3))
def test_one_hot_code_is_the_plain_layer_of_that_copy(k: int) -> None:
    tensors = CASES[2].call().to(torch.float32).tensors
    output = KF.kshot_linear(**{**tensors, "code": torch.eye(3)[k]})
    assert torch.equal(output, F.linear(tensors["input"], tensors["weight"][k], tensors["bias"][k]))


def test_narrow_output_is_the_leading_features() -> None:
    tensors = CASES[2].call().to(torch.float32).tensors
    torch.testing.assert_close(KF.kshot_linear(**tensors, out_features=4), KF.kshot_linear(**tensors)[:, :4])


def test_equal_rows_of_a_code_per_sample_are_a_shared_code() -> None:
    tensors = CASES[3].call().to(torch.float32).tensors
    output = KF.kshot_linear(**{**tensors, "code": tensors["code"].expand(3, -1)})
    torch.testing.assert_close(output, KF.kshot_linear(**tensors))


def test_gate_of_zero_is_a_zero_feature() -> None:
    tensors = CASES[2].call().to(torch.float32).tensors
    gate = torch.tensor([1.0, 0, 1, 1, 1, 1, 1])
    output = KF.kshot_linear(**tensors, gate=gate)
    assert torch.equal(output, KF.kshot_linear(**tensors) * gate)


REJECTIONS: dict[str, tuple[dict[str, Any], type, str]] = {
    "input_rank": ({"input": torch.zeros(5)}, ValueError, r"input must have shape \[N, ..., C_in\], got \[5\]"),
    "input_integers": ({"input": torch.zeros(2, 5).int()}, TypeError, "input must be one of .*got torch.int32"),
    "weight_rank": (
        {"weight": torch.zeros(4, 5)},
        ValueError,
        r"weight must have shape \[K, C_out, C_in\], got \[4, 5",
    ),
    "weight_dtype": ({"weight": torch.zeros(3, 4, 5).half()}, TypeError, "weight must be torch.float32 like input"),
    "weight_device": ({"weight": torch.zeros(3, 4, 5, device="meta")}, ValueError, "weight must be on cpu like input"),
    "code_shots": ({"code": torch.zeros(2)}, ValueError, "code must have K = 3 entries"),
    "code_batch": ({"code": torch.zeros(3, 3)}, ValueError, "N = 2 rows like input, got 3"),
    "code_device": ({"code": torch.zeros(3, device="meta")}, ValueError, "code must be on cpu like weight"),
    "bias_size": ({"bias": torch.zeros(3, 5)}, ValueError, r"bias must have shape \[3, 4\].*got \[3, 5\]"),
    "gate_size": ({"gate": torch.zeros(2)}, ValueError, r"gate must have C_out = 4 entries, got shape \[2\]"),
    "gate_batch": ({"gate": torch.zeros(3, 4)}, ValueError, "gate per sample must have N = 2 rows"),
    "input_too_wide": ({"input": torch.zeros(2, 6)}, ValueError, "input has 6 features, expected 1 to 5"),
    "input_no_feature": ({"input": torch.zeros(2, 0)}, ValueError, "input has 0 features, expected 1 to 5"),
    "output_too_wide": ({"out_features": 5}, ValueError, "out_features must be 1 to 4.*got 5"),
    "output_no_feature": ({"out_features": 0}, ValueError, "out_features must be 1 to 4.*got 0"),
}


@pytest.mark.parametrize(("changes", "error", "message"), REJECTIONS.values(), ids=REJECTIONS)
def test_rejects(changes: dict[str, Any], error: type, message: str) -> None:
    good = {"input": torch.zeros(2, 5), "weight": torch.zeros(3, 4, 5), "code": torch.zeros(3)}
    assert_rejects(KF.kshot_linear, {**good, **changes}, error, message)
