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

    What mixes first has an effective weight.
    """
    with _Operators() as operators:
        form.result()
    if any(name.startswith("kshot_ext::") and name.endswith("conv2d") for name in operators.names):
        return "fused"
    mixed = any("effective_weight" in name or name == "aten::convolution" for name in operators.names)
    return "mix_then_conv" if mixed else "stacked"
