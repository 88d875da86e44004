"""Calls whose traffic is counted, one for each kind of kernel, with the bytes that it must move at least.

The least is every operand read once and every result written once; batch norm in training must read its input twice,
and backward twice what it reads.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from cuda_emulation import chain_cases, dense_cases, depthwise_cases
from cuda_emulation.dictionaries import DTYPES, Dictionary, memory, sum_dtype
from cuda_emulation.emulation import Emulated, load

SUM_BYTES = 4  # of a code, a gate and a sum


@dataclass(frozen=True)
class Workload:
    """A call of a binding's kernels, and the least bytes that it must move."""

    binding: str
    run: Callable[[Emulated], object]
    least: int

    def count(self) -> Traffic:
        """What its kernels move."""
        module = load(self.binding, "traffic")
        return Traffic(self.least, module.traffic(lambda: self.run(module)))


@dataclass(frozen=True)
class Traffic:
    """What the kernels of a call moved, from the summary of each of them."""

    least: int
    kernels: list[dict[str, Any]]

    def _sum(self, *fields: str) -> int:
        return sum(kernel[field] for kernel in self.kernels for field in fields)

    @cached_property
    def moved(self) -> int:
        """Bytes of all accesses of warps, without help from any cache."""
        return self._sum("bytes_read", "bytes_written")

    @cached_property
    def moved_by_blocks(self) -> int:
        """Bytes of whole sectors, each once in a block, as if every block had a cache for all that it touches."""
        return self._sum("block_bytes_read", "block_bytes_written")

    @cached_property
    def sector_ratio(self) -> float:
        """Sectors touched over those that as many bytes side by side would touch."""
        return self._sum("sectors") / self._sum("ideal_sectors")

    @cached_property
    def bank_conflict(self) -> float:
        """The worst kernel's mean passes through shared memory where one could do."""
        return max(kernel["bank_conflict"] for kernel in self.kernels)

    @cached_property
    def worst_bank_conflict(self) -> int:
        """Passes of the worst single access."""
        return max(kernel["worst_bank_conflict"] for kernel in self.kernels)


def random(*shape: int, of: torch.dtype) -> np.ndarray:
    """Normal values, as the bindings take them."""
    return memory(torch.randn(shape, dtype=torch.float64), of).reshape(shape)


def random_dictionary(
    shape: tuple[int, ...], dtype: torch.dtype, channels_last: bool, active: tuple[int, int] | None = None
) -> Dictionary:
    """A dictionary [K, C_out, C_in, KH, KW], of which the leading `active` channels are in use."""
    weight = torch.randn(shape, dtype=torch.float64).to(dtype).double()
    return Dictionary(weight, dtype, channels_last, *(active or shape[1:3]))


class _Mixing:
    """What mixing and its backward share."""

    def __init__(self, dictionary: Dictionary, samples: int | None, gated: bool) -> None:
        d, sums, each = dictionary, sum_dtype(dictionary.dtype), [samples] if samples else []
        code = random(*each, d.shots, of=sums)
        gate = random(*each, d.out_channels, of=sums) if gated else None
        geometry = d.geometry(samples or 1, d.out_channels, d.in_channels, gated)
        gate_stride = d.out_channels if gated and samples else 0
        self.arguments = (DTYPES[d.dtype], geometry, d.stored(d.weight), code, gate, gate_stride)
        self.dtype, self.gated = d.dtype, gated
        self.copies = d.active.numel()
        self.effective = d.active[0].numel() * (samples or 1)
        self.small = SUM_BYTES * (code.size + (gate.size if gate is not None else 0))


def mixing(dictionary: Dictionary, *, samples: int | None = None, gated: bool = False) -> Workload:
    """effective = gate * sum_k code[k] * weight[k], for one code or for so many."""
    problem = _Mixing(dictionary, samples, gated)
    least = problem.dtype.itemsize * (problem.copies + problem.effective) + problem.small
    return Workload("effective_weight", lambda module: module.effective_weight([problem.arguments]), least)


def mixing_backward(dictionary: Dictionary, *, samples: int | None = None, gated: bool = False) -> Workload:
    """Gradients of dictionary, codes and gates."""
    problem = _Mixing(dictionary, samples, gated)
    grad = random(problem.effective, of=problem.dtype)
    job = (problem.arguments, grad, True, True, gated)
    least = problem.dtype.itemsize * (2 * problem.copies + problem.effective) + 2 * problem.small
    return Workload("effective_weight", lambda module: module.effective_weight_backward([job], False), least)


def grouping(dictionary: Dictionary, gates: tuple[int, ...], backward: bool = False) -> Workload:
    """Mixing under a dynamic grouping: of the dictionary only what the gates leave is read.

    Backward also what a single gate of zero leaves out, for the gates; gradients are written whole.
    """
    d, blocks = dictionary, 1 << len(gates)
    geometry = d.geometry(1, d.out_channels, d.in_channels, True)
    code = random(d.shots, of=sum_dtype(d.dtype))
    values = memory(torch.tensor(gates, dtype=torch.float64), sum_dtype(d.dtype))
    job = (DTYPES[d.dtype], geometry, d.stored(d.weight), code, values, d.out_channels // blocks, geometry[4] // blocks)
    copy, closed = d.active[0].numel(), gates.count(0)
    in_use = copy >> closed
    if not backward:
        least = d.dtype.itemsize * (d.shots * in_use + copy)
        return Workload("dynamic_group_weight", lambda module: module.dynamic_group_weight(job), least)
    grad = random(copy, of=d.dtype)
    least = d.dtype.itemsize * ((d.shots + 1) * (1 + closed) * in_use + d.shots * copy)
    needs = True, True, True
    return Workload(
        "dynamic_group_weight", lambda module: module.dynamic_group_weight_backward(job, grad, *needs), least
    )


def _update(dictionary: Dictionary, uses: int, operator: str, kept: int, settings: list[float]) -> Workload:
    """The update of all copies, of each of which so many tensors are kept.

    From so many compact gradients, or from a dense one if there is none.
    """
    d, sums = dictionary, sum_dtype(dictionary.dtype)
    size, whole_rows = d.weight.numel(), not d.whole and uses > 0
    _, _, rows, _, run_length, *_ = d.geometry(1, d.out_channels, d.in_channels, whole_rows)
    used = [(random(d.shots, of=sums), None, random(d.active[0].numel(), of=d.dtype), rows, run_length)] * uses
    dense = None if uses else random(size, of=d.dtype)
    geometry = d.geometry(1, d.weight.shape[1], d.weight.shape[2], whole_rows)
    slots = 1 if operator == "sgd" else 3
    states = tuple(memory(torch.rand(size).double(), d.dtype) if i < kept else None for i in range(slots))
    job = (DTYPES[d.dtype], geometry, d.stored(d.weight), states, dense, used, False, settings)
    least = d.dtype.itemsize * ((2 + 2 * kept) * size + (0 if uses else size) + uses * d.active[0].numel())
    name = f"{operator}_update"
    return Workload(name, lambda module: getattr(module, name)([job]), least)


def sgd(dictionary: Dictionary, uses: int) -> Workload:
    """With momentum."""
    return _update(dictionary, uses, "sgd", 1, [0.1, 0.9, 0.0, 1e-4, True])


def adamw(dictionary: Dictionary, uses: int, amsgrad: bool = False) -> Workload:
    """With both moments, and the largest second one if asked for."""
    return _update(dictionary, uses, "adamw", 2 + amsgrad, [3.0, 0.1, 0.9, 0.999, 1e-8, 1e-4])


class _BatchNorm:
    """What batch norm and its backward share: an input [positions, channels] that ReLU follows."""

    def __init__(self, positions: int, channels: int, dtype: torch.dtype, residual: bool) -> None:
        self.dtype = DTYPES[dtype]
        self.input, self.grad = (random(positions, channels, of=dtype) for _ in range(2))
        other = random(positions, channels, of=dtype) if residual else None
        one = np.ones(channels, dtype=np.float32)
        self.arguments = (self.dtype, 1, 1, 1e-5, self.input, other, one, one, one, one)
        self.tensor_bytes = dtype.itemsize * positions * channels


def batch_norm(positions: int, channels: int, dtype: torch.dtype, *, residual: bool = False) -> Workload:
    """Moments, then normalisation, residual and activation."""
    problem = _BatchNorm(positions, channels, dtype, residual)

    def run(module: Emulated) -> None:
        module.moments(problem.dtype, problem.input)
        module.forward(problem.arguments)

    return Workload("batch_norm_act", run, (3 + residual) * problem.tensor_bytes)


def batch_norm_backward(positions: int, channels: int, dtype: torch.dtype, *, residual: bool = False) -> Workload:
    """Sums, then the gradients of input and residual."""
    problem = _BatchNorm(positions, channels, dtype, residual)
    return Workload(
        "batch_norm_act",
        lambda module: module.backward(problem.arguments, problem.grad, True, residual),
        (5 + 3 * residual) * problem.tensor_bytes,
    )


def alignment(count: int, rows: int, columns: int, band: int, backward: bool = False) -> Workload:
    """Pairs of sequences of points in the plane: each read once, and a path written, or read, of 16 bytes a step."""
    p, t = (random(count, size, 2, of=torch.float32) for size in (rows, columns))
    points, path = p.nbytes + t.nbytes, 16 * count * (rows + columns - 1)
    if not backward:
        return Workload(
            "dtw_align",
            lambda module: module.dtw_align(p, t, None, None, band, False),
            points + path + SUM_BYTES * count,
        )
    pairs = np.stack([np.minimum(np.arange(rows + columns - 1), size - 1) for size in (rows, columns)], -1)
    pairs[max(rows, columns) :] = -1  # the diagonal, then straight on
    grad, paths = random(count, of=torch.float32), np.broadcast_to(pairs, (count, *pairs.shape)).copy()
    run = lambda module: module.dtw_align_backward(grad, p, t, paths, False, True, True)  # noqa: E731
    return Workload("dtw_align", run, 2 * points + path)


def depthwise(case: depthwise_cases.Case, direction: str) -> Workload:
    """`direction`: "conv2d", "input_gradient" or "weight_gradient" (of the mixed taps, per sample as the code is)."""
    problem, per_sample = depthwise_cases.Problem(case), case.code == "sample"
    element = depthwise_cases.DTYPES[case.dtype].itemsize
    images = element * (problem.input.numel() + problem.grad.numel())
    if direction == "weight_gradient":
        sums = (case.batch if per_sample else 1) * case.channels * (case.taps + 1)
        least = images + SUM_BYTES * sums
        return Workload("depthwise_conv2d", lambda module: problem.run_weight_gradient(module, per_sample), least)
    least = images + element * problem.dictionary.numel()
    return Workload("depthwise_conv2d", getattr(problem, f"run_{direction}"), least)


def chained(link: chain_cases.Link, direction: str) -> Workload:
    """`direction`: "forward", with moments, or "backward", of input, weight and norm.

    A depthwise link makes all gradients in one walk. A dense one makes those of input and weight apart, so it must read
    g, y and x twice.
    """
    problem, dense = chain_cases.Problem(link), isinstance(link.conv, chain_cases.DenseCase)
    element = chain_cases.element_type(link.conv).itemsize
    input, output, dictionary = (t.numel() for t in (problem.x, problem.y, problem.conv.dictionary))
    least = element * (input + output + dictionary)
    if direction == "backward":
        walks = 2 if dense else 1
        of_weight = problem.conv.taps()[0].numel() * (link.conv.out_channels if dense else 1)
        least = element * (input + walks * (input + 2 * output) + dictionary) + SUM_BYTES * of_weight
    return Workload(f"chained_{'dense' if dense else 'depthwise'}", getattr(problem, f"run_{direction}"), least)


def dense(case: dense_cases.Case, direction: str) -> Workload:
    """`direction`: "forward", "input_gradient", "weight_gradient" or "per_sample_gradient"."""
    if direction == "per_sample_gradient":
        case = replace(case, code="samples")
    problem = dense_cases.Problem(case)
    element = 4 if case.precision in ("float32", "tf32") else 2
    whole = direction == "input_gradient"  # which is zero where no output depends on the input
    height, width = (axis.input if whole else axis.used for axis in (case.height, case.width))
    images = element * (case.batch * height * width * case.in_channels + problem.grad.numel())
    copy = case.out_channels * case.in_channels * case.height.kernel * case.width.kernel
    least = {
        "weight_gradient": images + SUM_BYTES * copy,
        "per_sample_gradient": images + (element + SUM_BYTES) * case.shots * copy,
    }.get(direction, images + element * case.shots * copy)
    return Workload("dense_conv2d", getattr(problem, f"run_{direction}"), least)
