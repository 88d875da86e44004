"""Which form `algorithm="auto"` took, seen by running it."""

from __future__ import annotations

from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.forms import Form


class _Operators(TorchDispatchMode):
    """Names of the operators that run inside."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, function: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        self.names.add(function.name())
        return function(*args, **(kwargs or {}))


def chosen_algorithm(form: Form) -> str:
    """What a form that convolves did: "fused", "mix_then_conv", or "stacked", all copies on all samples.

    What mixes first ends in a convolution or, 1x1 with a code per sample on CUDA, in a batched product.
    """
    with _Operators() as operators:
        form.result()
    if any(name.startswith("kshot_ext::") and name.endswith("conv2d") for name in operators.names):
        return "fused"
    # To apply all copies takes one product of matrices, and no convolution.
    stacked = "aten::mm" in operators.names and "aten::convolution" not in operators.names
    return "stacked" if stacked else "mix_then_conv"
