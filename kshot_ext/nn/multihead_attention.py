"""K-shot attention: `torch.nn.MultiheadAttention` with K copies of its projections."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear

from kshot_ext.nn.code import KShotModule
from kshot_ext.nn.conversions import register_conversion
from kshot_ext.nn.linear import KShotLinear
from kshot_ext.nn.mixed import KShotMixed, mixed_parameters, plain_layer


class KShotMultiheadAttention(KShotMixed):
    """`torch.nn.MultiheadAttention` with K copies of each projection, `[K, ...]`.

    `forward(query, key, value, ..., code=None)` takes torch's arguments and gives torch's results. It mixes, then calls
    torch, whose forward reads the weight of `out_proj` itself: that is a `KShotLinear`, mixed with the same code.
    A code is `[K]`: whether the batch comes first is not the layer's to know, and its samples share one projection.

    Args:
        num_shots: K, the number of copies; all other arguments are those of `torch.nn.MultiheadAttention`.

    Raises:
        ValueError: of `forward`, if there is a code for each sample.

    Example:
        >>> import torch
        >>> layer = KShotMultiheadAttention(8, 2, batch_first=True, num_shots=3)
        >>> x = torch.randn(4, 5, 8)
        >>> layer(x, x, x, code=torch.tensor([1.0, 0.0, 0.0]))[0].shape
        torch.Size([4, 5, 8])
    """

    plain = nn.MultiheadAttention
    parts_read = frozenset({"out_proj"})

    def __init__(self, *arguments: Any, num_shots: int = 8, **named: Any) -> None:
        super().__init__(*arguments, num_shots=num_shots, **named)
        own = self.out_proj
        has_bias, device, dtype = own.bias is not None, own.weight.device, own.weight.dtype
        self.out_proj = KShotLinear(own.in_features, own.out_features, has_bias, device, dtype, num_shots)
        self.out_proj.plain = type(own)
        if has_bias:  # as torch starts it
            nn.init.zeros_(self.out_proj.bias)

    def reset_parameters(self) -> None:
        """Start each copy as torch's layer starts."""
        for plain in self.copies():
            plain._reset_parameters()

    def mixed(self, code: Tensor | None = None) -> nn.Module:
        attention = super().mixed(code)
        projection = self.out_proj
        if isinstance(projection, KShotModule):
            parameters = mixed_parameters(projection, ("weight", "bias"), code)
            parts = {**vars(attention)["_modules"], "out_proj": plain_layer(projection, parameters)}
            vars(attention)["_modules"] = parts
        return attention


register_conversion(nn.MultiheadAttention, KShotMultiheadAttention.from_plain, KShotMultiheadAttention.to_plain)
register_conversion(NonDynamicallyQuantizableLinear, KShotLinear.from_plain, KShotLinear.to_plain)
