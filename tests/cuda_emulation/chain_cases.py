"""Random links of a chain, depthwise and dense, and what float64 PyTorch makes of them."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

import torch
from cuda_emulation import depthwise_cases
from cuda_emulation.depthwise_cases import Axis, to_numpy
from cuda_emulation.dictionaries import DTYPES, rounded
from cuda_emulation.emulation import ORDERS
from torch import Tensor
from torch.nn import functional as F

from kshot_ext.reference.batch_norm_act import ACTIVATIONS

NAMES = list(ACTIVATIONS)
CORNERS = torch.tensor([-3.0, 0.0, 3.0, 6.0], dtype=torch.float64)  # of the activations
EPS = 1e-3
# Elements are rounded where they are stored, and as factors of a product.
ROUNDING = {"float32": 2.0**-22, "tf32": 2.0**-9, "bfloat16": 2.0**-7, "float16": 2.0**-10}
SUMMING = 2e-5  # of sums without signs


@dataclass(frozen=True)
class DenseCase:
    """A dense convolution of one weight; `dtype` "tf32" is float32 on tensor cores."""

    height: Axis
    width: Axis
    batch: int = 2
    channels: int = 8
    out_channels: int = 8
    dtype: str = "float32"
    seed: int = 0
    code: str = "none"
    gate: str = "none"

    def numbers(self) -> list[int]:
        return [self.batch, self.channels, *self.height.numbers(), *self.width.numbers(), self.out_channels]


class DenseConv:
    """What a depthwise problem is to its case."""

    code = gate = None

    def __init__(self, case: DenseCase) -> None:
        self.case = case
        generator = torch.Generator().manual_seed(case.seed)

        def tensor(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator, dtype=torch.float64).to(element_type(case))

        n, c, o, h, w = case.batch, case.channels, case.out_channels, case.height, case.width
        self.input, self.grad = tensor(n, c, h.input, w.input), tensor(n, o, h.output, w.output)
        self.weight = tensor(o, c, h.kernel, w.kernel)

    @property
    def dictionary(self) -> Tensor:
        """[1, C_out, KH * KW * C_in], as it lies in memory."""
        return self.weight.permute(0, 2, 3, 1).flatten(1)[None]

    def from_image(self, array: Any) -> Tensor:
        result = torch.from_numpy(array)
        if self.case.dtype == "bfloat16":
            result = result.view(torch.bfloat16)
        return result.permute(0, 3, 1, 2).double()

    def taps(self, absolute: bool = False) -> Tensor:
        return self.weight.double().abs() if absolute else self.weight.double()

    def convolve(self, input: Tensor, weight: Tensor) -> Tensor:
        h, w = self.case.height, self.case.width
        padded = F.pad(input, (w.padding, w.trailing, h.padding, h.trailing))
        return F.conv2d(padded, weight, stride=(h.stride, w.stride), dilation=(h.dilation, w.dilation))


def element_type(case: DenseCase | depthwise_cases.Case) -> torch.dtype:
    return torch.float32 if case.dtype == "tf32" else depthwise_cases.DTYPES[case.dtype]


@dataclass(frozen=True)
class Link:
    """A convolution and the norm before it: "none", "shared" or "sample" (whose parameters are)."""

    conv: depthwise_cases.Case | DenseCase
    norm: str = "shared"
    activation: str = "relu"
    offset: float = 0.0  # of the raw input from zero, in deviations
    moments: str = "both"  # which of the output's moments have a gradient: "both", "mean", "none"
    need_input: bool = True


def random_link(seed: int) -> Link:
    """All that the kernels take: odd sizes, strides, dilation, codes, gates, norms and activations."""
    pick = random.Random(seed)
    kernel, stride = pick.choice((3, 3, 5, 7)), pick.choice((1, 1, 2))
    dilation = 2 if stride == 1 and kernel < 7 and pick.random() < 0.25 else 1
    height, width = (depthwise_cases.random_axis(pick, kernel, stride, dilation) for _ in range(2))
    code = pick.choice(("none", "shared", "sample"))
    conv = depthwise_cases.Case(
        height,
        width,
        batch=pick.choice((0, 1, 1, 2, 3)),
        channels=pick.choice((1, 3, 4, 6, 8, 16, 17, pick.randint(1, 70), pick.choice((32, 64)))),
        shots=1 if code == "none" else pick.randint(1, 8),
        code=code,
        gate=pick.choice(("none", "shared", "sample")),
        dtype=pick.choice(("float32", "float32", "bfloat16", "float16")),
        seed=seed,
    )
    return Link(
        conv,
        norm=pick.choice(("none", "shared", "shared", "sample")),
        activation=pick.choice(NAMES),
        offset=pick.choice((0.0, 0.0, 3.0)),
        moments=pick.choice(("both", "both", "mean", "none")),
        need_input=pick.random() < 0.9,
    )


def random_dense_link(seed: int) -> Link:
    """Half of them 1x1; a norm per sample comes with strides of one only."""
    pick = random.Random(seed)
    norm = pick.choice(("none", "shared", "shared", "sample"))
    kernel = pick.choice((1, 1, 2, 3))
    stride = 1 if norm == "sample" else pick.choice((1, 1, 2, 3))
    dilation = pick.choice((1, 1, 2))
    height, width = (depthwise_cases.random_axis(pick, kernel, stride, dilation) for _ in range(2))
    channels = (1, 3, 4, 6, 8, 12, 16, 20, 33, 64, 72)
    conv = DenseCase(
        height,
        width,
        batch=pick.choice((1, 1, 2, 3)) if seed % 10 else 0,
        channels=pick.choice(channels),
        out_channels=pick.choice(channels),
        dtype=("float32", "tf32", "bfloat16", "float16")[seed % 4],
        seed=seed,
    )
    activation, offset = pick.choice(NAMES), pick.choice((0.0, 0.0, 3.0))
    moments = pick.choice(("both", "both", "mean", "none"))
    return Link(conv, norm, activation, offset, moments, need_input=pick.random() < 0.9)


class Problem:
    """The tensors of a link, its calls of the emulated kernels, and the results that they should have."""

    def __init__(self, link: Link) -> None:
        self.link, self.case = link, link.conv
        dense = isinstance(link.conv, DenseCase)
        self.conv = DenseConv(link.conv) if dense else depthwise_cases.Problem(link.conv)
        self.out_channels = link.conv.out_channels if dense else link.conv.channels
        self.dtype = element_type(link.conv)
        self.generator = torch.Generator().manual_seed(link.conv.seed + 1)
        n, c = self.case.batch, self.case.channels
        rows = (n, c) if link.norm == "sample" else (c,)
        self.x = rounded(2 * self.conv.input.double() + 2 * link.offset, self.dtype)
        self.norm: list[Tensor | None] = [None] * 4
        if link.norm != "none":
            self.norm = [
                rounded(values, torch.float32)
                for values in (
                    self.draw(c) + 2 * link.offset,
                    1 + self.draw(c) ** 2,
                    1 + 0.3 * self.draw(*rows).clamp(-2, 2),
                    self.draw(*rows),
                )
            ]
        self.keep_off_corners()
        self.positions = n * self.case.height.output * self.case.width.output
        self.z = ACTIVATIONS[link.activation](self.argument(self.x))
        self.y = self.conv.convolve(self.z, self.conv.taps())
        self.y_mean = rounded(self.moments()[0], torch.float32)
        self.grad = self.conv.grad.double()
        wanted = {"both": 2, "mean": 1, "none": 0}[link.moments]
        draws = (self.draw(self.out_channels) * self.positions**0.5 for _ in range(wanted))
        self.of_moments = [rounded(values, torch.float32) for values in draws]
        self.of_moments += [None] * (2 - wanted)

    def draw(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self.generator, dtype=torch.float64)

    def scale_and_shift(self) -> tuple[Tensor, Tensor]:
        mean, variance, weight, bias = self.norm
        if mean is None:
            return torch.ones(1, 1, 1, 1, dtype=torch.float64), torch.zeros(1, 1, 1, 1, dtype=torch.float64)
        scale = weight / torch.sqrt(variance + EPS)
        return tuple(t.reshape(-1, self.case.channels, 1, 1) for t in (scale, bias - mean * scale))

    def argument(self, x: Tensor) -> Tensor:
        scale, shift = self.scale_and_shift()
        return x * scale + shift

    def keep_off_corners(self) -> None:
        """Beside a corner of the activation rounding may choose the other slope."""
        scale, _ = self.scale_and_shift()
        near = (self.argument(self.x)[..., None] - CORNERS).abs().amin(-1) < 0.05
        self.x = rounded(torch.where(near, self.x + 0.3 / scale, self.x), self.dtype)

    def moments(self) -> tuple[Tensor, Tensor]:
        flat = self.y.movedim(1, -1).reshape(-1, self.out_channels)
        if not len(flat):
            return (torch.zeros(self.out_channels, dtype=torch.float64),) * 2
        return flat.mean(0), flat.var(0, correction=0)

    def image(self, tensor: Tensor | None) -> Any:
        return None if tensor is None else to_numpy(tensor.to(self.dtype).permute(0, 2, 3, 1))

    def arguments(self) -> tuple:
        floats = [None if t is None else t.float().numpy() for t in self.norm]
        activation = NAMES.index(self.link.activation)
        leading = DTYPES[self.dtype], self.case.numbers(), activation, EPS
        dictionary = to_numpy(self.conv.dictionary.flatten(2))
        if isinstance(self.case, DenseCase):
            return (*leading, self.image(self.x), *floats, dictionary, self.case.dtype == "tf32")
        return *leading, self.image(self.x), *floats, dictionary, to_numpy(self.conv.code), to_numpy(self.conv.gate)

    def run_forward(self, module: Any) -> tuple[Tensor, Tensor, Tensor]:
        y, mean, variance = module.forward(self.arguments(), True)
        return self.conv.from_image(y), torch.from_numpy(mean).double(), torch.from_numpy(variance).double()

    def run_backward(self, module: Any) -> dict[str, Tensor]:
        y = self.image(self.y) if self.link.moments != "none" else None
        moments = [None if t is None else t.float().numpy() for t in self.of_moments]
        gradient = (self.image(self.grad), y, self.y_mean.float().numpy(), *moments)
        per_sample = self.case.code == "sample" or self.case.gate == "sample"
        grad_input, weight, *norm = module.backward(self.arguments(), gradient, per_sample, self.link.need_input)
        results = {"taps": torch.from_numpy(weight).double()}
        if self.link.need_input:
            results["input"] = self.conv.from_image(grad_input)
        with_norm = self.link.norm != "none" and self.link.need_input
        names = ("mean", "variance", "weight", "bias") if with_norm else ()
        return results | {name: torch.from_numpy(array).double() for name, array in zip(names, norm)}

    def gradient(self) -> Tensor:
        """G: of the raw output by all its uses."""
        y = rounded(self.y, self.dtype)
        of_mean, of_variance = (
            torch.zeros(1, dtype=torch.float64) if t is None else t / self.positions for t in self.of_moments
        )
        deviation = y - self.y_mean[:, None, None]
        return self.grad + 2 * of_variance[:, None, None] * deviation + of_mean[:, None, None]

    def expected_backward(self) -> dict[str, tuple[Tensor, Tensor]]:
        """Each gradient, and the size of what adds up to it."""
        sizes = self._gradients(absolute=True)
        return {name: (value, sizes[name]) for name, value in self._gradients(absolute=False).items()}

    def _gradients(self, absolute: bool) -> dict[str, Tensor]:
        size = abs if absolute else (lambda tensor: tensor)
        z = size(self.z).detach().requires_grad_()
        taps = self.conv.taps(absolute).detach().requires_grad_()
        grad = size(self.gradient()) if self.positions else self.grad
        of_z, of_taps = torch.zeros_like(z), torch.zeros_like(taps)
        if self.positions:
            of_z, of_taps = torch.autograd.grad(self.conv.convolve(z, taps), (z, taps), grad)
        argument = self.argument(self.x).requires_grad_()
        ACTIVATIONS[self.link.activation](argument).sum().backward()
        scale, _ = self.scale_and_shift()
        h = of_z * size(argument.grad)
        per_sample = self.case.code == "sample" or self.case.gate == "sample"
        if isinstance(self.case, DenseCase):
            of_taps = of_taps.permute(0, 2, 3, 1)
        else:
            of_taps = of_taps.flatten(2) if per_sample else of_taps.flatten(2).sum(0, keepdim=True)
        results = {"input": h * size(scale), "taps": of_taps}
        if self.link.norm == "none":
            return results
        mean, variance, *_ = self.norm
        inverse = 1 / torch.sqrt(variance + EPS)
        over = (2, 3) if self.link.norm == "sample" else (0, 2, 3)
        bias, weight = (
            (h * factor).sum(over).reshape(-1, self.case.channels)
            for factor in (1, size(self.x - mean[:, None, None]) * inverse[:, None, None])
        )
        factors = size(scale).reshape(-1, self.case.channels)
        sign = 1 if absolute else -1
        return results | {
            "mean": sign * (factors * bias).sum(0),
            "variance": sign * (0.5 * inverse * factors * weight).sum(0),
            "weight": weight,
            "bias": bias,
        }


def assert_close(link: Link, name: str, result: Tensor, expected: Tensor, size: Tensor) -> None:
    assert result.shape == expected.shape, (name, link)
    assert result.isfinite().all(), (name, link)
    allowed = (ROUNDING[link.conv.dtype] + SUMMING) * size + ROUNDING[link.conv.dtype] * expected.abs() + 1e-6
    wrong = (result - expected).abs() > allowed
    assert not wrong.any(), (
        f"{name}: {int(wrong.sum())} of {wrong.numel()} wrong, first at {wrong.nonzero()[0].tolist()}: "
        f"{result[wrong][0]} for {expected[wrong][0]}; {link}"
    )


def check_forward(module: Any, problem: Problem) -> None:
    link = problem.link
    y, mean, variance = problem.run_forward(module)
    size = problem.conv.convolve(problem.z.abs(), problem.conv.taps(absolute=True))
    assert_close(link, "output", y, problem.y, size)
    due_mean, due_variance = problem.moments()
    if not problem.positions:
        assert not mean.any()
        assert not variance.any()
        return
    over = size.movedim(1, -1).reshape(-1, problem.out_channels)
    assert_close(link, "mean", mean, due_mean, over.mean(0))
    spread = due_variance + (over * (problem.y.movedim(1, -1).reshape(-1, problem.out_channels) - due_mean).abs()).mean(
        0
    )
    assert_close(link, "variance", variance, due_variance, spread)


def check_backward(module: Any, problem: Problem) -> None:
    expected = problem.expected_backward()
    for name, result in problem.run_backward(module).items():
        value, size = expected[name]
        # The slope of the activation lets errors of its argument through; these are small beside its own.
        assert_close(problem.link, f"gradient of {name}", result, value, 2 * size)


def check_both_ways(module: Any, problem: Problem) -> None:
    check_forward(module, problem)
    check_backward(module, problem)


def check_order_of_threads(module: Any, problem: Problem) -> None:
    """Results are the same to the last bit in any order."""
    results = []
    for order in ORDERS:
        with module.schedule(order, seed=7):
            results.append([*problem.run_forward(module), *problem.run_backward(module).values()])
    assert all(torch.equal(a, b) for result in results[1:] for a, b in zip(results[0], result, strict=True))


def check_moments_far_from_zero(module: Any, problem: Problem) -> None:
    """Of a link that leaves its input as it is: raw outputs whose mean is a thousand deviations."""
    problem.x = problem.z = problem.y = (problem.conv.input * 0.01 + 10).double()
    _, mean, variance = problem.run_forward(module)
    due_mean, due_variance = problem.moments()
    torch.testing.assert_close(mean, due_mean, rtol=1e-6, atol=0)
    torch.testing.assert_close(variance, due_variance, rtol=1e-4, atol=0)


def square(size: int, kernel: int, stride: int = 1, **fields: Any) -> depthwise_cases.Case:
    """A convolution of a square image that is padded to keep its size but for the stride."""
    axis = Axis(size, kernel, stride, kernel // 2, kernel // 2)
    return depthwise_cases.Case(axis, axis, **fields)
