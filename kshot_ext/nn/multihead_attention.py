"""K-shot attention: `torch.nn.MultiheadAttention` with K copies of its projections."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear

from kshot_ext.nn.code import KShotModule
from kshot_ext.nn.conversions import register_conversion
from kshot_ext.nn.linear import KShotLinear
from kshot_ext.nn.mixed import KShotMixed, mixed_parameters, plain_layer


class KShotMultiheadAttention(KShotMixed):
    """`torch.nn.MultiheadAttention` with K copies of each projection, `[K, ...]`.

    `forward(query, key, value, ..., code=None)` takes torch's arguments and gives torch's results. It mixes, then calls
    torch, whose forward reads the weight of `out_proj` itself: that is a `KShotLinear`, mixed with the same code.
    A code is `[K]`, or `[N, K]` for one row per sample of a batch, which `batch_first` says where to find: then torch
    runs under `torch.func.vmap`, each sample with projections of its own.

    Args:
        num_shots: K, the number of copies; all other arguments are those of `torch.nn.MultiheadAttention`.

    Raises:
        ValueError: of `forward`, if there is a code for each sample, and the input is no batch.

    Example:
        >>> import torch
        >>> layer = KShotMultiheadAttention(8, 2, batch_first=True, num_shots=3)
        >>> x = torch.randn(4, 5, 8)
        >>> layer(x, x, x, code=torch.tensor([1.0, 0.0, 0.0]))[0].shape
        torch.Size([4, 5, 8])
    """

    plain = nn.MultiheadAttention
    parts_read = frozenset({"out_proj"})
    out_proj: Any  # a plain linear map of torch's, or the K-shot one
    batch_first: bool
    num_heads: int

    def __init__(self, *arguments: Any, num_shots: int = 8, **named: Any) -> None:
        super().__init__(*arguments, num_shots=num_shots, **named)
        own = self.out_proj
        has_bias, device, dtype = own.bias is not None, own.weight.device, own.weight.dtype
        self.out_proj = KShotLinear(own.in_features, own.out_features, has_bias, device, dtype, num_shots)
        self.out_proj.plain = type(own)
        if has_bias:  # as torch starts it
            nn.init.zeros_(self.out_proj.bias)

    def row_axes(self, input: Tensor) -> range:
        first = 0 if self.batch_first else 1
        return range(first, first + 1)

    def forward(  # type: ignore[override]  # takes what attention takes
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
        code: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        if code is None:
            code = self.code_of_rows(query)
        how = {"need_weights": need_weights, "average_attn_weights": average_attn_weights, "is_causal": is_causal}
        if code is None or code.dim() == 1:
            attended: tuple[Tensor, Tensor | None] = self.mixed(code).forward(
                query, key, value, key_padding_mask, attn_mask=attn_mask, **how
            )
            return attended
        return self._attend_per_sample(code, query, key, value, key_padding_mask, attn_mask, how)

    def _attend_per_sample(
        self,
        code: Tensor,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None,
        attn_mask: Tensor | None,
        how: dict[str, bool],
    ) -> tuple[Tensor, Tensor | None]:
        if query.dim() != 3:
            raise ValueError(f"a code per sample needs a batch of queries, 3 dimensions, got {list(query.shape)}")
        batch = self.row_axes(query).start
        if len(code) != query.shape[batch]:
            raise ValueError(f"a code per sample must have N = {query.shape[batch]} rows like query, got {len(code)}")
        masks: dict[str, Tensor | None] = {"attn_mask": attn_mask}
        mask_axes: dict[str, int | None] = {"attn_mask": None}
        if attn_mask is not None and attn_mask.dim() == 3:  # one for each sample and head
            masks, mask_axes = {"attn_mask": attn_mask.unflatten(0, (len(code), self.num_heads))}, {"attn_mask": 0}
        if key_padding_mask is not None:
            masks["key_padding_mask"], mask_axes["key_padding_mask"] = key_padding_mask[:, None], 0

        def attend(
            code: Tensor, inputs: tuple[Tensor, ...], masks: dict[str, Tensor | None]
        ) -> tuple[Tensor, Tensor | None]:
            one = (input.unsqueeze(batch) for input in inputs)
            output, weights = self.mixed(code).forward(*one, **masks, **how)
            return output.squeeze(batch), None if weights is None else weights[0]

        axes = (0, (batch, batch, batch), mask_axes)
        with sdpa_kernel(SDPBackend.MATH):  # the one that vmap has rules for
            out_axes: Any = (batch, 0 if how["need_weights"] else None)
            attended: tuple[Tensor, Tensor | None] = torch.func.vmap(attend, axes, out_axes)(
                code, (query, key, value), masks
            )
        return attended

    def reset_parameters(self) -> None:
        """Start each copy as torch's layer starts."""
        plain: Any
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
