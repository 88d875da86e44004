"""Batch norm with mixed affine parameters, residual and activation."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from calls import (
    DTYPES,
    Call,
    assert_compiles,
    assert_gradients_check,
    assert_matches_reference,
    assert_rejects,
    draw,
    results,
)
from cases import is_channels_last, lay_out
from torch.nn import functional as F

from kshot_ext import functional as KF
from kshot_ext import reference
from kshot_ext.reference.batch_norm_act import ACTIVATIONS

LAYOUTS = ("contiguous", "sliced", "channels_last")
MAGNITUDE = 16.0  # of the sums over a channel, which nearly cancel in the gradient of the input


@dataclass(frozen=True)
class NormCase:
    """One call of batch_norm_act; `affine` is None, "plain" or "dictionary"."""

    name: str
    size: tuple[int, ...] = (4, 5, 3, 7)  # of the input
    channels: int = 5
    shots: int = 3
    affine: str | None = "dictionary"
    code_per_sample: bool = False
    running: bool = True
    training: bool = True
    activation: str = "silu"
    residual: bool = False

    def __str__(self) -> str:
        return self.name

    def call(self, seed: int = 0) -> Call:
        generator = torch.Generator().manual_seed(seed)
        tensors = {"input": 3 * draw(generator, *self.size) + 1}
        if self.affine:
            shape = (self.shots, self.channels) if self.affine == "dictionary" else (self.channels,)
            tensors |= {"weight": draw(generator, *shape), "bias": draw(generator, *shape)}
        if self.affine == "dictionary":
            tensors["code"] = draw(generator, *([self.size[0]] if self.code_per_sample else []), self.shots)
        if self.residual:
            tensors["residual"] = draw(generator, *self.size)
        state = {"running_mean": draw(generator, self.channels), "running_var": draw(generator, self.channels) ** 2 + 1}
        none = dict.fromkeys(("weight", "bias", "running_mean", "running_var"))
        options = {**none, "training": self.training, "activation": self.activation, "momentum": 0.25}
        given_names = {*tensors, *(state if self.running else ())}
        options = {name: value for name, value in options.items() if name not in given_names}
        return Call(tensors, options, state if self.running else {})


CASES = (
    NormCase("dictionary"),
    NormCase("one_copy", shots=1),
    NormCase("code_per_sample", code_per_sample=True),
    NormCase("plain", affine="plain"),
    NormCase("no_affine", affine=None),
    NormCase("no_running_statistics", running=False),
    NormCase("no_running_statistics_eval", running=False, training=False),
    NormCase("eval", training=False),
    NormCase("eval_code_per_sample", training=False, code_per_sample=True),
    NormCase("narrow", channels=7),
    NormCase("narrow_eval_residual", channels=7, training=False, residual=True),
    NormCase("residual", residual=True),
    NormCase("vectors", size=(11, 5)),
    NormCase("sequences", size=(3, 5, 7)),
    NormCase("volumes", size=(2, 5, 3, 2, 3), code_per_sample=True),
    NormCase("empty_batch_eval", size=(0, 5, 3, 7), training=False, residual=True),
    NormCase("empty_batch_eval_code_per_sample", size=(0, 5, 3, 7), training=False, code_per_sample=True),
)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_matches_reference(case: NormCase, dtype: torch.dtype, layout: str) -> None:
    assert_matches_reference(
        KF.batch_norm_act, reference.batch_norm_act, lay_out(case.call().to(dtype), layout), MAGNITUDE
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_activations_match_reference(activation: str, dtype: torch.dtype) -> None:
    case = NormCase("any", activation=activation, residual=True)
    assert_matches_reference(KF.batch_norm_act, reference.batch_norm_act, case.call().to(dtype), MAGNITUDE)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_activations_are_those_of_torch(activation: str) -> None:
    x = torch.linspace(-9, 9, 35).reshape(7, 5)
    output = KF.batch_norm_act(
        x, None, None, torch.zeros(5), torch.ones(5), training=False, eps=0, activation=activation
    )
    expected = x if activation == "identity" else getattr(F, activation)(x)
    torch.testing.assert_close(output, expected)


CORNERS = torch.tensor([-3.0, 0.0, 3.0, 6.0, -1.0, 1.0])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_slopes_at_the_corners_are_those_of_torch(activation: str, dtype: torch.dtype) -> None:
    """Fixed statistics of mean 0 and variance 1 leave the input as it is."""
    x = CORNERS.to(dtype).reshape(1, 1, 2, 3).expand(2, 5, 2, 3).contiguous(memory_format=torch.channels_last)
    ours, torchs = x.clone().requires_grad_(), x.clone().requires_grad_()
    statistics = torch.zeros(5, dtype=dtype), torch.ones(5, dtype=dtype)
    KF.batch_norm_act(ours, None, None, *statistics, training=False, eps=0.0, activation=activation).sum().backward()
    ACTIVATIONS[activation](torchs).sum().backward()
    rounding = {} if activation == "silu" else {"rtol": 0, "atol": 0}
    torch.testing.assert_close(ours.grad, torchs.grad, **rounding)


@pytest.mark.parametrize(("size", "code_per_sample"), [((4, 100, 16, 12), False), ((2, 100, 28, 28), True)])
def test_inputs_that_are_cut_into_pieces(size: tuple[int, ...], code_per_sample: bool) -> None:
    """Whose sums are joined."""
    case = NormCase("pieces", size, channels=100, code_per_sample=code_per_sample)
    call = lay_out(case.call().to(torch.float32), "channels_last")
    result, expected = results(KF.batch_norm_act, call), results(reference.batch_norm_act, case.call())
    for name, value in expected.items():
        scale = value.abs().max().item()
        error = (result[name].double() - value).abs().max().item()
        assert error <= 1e-5 * scale, f"{name}: error {error}, largest value {scale}"


def test_exact_on_integers() -> None:
    """Statistics that are powers of two: mean 1, variance 4."""
    x = torch.tensor([-1.0, 3.0, 3.0, -1.0]).reshape(4, 1).expand(4, 3)
    mean, var = torch.ones(3), torch.full((3,), 4.0)
    weight, bias = torch.tensor([[1.0, 2, 3], [3.0, 0, -1]]), torch.tensor([[0.0, 1, 2], [2.0, 1, 0]])
    code = torch.tensor([1.0, 2.0])
    output = KF.batch_norm_act(x, weight, bias, mean, var, code=code, training=False, eps=0, activation="identity")
    sign = torch.tensor([-1.0, 1.0, 1.0, -1.0]).reshape(4, 1)
    assert torch.equal(output, sign * torch.tensor([7.0, 2.0, 1.0]) + torch.tensor([4.0, 3.0, 2.0]))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("code_per_sample", [False, True])
def test_gradcheck(code_per_sample: bool, training: bool) -> None:
    case = NormCase(
        "tiny", (3, 2, 2), 3, 2, code_per_sample=code_per_sample, training=training, residual=True, running=not training
    )
    call = case.call()
    options = {**call.options, **{name: tensor.double() for name, tensor in call.state.items()}}
    assert_gradients_check(KF.batch_norm_act, replace(call, options=options, state={}))


@pytest.mark.parametrize("training", [True, False])
def test_compile_fullgraph(training: bool) -> None:
    cases = [NormCase("whole", training=training), NormCase("narrow", channels=7, training=training, residual=True)]
    calls = [
        lay_out(case.call().to(torch.float32), layout) for case, layout in zip(cases, ("contiguous", "channels_last"))
    ]
    assert_compiles(KF.batch_norm_act, calls)


@pytest.mark.parametrize("code_per_sample", [False, True])
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_output_follows_memory_format_of_input(layout: str, code_per_sample: bool) -> None:
    call = lay_out(NormCase("any", code_per_sample=code_per_sample).call().to(torch.float32), layout)
    output = KF.batch_norm_act(**call.tensors, **call.options, **call.state)
    assert is_channels_last(output) == (layout == "channels_last")


@pytest.mark.parametrize("training", [True, False])
def test_one_hot_code_is_the_plain_layer_of_that_copy(training: bool) -> None:
    call = NormCase("any", training=training, activation="identity").call().to(torch.float32)
    x, weight, bias = (call.tensors[name] for name in ("input", "weight", "bias"))
    plain = torch.nn.BatchNorm2d(5, momentum=0.25).train(training)
    plain.load_state_dict({"weight": weight[1], "bias": bias[1], **call.state}, strict=False)
    output = KF.batch_norm_act(**{**call.tensors, "code": torch.eye(3)[1]}, **call.options, **call.state)
    torch.testing.assert_close(output, plain(x))
    torch.testing.assert_close(call.state["running_mean"], plain.running_mean)
    torch.testing.assert_close(call.state["running_var"], plain.running_var)


def test_narrow_input_moves_the_leading_statistics_only() -> None:
    mean, var = torch.zeros(5), torch.ones(5)
    KF.batch_norm_act(torch.arange(12.0).reshape(4, 3), None, None, mean, var)
    assert (mean[:3] != 0).all()
    assert (var[:3] != 1).all()
    assert (mean[3:] == 0).all()
    assert (var[3:] == 1).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("affine", ["plain", "dictionary"])
def test_float32_parameters_beside_a_half_precision_input(affine: str, dtype: torch.dtype) -> None:
    call = NormCase("any", affine=affine).call().to(torch.float32)
    half = replace(call, tensors={**call.tensors, "input": call.tensors["input"].to(dtype)})
    output = KF.batch_norm_act(**half.tensors, **half.options, **half.state)
    expected = reference.batch_norm_act(
        **half.tensors, **half.options, **{name: tensor.clone() for name, tensor in half.state.items()}
    )
    tolerance = 8 * torch.finfo(dtype).eps
    torch.testing.assert_close(output, expected, rtol=tolerance, atol=tolerance)


GOOD = {
    "input": torch.zeros(2, 4, 3, 3),
    "weight": torch.zeros(3, 5),
    "bias": torch.zeros(5),
    "running_mean": torch.zeros(5),
    "running_var": torch.zeros(5),
    "code": torch.zeros(3),
}
META = torch.zeros(5, device="meta")
REJECTIONS: dict[str, tuple[dict[str, Any], type, str]] = {
    "input_rank": ({"input": torch.zeros(4)}, ValueError, r"input must have shape \[N, C, ...\], got \[4\]"),
    "input_no_channel": ({"input": torch.zeros(2, 0, 3)}, ValueError, r"at least one channel, got shape \[2, 0, 3\]"),
    "input_integers": ({"input": torch.zeros(2, 4).long()}, TypeError, "input must be one of .*got torch.int64"),
    "input_too_wide": (
        {"input": torch.zeros(2, 6)},
        ValueError,
        r"weight must cover the 6 channels.*got shape \[3, 5\]",
    ),
    "weight_rank": ({"weight": torch.zeros(1, 1, 5)}, ValueError, r"weight must have shape \[C\] or \[K, C\]"),
    "weight_device": ({"weight": META}, ValueError, "weight must be on cpu like input, got meta"),
    "bias_size": ({"bias": torch.zeros(3)}, ValueError, r"bias must cover the 4 channels of input, got shape \[3\]"),
    "code_missing": ({"code": None}, ValueError, r"code must be given: weight is a dictionary \[3, 5\]"),
    "code_shots": ({"code": torch.zeros(4)}, ValueError, "code must have K = 3 entries"),
    "code_batch": ({"code": torch.zeros(3, 3)}, ValueError, "N = 2 rows like input, got 3"),
    "code_device": ({"code": torch.zeros(3, device="meta")}, ValueError, "code must be on cpu like weight, got meta"),
    "mean_alone": ({"running_var": None}, ValueError, "running_mean and running_var must be given both or neither"),
    "mean_size": ({"running_mean": torch.zeros(3)}, ValueError, "running_mean must cover the 4 channels"),
    "var_rank": ({"running_var": torch.zeros(1, 5)}, ValueError, r"running_var must have shape \[C\], got \[1, 5\]"),
    "var_device": ({"running_var": META}, ValueError, "running_var must be on cpu like input, got meta"),
    "activation": ({"activation": "gelu"}, ValueError, "activation must be one of identity, .*, got 'gelu'"),
    "residual_rank": (
        {"residual": torch.zeros(2, 4)},
        ValueError,
        r"residual must have shape like input, got \[2, 4\]",
    ),
    "residual_size": (
        {"residual": torch.zeros(2, 4, 3, 1)},
        ValueError,
        r"residual must have shape \[2, 4, 3, 3\] like input, got \[2, 4, 3, 1\]",
    ),
    "one_value_per_channel": ({"input": torch.zeros(1, 4)}, ValueError, r"more than one value per channel.*\[1, 4\]"),
}


@pytest.mark.parametrize(("changes", "error", "message"), REJECTIONS.values(), ids=REJECTIONS)
def test_rejects(changes: dict[str, Any], error: type, message: str) -> None:
    assert_rejects(KF.batch_norm_act, {**GOOD, **changes}, error, message)


@pytest.mark.parametrize("second", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("first", [torch.contiguous_format, torch.channels_last])
def test_other_calls_may_move_the_statistics_before_the_backward_pass(
    first: torch.memory_format, second: torch.memory_format
) -> None:
    """As with torch's layers; what each format is normalised by keeps its own moments of the batch."""
    generator = torch.Generator().manual_seed(0)
    images = [torch.randn(4, 16, 8, 8, generator=generator).contiguous(memory_format=f) for f in (first, second)]
    mean, var = torch.zeros(16), torch.ones(16)
    expected = torch.autograd.functional.vjp(
        lambda x: KF.batch_norm_act(x, None, None, mean.clone(), var.clone()), images[0], torch.ones(4, 16, 8, 8)
    )
    image = images[0].requires_grad_()
    output = KF.batch_norm_act(image, None, None, mean, var)
    moved = mean.clone()
    KF.batch_norm_act(images[1], None, None, mean, var)
    output.sum().backward()
    torch.testing.assert_close(image.grad, expected[1])
    torch.testing.assert_close(moved, 0.1 * images[0].detach().mean((0, 2, 3)))
    torch.testing.assert_close(mean, 0.9 * moved + 0.1 * images[1].mean((0, 2, 3)))


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("size", [(1, 4, 3, 5), (2, 4, 5, 1), (2, 4, 1, 5)])
def test_a_gradient_whose_axes_of_size_one_have_any_stride(size: tuple[int, ...], training: bool) -> None:
    """Products of matrices give such gradients, of a channels_last order that `stride()` does not show."""
    generator = torch.Generator().manual_seed(0)
    x, gradient = (torch.randn(size, generator=generator, dtype=torch.float64) for _ in range(2))
    weight, mean = (torch.randn(*shape, generator=generator, dtype=torch.float64) for shape in ((2, 4), (4,)))
    inner = gradient.movedim(1, -1).contiguous().movedim(-1, 1)
    strides = [1 if length == 1 else stride for length, stride in zip(size, inner.stride())]
    ambiguous = torch.empty(inner.numel(), dtype=torch.float64).as_strided(size, strides).copy_(gradient)

    def gradients(operator: Any, output_gradient: torch.Tensor) -> tuple[torch.Tensor, ...]:
        operands = x.clone().requires_grad_(), weight.clone().requires_grad_()
        code, var = torch.tensor([0.3, 0.7], dtype=torch.float64), mean.square() + 1
        output = operator(*operands, None, mean.clone(), var, code=code, training=training, activation="identity")
        return torch.autograd.grad(output, operands, output_gradient)

    torch.testing.assert_close(gradients(KF.batch_norm_act, ambiguous), gradients(reference.batch_norm_act, gradient))
