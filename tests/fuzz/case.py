"""One call of an operator as plain data, which JSON can keep, and the tensors that come of it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import torch
from calls import draw
from torch import Tensor

DTYPES = {
    "float32": torch.float32,
    "float64": torch.float64,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}


@dataclass(frozen=True)
class Case:
    """A call. Tensors are named as the operator's arguments; "cotangent" is the gradient of its outputs.

    Args:
        operator: a name in `operators.OPERATORS`.
        sizes: what the operator's shapes and options are made of.
        dtype: of input and dictionary.
        parameter_dtype: of code and gate; empty: `dtype`.
        values: kind of the values of a tensor, see `_VALUES`; "normal" where none is named.
        layouts: how a tensor lies in memory, see `_LAYOUTS`; "contiguous" where none is named.
        constant: names of tensors that need no gradient.
        seed: of all values.
        threads, instruction_set: that the kernels run on.
    """

    operator: str
    sizes: dict[str, Any]
    dtype: str = "float32"
    parameter_dtype: str = ""
    values: dict[str, str] = field(default_factory=dict)
    layouts: dict[str, str] = field(default_factory=dict)
    constant: list[str] = field(default_factory=list)
    seed: int = 0
    threads: int = 1
    instruction_set: str = "auto"

    @classmethod
    def of_json(cls, text: str) -> Case:
        return cls(**json.loads(text))

    def __repr__(self) -> str:  # what hypothesis prints of a failing example, and what `python -m tests.fuzz` takes
        plain = {f.name: getattr(self, f.name) for f in fields(self)}
        default = asdict(Case("", {}))
        return json.dumps({name: value for name, value in plain.items() if value != default[name]})

    def tensor(self, name: str, shape: tuple[int, ...], dtype: torch.dtype, number: int) -> Tensor:
        """The tensor `name`, whose values depend on the seed and on its number."""
        generator = torch.Generator("cpu").manual_seed(1000 * self.seed + number)
        drawn = _VALUES[self.values.get(name, "normal")](draw(generator, *shape), generator, dtype).to(dtype)
        return _LAYOUTS[self.layouts.get(name, "contiguous")](drawn)


def _one_hot(values: Tensor, generator: torch.Generator, dtype: torch.dtype) -> Tensor:
    return torch.zeros_like(values).scatter_(-1, values.argmax(-1, keepdim=True), 1.0) if values.numel() else values


def _spread(values: Tensor, generator: torch.Generator, dtype: torch.dtype) -> Tensor:
    exponents = torch.randint(-4, 5, values.shape, generator=generator)
    return values * 2.0**exponents


def _drift(values: Tensor, generator: torch.Generator, dtype: torch.dtype) -> Tensor:
    """Each row has another mean."""
    steps = torch.arange(len(values), dtype=values.dtype)
    return values + 4.0 * steps.reshape(-1, *(1,) * (values.dim() - 1))


def _huge(values: Tensor, generator: torch.Generator, dtype: torch.dtype) -> Tensor:
    return values * (100.0 if dtype == torch.float16 else 1e15)


def _denormal(values: Tensor, generator: torch.Generator, dtype: torch.dtype) -> Tensor:
    return values * torch.finfo(dtype).tiny / 4


def _some(values: Tensor, generator: torch.Generator, what: float, least: int = 8) -> Tensor:
    """Values of which one in `least`, one at least, is `what` or its negative."""
    if values.numel() == 0:
        return values
    chosen = torch.randperm(values.numel(), generator=generator)[: (values.numel() + least - 1) // least]
    flat = values.flatten().clone()
    flat[chosen] = what * (1.0 - 2.0 * (flat[chosen] < 0).double())
    return flat.reshape(values.shape)


_VALUES = {
    "normal": lambda values, generator, dtype: values,
    "simplex": lambda values, generator, dtype: values.softmax(-1) if values.numel() else values,
    "one_hot": _one_hot,
    "binary": lambda values, generator, dtype: (values > 0).to(values.dtype),
    "zero": lambda values, generator, dtype: torch.zeros_like(values),
    "negative": lambda values, generator, dtype: -values.abs(),
    "positive": lambda values, generator, dtype: values.abs() + 0.125,
    "constant": lambda values, generator, dtype: torch.full_like(values, 0.75),
    "integers": lambda values, generator, dtype: values.mul(2).round(),
    "offset": lambda values, generator, dtype: values + 100.0,
    "drift": _drift,
    "small": lambda values, generator, dtype: values / 64.0,
    "large": lambda values, generator, dtype: values * 64.0,
    "spread": _spread,
    "huge": _huge,
    "denormal": _denormal,
    "nan": lambda values, generator, dtype: _some(values, generator, torch.nan),
    "infinite": lambda values, generator, dtype: _some(values, generator, torch.inf),
    "one_nan": lambda values, generator, dtype: _some(values, generator, torch.nan, max(1, values.numel())),
    "one_infinite": lambda values, generator, dtype: _some(values, generator, torch.inf, max(1, values.numel())),
}


def _permuted(tensor: Tensor, *order: int) -> Tensor:
    """The same values, with the dimensions in another order in memory."""
    inverse = [order.index(d) for d in range(len(order))]
    return tensor.permute(*order).contiguous().permute(*inverse)


def _last(dim: int, tensor: Tensor) -> Tensor:
    if tensor.dim() <= dim:
        return tensor
    return _permuted(tensor, *(d for d in range(tensor.dim()) if d != dim), dim)


def _sliced(tensor: Tensor) -> Tensor:
    """A view into a larger tensor: an offset, gaps, every second element of the last dimension; NaN around it."""
    larger = tensor.new_full([*(size + 2 for size in tensor.shape[:-1]), 2 * tensor.shape[-1] + 1], torch.nan)
    return larger[(*(slice(1, 1 + size) for size in tensor.shape[:-1]), slice(1, None, 2))].copy_(tensor)


def _offset(tensor: Tensor) -> Tensor:
    """Contiguous, from the second element of its storage on: no vector is aligned."""
    storage = tensor.new_full((tensor.numel() + 1,), torch.nan)
    return storage[1:].reshape(tensor.shape).copy_(tensor)


def _expanded(dim: int, tensor: Tensor) -> Tensor:
    if tensor.dim() == 0 or tensor.shape[dim] == 0:
        return tensor
    return tensor.narrow(dim, 0, 1).expand_as(tensor)


def _overlapping(tensor: Tensor) -> Tensor:
    """Windows of one line: all strides are one."""
    if tensor.numel() == 0:
        return tensor
    needed = sum(size - 1 for size in tensor.shape) + 1
    return tensor.flatten()[:needed].clone().as_strided(tensor.shape, (1,) * tensor.dim())


_LAYOUTS = {
    "contiguous": lambda tensor: tensor,
    "second_last": lambda tensor: _last(1, tensor),  # channels_last of images
    "third_last": lambda tensor: _last(2, tensor),  # channels_last of the copies of a dictionary
    "reversed": lambda tensor: _permuted(tensor, *reversed(range(tensor.dim()))) if tensor.dim() else tensor,
    "sliced": lambda tensor: _sliced(tensor) if tensor.dim() else tensor,
    "offset": _offset,
    "expanded": lambda tensor: _expanded(0, tensor),
    "expanded_last": lambda tensor: _expanded(-1, tensor),
    "overlapping": _overlapping,
}
VALUES, LAYOUTS = tuple(_VALUES), tuple(_LAYOUTS)
# Those in which every element has a place of its own, so that tensors can be written in place.
OWN_PLACES = ("contiguous", "second_last", "third_last", "reversed", "sliced", "offset")
