"""A linear map of which each call uses the leading features, as once-for-all's `DynamicLinear`."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kshot_ext.nn.linear import KShotLinear
from kshot_ext.nn.narrowing import Sliced, Widths, filled, require_at_most


class DynamicLinear(Sliced):
    """Linear map whose widths a call chooses: the input's features, and the first `active_out_features` outputs.

        y[..., o] = bias[o] + sum_{i < C_in'} weight[o, i] * x[..., i],    o < C_out'

    The product reads the slice where it lies. The parameters are `linear.weight` and `linear.bias`, as in once-for-all.

    Args:
        max_in_features, max_out_features: features of the whole layer.
        bias: whether there is one.
        num_shots: K copies of the parameters, mixed by the code that `kshot_ext.set_code` gives; default: plain ones.

    Attributes:
        active_out_features: the output width of calls that name none.

    `forward(x, out_features=None)`: `[N, ..., C_in']` to `[N, ..., C_out']`.

    Raises:
        ValueError: if a width is out of range.

    Example:
        >>> DynamicLinear(8, 16)(torch.randn(2, 5), out_features=3).shape
        torch.Size([2, 3])

    Paper: once-for-all, arXiv 1908.09791.
    """

    plain = nn.Linear

    def __init__(
        self,
        max_in_features: int,
        max_out_features: int,
        bias: bool = True,
        *,
        num_shots: int | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.max_in_features, self.max_out_features, self.bias = max_in_features, max_out_features, bias
        arguments = max_in_features, max_out_features, bias, device, dtype
        self.linear = nn.Linear(*arguments) if num_shots is None else KShotLinear(*arguments, num_shots=num_shots)
        self.active_out_features = max_out_features

    def forward(self, x: Tensor, out_features: int | None = None) -> Tensor:
        width = self.active_out_features if out_features is None else out_features
        self.require_inputs(x.shape[-1])
        if isinstance(self.linear, KShotLinear):
            output: Tensor = self.linear(x, out_features=width)
            return output
        if not (1 <= x.shape[-1] <= self.max_in_features and 1 <= width <= self.max_out_features):
            raise ValueError(
                f"expected an input of 1 to {self.max_in_features} features and out_features of 1 to "
                f"{self.max_out_features}, got input {list(x.shape)} and out_features={width}"
            )
        return F.linear(x, self.get_active_weight(width, x.shape[-1]), self.get_active_bias(width))

    def get_active_weight(self, out_features: int, in_features: int) -> Tensor:
        """The weight of these widths, `[C_out', C_in']`, a view; of K copies all of them."""
        return self.linear.weight[..., :out_features, :in_features]

    def get_active_bias(self, out_features: int) -> Tensor | None:
        """The bias of this width, a view; of K copies all of them."""
        return None if self.linear.bias is None else self.linear.bias[..., :out_features]

    def fix_like(self, plain: nn.Linear) -> None:
        widths = Widths(plain.in_features, plain.out_features)
        require_at_most(Widths(self.max_in_features, self.max_out_features), widths)
        if (plain.bias is None) != (self.linear.bias is None):
            raise ValueError(f"bias: expected {self.linear.bias is not None}, got {plain.bias is not None}")
        self.widths, self.active_out_features = widths, widths.outputs

    def to_plain(self) -> nn.Linear:
        inputs, outputs = self.fixed_widths
        layer = nn.Linear(inputs, outputs, self.linear.bias is not None, device="meta")
        values = {"weight": self.get_active_weight(outputs, inputs), "bias": self.get_active_bias(outputs)}
        return filled(layer, values, self.linear.weight, self.training)

    def extra_repr(self) -> str:
        return f"active_out_features={self.active_out_features}"
