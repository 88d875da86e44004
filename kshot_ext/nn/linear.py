"""K-shot linear module: `torch.nn.Linear` with K copies of weight and bias."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.fx import Proxy

from kshot_ext import functional as KF
from kshot_ext.nn.code import KShotModule
from kshot_ext.nn.conversions import register_conversion
from kshot_ext.nn.shots import stack_shots

if TYPE_CHECKING:
    from typing_extensions import Self


class KShotLinear(KShotModule):
    """`torch.nn.Linear` with K copies: weight `[K, C_out, C_in]`, bias `[K, C_out]`.

    `forward(input, code=None, *, gate=None, out_features=None)` is `kshot_linear` with this layer's dictionaries. As
    torch's layer it takes a single sample `[C_in]`, too.

    Args:
        num_shots: K, the number of copies; all other arguments are those of `torch.nn.Linear`.

    Example:
        >>> KShotLinear(4, 2, num_shots=3)(torch.randn(5, 4), torch.tensor([1.0, 0.0, 0.0])).shape
        torch.Size([5, 2])
    """

    plain = nn.Linear
    weight: nn.Parameter
    bias: nn.Parameter | None

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        num_shots: int = 8,
    ) -> None:
        super().__init__(num_shots)
        self.in_features, self.out_features = in_features, out_features
        self._width: int | None = None
        copies = [nn.Linear(in_features, out_features, bias, device, dtype) for _ in range(num_shots)]
        self.weight = nn.Parameter(stack_shots([copy.weight for copy in copies]))
        if bias:
            self.bias = nn.Parameter(stack_shots([copy.bias for copy in copies]))
        else:
            self.register_parameter("bias", None)

    def forward(
        self,
        input: Tensor,
        code: Tensor | None = None,
        *,
        gate: Tensor | None = None,
        out_features: int | None = None,
    ) -> Tensor:
        if isinstance(input, Proxy):
            return self.leaf_of_graph(input, code=code, gate=gate, out_features=out_features)
        if input.dim() == 1:  # one sample without a batch, as torch's layer takes it
            return self.forward(input[None], code, gate=gate, out_features=out_features)[0]
        if code is None:
            if self._rows is not None:
                return self._rows.call(self, input, self._code, gate=gate, out_features=out_features)
            code = self._code
        if code is None or self.check_code:  # a call that is saved where there is nothing to check
            code = self.resolve_code(code)
        width = self._width if out_features is None else out_features
        return KF.kshot_linear(input, self.weight, code, self.bias, gate=gate, out_features=width)

    def row_axes(self, input: Tensor) -> range:
        return range(input.dim() - 1)

    @classmethod
    def geometry(cls, layer: nn.Module) -> dict[str, Any]:
        return {
            "in_features": layer.in_features,
            "out_features": layer.out_features,
            "bias": layer.bias is not None,
        }

    def narrowed(self, plain: Any) -> Self:
        layer = super().narrowed(plain)
        layer.in_features, layer.out_features = plain.in_features, plain.out_features
        layer._width = plain.out_features
        return layer

    def extra_repr(self) -> str:
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, "
            f"bias={self.bias is not None}, num_shots={self.num_shots}"
        )


register_conversion(nn.Linear, KShotLinear.from_plain, KShotLinear.to_plain)
