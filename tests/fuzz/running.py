"""Runs an operator forward and backward."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from .case import Case

Results = dict[str, Tensor]
Change = Callable[[str, Tensor], Tensor]


@contextmanager
def machine(case: Case) -> Iterator[None]:
    """The threads and the instruction set of a case; the best one where this processor has not that one."""
    threads = torch.get_num_threads()
    torch.set_num_threads(case.threads)
    if not torch.ops.kshot_ext.force_cpu_isa(case.instruction_set):
        torch.ops.kshot_ext.force_cpu_isa("auto")
    try:
        yield
    finally:
        torch.ops.kshot_ext.force_cpu_isa("auto")
        torch.set_num_threads(threads)


def cotangents(case: Case, outputs: list[Tensor]) -> list[Tensor]:
    """Gradients of the outputs."""
    return [case.tensor("cotangent", tuple(o.shape), o.dtype, 100 + i) for i, o in enumerate(outputs)]


def run(
    function: Callable[..., Any],
    tensors: dict[str, Tensor],
    options: dict[str, Any],
    constant: list[str],
    of_outputs: Callable[[list[Tensor]], list[Tensor]],
) -> Results:
    """Outputs and gradients by name; a tensor that autograd does not reach has a gradient of zeros."""
    leaves = {name: t.detach().requires_grad_(name not in constant) for name, t in tensors.items()}
    output = function(**leaves, **options)
    outputs = [output] if isinstance(output, Tensor) else list(output)
    results = {f"output {i}": output.detach() for i, output in enumerate(outputs)}
    wanted = {name: leaf for name, leaf in leaves.items() if leaf.requires_grad}
    pairs = [(o, c) for o, c in zip(outputs, of_outputs(outputs)) if o.requires_grad]
    if not wanted or not pairs:
        return results
    reached, gradients = zip(*pairs)
    found = torch.autograd.grad(reached, list(wanted.values()), gradients, allow_unused=True)
    for (name, leaf), gradient in zip(wanted.items(), found):
        results[f"gradient of {name}"] = torch.zeros_like(leaf) if gradient is None else gradient
    return results
