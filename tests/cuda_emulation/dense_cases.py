"""Random dense convolutions of mixed weights, in float64 PyTorch and as the kernels take them."""

import random
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

PRECISIONS = ("float32", "tf32", "float16", "bfloat16")

# How far a result may be off, as a part of the sum of its terms' absolute values: float32 sums, and one rounding
# of the mixed weight and one of the result (tf32: of both operands) to so many bits.
UNITS = {"float32": 2.0**-20, "tf32": 2.0**-10, "float16": 2.0**-10, "bfloat16": 2.0**-7}

SMALLEST = 2.0**-23  # below float16's normal numbers, steps are 2**-24


@dataclass(frozen=True)
class Axis:
    """One spatial axis."""

    input: int
    kernel: int
    stride: int
    padding: int
    dilation: int

    @property
    def output(self) -> int:
        """Outputs along the axis."""
        return (self.input + 2 * self.padding - self.dilation * (self.kernel - 1) - 1) // self.stride + 1

    @property
    def used(self) -> int:
        """Inputs that any output depends on."""
        taps = range(0, self.kernel * self.dilation, self.dilation)
        reached = {o * self.stride + tap - self.padding for o in range(self.output) for tap in taps}
        return len(reached.intersection(range(self.input)))

    def sizes(self) -> list[int]:
        """As the bindings take it."""
        return [self.input, self.output, self.kernel, self.stride, self.padding, self.dilation]


@dataclass(frozen=True)
class Case:
    """What one call computes; the dictionary may have more channels than the call uses."""

    precision: str
    shots: int
    batch: int
    in_channels: int
    out_channels: int
    spare_in: int
    spare_out: int
    height: Axis
    width: Axis
    code: str  # "none", "shared", "samples"
    gate: str
    bias: str
    seed: int

    @property
    def channels(self) -> list[int]:
        """As the bindings take it."""
        return [self.batch, self.in_channels, self.out_channels]

    @property
    def geometry(self) -> tuple[str, list[int], list[int], list[int]]:
        """The arguments that all bindings begin with."""
        return self.precision, self.channels, self.height.sizes(), self.width.sizes()


def random_axis(rng: random.Random, most: int) -> Axis:
    """An axis with at least one output."""
    while True:
        kernel = rng.choice((1, 1, 2, 3, 3, 5))
        axis = Axis(
            rng.randint(1, most), kernel, rng.choice((1, 1, 2, 3)), rng.randint(0, kernel), rng.choice((1, 1, 2, 3))
        )
        if axis.input + 2 * axis.padding > axis.dilation * (kernel - 1):
            return axis


def random_case(seed: int) -> Case:
    """Small, odd and even sizes, every option."""
    rng = random.Random(seed)
    channels = (1, 3, 4, 6, 7, 8, 12, 16, 20, 24, 33, 48, 64, 72)
    return Case(
        precision=PRECISIONS[seed % 4],
        shots=rng.choice((1, 2, 3, 4, 5, 8, 16)),
        batch=rng.choice((0, 1, 1, 2, 3, 5, 9)) if seed % 10 == 0 else rng.choice((1, 2, 3, 5, 9)),
        in_channels=rng.choice(channels),
        out_channels=rng.choice(channels),
        spare_in=rng.choice((0, 0, 1, 8)),
        spare_out=rng.choice((0, 0, 3)),
        height=random_axis(rng, 9),
        width=random_axis(rng, 9),
        code=rng.choice(("shared", "samples")),
        gate=rng.choice(("none", "shared", "samples")),
        bias=rng.choice(("none", "shared", "samples")),
        seed=seed,
    )


def plain_weight(case: Case) -> Case:
    """The same with one copy that is used as it is."""
    return replace(case, shots=1, code="none")


def stored(values: torch.Tensor, precision: str) -> np.ndarray:
    """As the kernels' memory has it."""
    values = values.contiguous()
    if precision == "bfloat16":
        return values.to(torch.bfloat16).view(torch.uint16).numpy()
    return values.to(torch.float16 if precision == "float16" else torch.float32).numpy()


def loaded(values: np.ndarray, precision: str) -> torch.Tensor:
    """The reverse, in float64."""
    tensor = torch.from_numpy(values)
    return (tensor.view(torch.bfloat16) if precision == "bfloat16" else tensor).double()


class Problem:
    """A case's operands in float64, exactly as stored, and what should come out."""

    def __init__(self, case: Case) -> None:
        self.case = case
        self._generator = torch.Generator().manual_seed(case.seed)
        n, o, i = case.batch, case.out_channels, case.in_channels
        h, w = case.height, case.width
        self.input = self._values(n, h.input, w.input, i)
        self.grad = self._values(n, h.output, w.output, o)
        self.weight = self._values(case.shots, o + case.spare_out, h.kernel, w.kernel, i + case.spare_in)
        self.code = self._per(case.code, case.shots)
        self.gate = self._per(case.gate, o)
        self.bias = self._per(case.bias, o)

    def _draw(self, *shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=self._generator)

    def _values(self, *shape: int) -> torch.Tensor:
        return loaded(stored(self._draw(*shape), self.case.precision), self.case.precision)

    def _per(self, kind: str, size: int) -> torch.Tensor | None:
        if kind == "none":
            return None
        return self._draw(*((self.case.batch, size) if kind == "samples" else (size,))).double()

    def stored(self, name: str) -> np.ndarray:
        """An activation or the weight for a binding."""
        return stored(getattr(self, name), self.case.precision)

    def small(self, name: str) -> np.ndarray | None:
        """Code, gate or bias for a binding."""
        values = getattr(self, name)
        return None if values is None else values.float().numpy()

    def run_forward(self, module: Any) -> torch.Tensor:
        """The kernel's output in float64, as the other runs' results."""
        small = [self.small(name) for name in ("code", "gate", "bias")]
        made = module.forward(*self.case.geometry, self.stored("input"), self.stored("weight"), *small)
        return loaded(made, self.case.precision)

    def run_input_gradient(self, module: Any) -> torch.Tensor:
        """The gradient of the input."""
        small = [self.small(name) for name in ("code", "gate")]
        made = module.input_gradient(*self.case.geometry, self.stored("grad"), self.stored("weight"), *small)
        return loaded(made, self.case.precision)

    def run_weight_gradient(self, module: Any) -> torch.Tensor:
        """The gradient of an effective weight that the batch shares."""
        made = module.weight_gradient(*self.case.geometry, self.stored("grad"), self.stored("input"))
        return torch.from_numpy(made).double()

    def run_per_sample_gradient(self, module: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """The gradients of dictionary and codes; what lies beside the active part must keep its value, zero."""
        case = self.case
        weights = torch.full(self.weight.shape, float("nan"))
        weights[:, case.out_channels :] = 0
        weights[..., case.in_channels :] = 0
        operands = [self.stored(name) for name in ("grad", "input", "weight")]
        small = [self.small(name) for name in ("code", "gate")]
        codes = module.per_sample_gradient(*case.geometry, *operands, *small, weights.numpy())
        return weights.double(), torch.from_numpy(codes).double()

    def absolute(self) -> "Problem":
        """The same of absolute values, whose results are the sums of the terms' absolute values."""
        other = Problem.__new__(Problem)
        other.case = self.case
        for name in ("input", "grad", "weight", "code", "gate", "bias"):
            values = getattr(self, name)
            setattr(other, name, None if values is None else values.abs())
        return other

    def _convolve(self, inputs: torch.Tensor, effective: torch.Tensor) -> torch.Tensor:
        """[N, H, W, C_out] by a weight [O, KH, KW, I] or one per sample."""
        case = self.case

        def convolve(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
            result = F.conv2d(
                x.permute(0, 3, 1, 2),
                weight.permute(0, 3, 1, 2),
                stride=(case.height.stride, case.width.stride),
                padding=(case.height.padding, case.width.padding),
                dilation=(case.height.dilation, case.width.dilation),
            )
            return result.permute(0, 2, 3, 1)

        if effective.dim() == 4:
            return convolve(inputs, effective)
        if case.batch == 0:
            return self.grad.new_zeros(self.grad.shape) + inputs.sum() + effective.sum()  # sums of nothing
        return torch.cat([convolve(inputs[n : n + 1], effective[n]) for n in range(case.batch)])

    def _effective(self, weight: torch.Tensor, code: torch.Tensor | None) -> torch.Tensor:
        """The mixed, gated weight, of every sample or of all."""
        case = self.case
        active = weight[:, : case.out_channels, :, :, : case.in_channels]
        if code is None:
            code = weight.new_ones(1)
        mixed = torch.einsum("...k,koyxi->...oyxi", code, active)
        if self.gate is None:
            return mixed
        gate = self.gate[..., :, None, None, None]
        return gate * mixed

    def output(self) -> torch.Tensor:
        """What the forward pass makes."""
        result = self._convolve(self.input, self._effective(self.weight, self.code))
        if self.bias is None:
            return result
        return result + (self.bias[:, None, None, :] if self.bias.dim() == 2 else self.bias)

    def input_gradient(self) -> torch.Tensor:
        """Of sum(grad * output)."""
        inputs = self.input.clone().requires_grad_()
        self._convolve(inputs, self._effective(self.weight, self.code)).backward(self.grad)
        assert inputs.grad is not None
        return inputs.grad

    def weight_gradient(self) -> torch.Tensor:
        """Of an effective weight that the batch shares, [C_out, KH, KW, C_in]."""
        case = self.case
        weight = self.grad.new_zeros(case.out_channels, case.height.kernel, case.width.kernel, case.in_channels)
        weight.requires_grad_()
        self._convolve(self.input, weight).backward(self.grad)
        assert weight.grad is not None
        return weight.grad

    def per_sample_gradient(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Of the dictionary and of the codes."""
        assert self.code is not None
        weight, code = self.weight.clone().requires_grad_(), self.code.clone().requires_grad_()
        self._convolve(self.input, self._effective(weight, code)).backward(self.grad)
        assert weight.grad is not None
        assert code.grad is not None
        return weight.grad, code.grad


def check(got: torch.Tensor, expected: torch.Tensor, magnitude: torch.Tensor, unit: float) -> None:
    """Whether every element is there and near enough for sums of terms of this magnitude."""
    assert got.shape == expected.shape
    assert bool(torch.isfinite(got).all()), f"{int((~torch.isfinite(got)).sum())} of {got.numel()} are not finite"
    excess = (got - expected).abs() - unit * magnitude - SMALLEST
    assert bool((excess <= 0).all()), (
        f"{int((excess > 0).sum())} of {got.numel()} are off, by up to "
        f"{float(((got - expected).abs() / magnitude.clamp(min=1e-30)).max()):.1e} of the terms' magnitude"
    )
