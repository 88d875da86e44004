"""Random depthwise convolutions and what float64 PyTorch makes of them."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

DTYPES = {
    "float32": torch.float32,
    "float64": torch.float64,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}
# Of a result's size, and of what its sum would be without signs.
ROUNDING = {"float32": 2.0**-23, "float64": 2.0**-52, "bfloat16": 2.0**-8, "float16": 2.0**-11}
SUMMING = {"float32": 4e-6, "float64": 1e-13, "bfloat16": 4e-6, "float16": 4e-6}
SMALLEST = {"float32": 0.0, "float64": 0.0, "bfloat16": 0.0, "float16": 2.0**-25}  # half the step of subnormals


@dataclass(frozen=True)
class Axis:
    """One axis of a convolution; `padding` leads, `trailing` is what follows."""

    input: int
    kernel: int
    stride: int = 1
    padding: int = 0
    trailing: int = 0
    dilation: int = 1

    @property
    def output(self) -> int:
        return (self.input + self.padding + self.trailing - self.dilation * (self.kernel - 1) - 1) // self.stride + 1

    def numbers(self) -> list[int]:
        return [self.input, self.output, self.kernel, self.stride, self.padding, self.dilation]


@dataclass(frozen=True)
class Case:
    """A depthwise convolution. `code` and `gate`: "none", "shared" or "sample"."""

    height: Axis
    width: Axis
    batch: int = 2
    channels: int = 8
    shots: int = 4
    code: str = "shared"
    gate: str = "none"
    bias: str = "none"
    dtype: str = "float32"
    channels_last: bool = True
    tap_major: bool = False
    seed: int = 0

    @property
    def taps(self) -> int:
        return self.height.kernel * self.width.kernel

    def numbers(self) -> list[int]:
        return [self.batch, self.channels, *self.height.numbers(), *self.width.numbers()]


def random_axis(pick: random.Random, kernel: int, stride: int, dilation: int) -> Axis:
    reach = dilation * (kernel - 1) + 1
    padding, trailing = (pick.choice((reach // 2, reach // 2, pick.randrange(reach))) for _ in range(2))
    least = max(1, reach - padding - trailing)
    size = pick.choice(
        (least, pick.randint(least, least + 9), pick.randint(least, least + 9), least + pick.randint(8, 30))
    )
    return Axis(size, kernel, stride, padding, trailing, dilation)


def random_case(seed: int) -> Case:
    """Mostly kernels and strides that the tiled kernels take, over all else that varies."""
    pick = random.Random(seed)
    kernel = pick.choice((3, 3, 5, 7))
    kernels, strides, dilations = (kernel, kernel), (pick.choice((1, 1, 2)),) * 2, (1, 1)
    if pick.random() < 0.25:
        dilations = (pick.choice((1, 2, 3)), pick.choice((1, 2)))
    if pick.random() < 0.15:
        kernels = (pick.randint(1, 7), pick.randint(1, 7))
    if pick.random() < 0.1:
        strides = (pick.randint(1, 3), pick.randint(1, 3))
    height, width = (random_axis(pick, *numbers) for numbers in zip(kernels, strides, dilations, strict=True))
    code = pick.choice(("none", "shared", "sample"))
    return Case(
        height,
        width,
        batch=pick.choice((0, 1, 2, 3)),
        channels=pick.choice((1, 3, 4, 6, 8, 16, 17, pick.randint(1, 70), pick.choice((32, 64, 72)))),
        shots=1 if code == "none" else pick.randint(1, 16),
        code=code,
        gate=pick.choice(("none", "shared", "sample")),
        bias=pick.choice(("none", "shared", "sample")),
        dtype=pick.choice(("float32", "float32", "bfloat16", "float16", "float64")),
        channels_last=pick.random() < 0.6,
        tap_major=pick.random() < 0.5,
        seed=seed,
    )


def to_numpy(tensor: Tensor | None) -> Any:
    """As the bindings take it: bfloat16 in uint16."""
    if tensor is None:
        return None
    tensor = tensor.contiguous()
    return (tensor.view(torch.uint16) if tensor.dtype == torch.bfloat16 else tensor).numpy()


class Problem:
    """The tensors of a case, its calls of the emulated kernels, and the results that they should have."""

    def __init__(self, case: Case) -> None:
        self.case = case
        generator = torch.Generator().manual_seed(case.seed)
        dtype, sum_dtype = DTYPES[case.dtype], torch.float64 if case.dtype == "float64" else torch.float32

        def tensor(*shape: int, dtype: torch.dtype = dtype) -> Tensor:
            return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

        def rows(kind: str, size: int, dtype: torch.dtype) -> Tensor | None:
            if kind == "none":
                return None
            return tensor(size, dtype=dtype) if kind == "shared" else tensor(case.batch, size, dtype=dtype)

        n, c, h, w = case.batch, case.channels, case.height, case.width
        self.input = tensor(n, c, h.input, w.input)
        self.grad = tensor(n, c, h.output, w.output)
        self.dictionary = tensor(case.shots, c, h.kernel, w.kernel)
        self.code = rows(case.code, case.shots, sum_dtype)
        self.gate = rows(case.gate, c, sum_dtype)
        self.bias = rows(case.bias, c, sum_dtype)

    def image(self, tensor: Tensor) -> Any:
        return to_numpy(tensor.permute(0, 2, 3, 1) if self.case.channels_last else tensor)

    def from_image(self, array: np.ndarray) -> Tensor:
        result = torch.from_numpy(array)
        if self.case.dtype == "bfloat16":
            result = result.view(torch.bfloat16)
        return (result.permute(0, 3, 1, 2) if self.case.channels_last else result).double()

    def _weight_arguments(self) -> tuple:
        case, taps = self.case, self.case.taps
        dictionary, strides = self.dictionary, [case.channels * taps, taps, 1]
        if case.tap_major:
            dictionary, strides = dictionary.flatten(2).mT, [case.channels * taps, 1, case.channels]
        return to_numpy(dictionary), strides, to_numpy(self.code), to_numpy(self.gate)

    def _leading(self) -> tuple:
        return self.case.dtype, self.case.channels_last, self.case.numbers()

    def run_conv2d(self, module: Any) -> Tensor:
        arguments = (self.image(self.input), *self._weight_arguments(), to_numpy(self.bias))
        return self.from_image(module.conv2d(*self._leading(), *arguments))

    def run_input_gradient(self, module: Any) -> Tensor:
        return self.from_image(
            module.input_gradient(*self._leading(), self.image(self.grad), *self._weight_arguments())
        )

    def run_weight_gradient(self, module: Any, per_sample: bool) -> tuple[Tensor, Tensor]:
        case = self.case
        weight, bias = module.weight_gradient(
            *self._leading(), self.image(self.input), self.image(self.grad), per_sample, case.tap_major
        )
        weight = torch.from_numpy(weight)
        return (weight.mT if case.tap_major else weight).double(), torch.from_numpy(bias).double()

    def taps(self, absolute: bool = False) -> Tensor:
        """[N, C, KH, KW] in float64."""
        case, size = self.case, abs if absolute else (lambda tensor: tensor)
        code = torch.ones(1) if self.code is None else self.code
        code, dictionary = size(code.double()).expand(case.batch, case.shots), size(self.dictionary.double())
        taps = torch.einsum("nk,kchw->nchw", code, dictionary)
        return taps if self.gate is None else taps * size(self.gate.double()).expand(case.batch, -1)[..., None, None]

    def convolve(self, input: Tensor, taps: Tensor) -> Tensor:
        case, h, w = self.case, self.case.height, self.case.width
        padded = F.pad(input, (w.padding, w.trailing, h.padding, h.trailing))
        if case.batch * case.channels == 0:
            return input.new_zeros(case.batch, case.channels, h.output, w.output)
        output = F.conv2d(
            padded.flatten(0, 1)[None],
            taps.flatten(0, 1)[:, None],
            stride=(h.stride, w.stride),
            dilation=(h.dilation, w.dilation),
            groups=case.batch * case.channels,
        )
        return output[0].unflatten(0, (case.batch, case.channels))

    def expected(self, absolute: bool = False) -> dict[str, Tensor]:
        """All results in float64; `absolute`: what sums would be if no term were negative."""
        size = abs if absolute else (lambda tensor: tensor)
        input = size(self.input.double()).detach().clone().requires_grad_()
        taps = self.taps(absolute).detach().clone().requires_grad_()
        grad = size(self.grad.double())
        output = self.convolve(input, taps)
        grad_input, grad_taps = torch.zeros_like(input), torch.zeros_like(taps)
        if output.numel():
            grad_input, grad_taps = torch.autograd.grad(output, (input, taps), grad)
        if self.bias is not None:
            output = output + size(self.bias.double()).expand(self.case.batch, -1)[..., None, None]
        return {
            "output": output.detach(),
            "grad_input": grad_input,
            "grad_taps": grad_taps.flatten(2),
            "grad_bias": grad.sum((2, 3)),
        }


def assert_close(case: Case, result: Tensor, expected: Tensor, absolute: Tensor, *, sums: bool = False) -> None:
    """`result` within the rounding of its type (that of sums if `sums`) and of sums in float."""
    assert result.shape == expected.shape, case
    rounding = {"float64": 2.0**-52}.get(case.dtype, 2.0**-23) if sums else ROUNDING[case.dtype]
    allowed = rounding * expected.abs() + SUMMING[case.dtype] * absolute + (0 if sums else SMALLEST[case.dtype])
    wrong = ~((result - expected).abs() <= allowed)
    assert not wrong.any(), (
        f"{int(wrong.sum())} of {wrong.numel()} wrong, first at {wrong.nonzero()[0].tolist()}: "
        f"{result[wrong][0]} for {expected[wrong][0]}; {case}"
    )
