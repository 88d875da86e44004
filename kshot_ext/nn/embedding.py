"""K-shot embedding: `torch.nn.Embedding` with K tables."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kshot_ext.nn.code import by_samples
from kshot_ext.nn.conversions import register_conversion
from kshot_ext.nn.mixed import KShotMixed, mixed_tensors

if TYPE_CHECKING:
    from typing_extensions import Self


class KShotEmbedding(KShotMixed):
    """`torch.nn.Embedding` with K copies of the table, `[K, num_embeddings, embedding_dim]`.

        y[n, ...] = table[n, index[n, ...]],    table[n] = sum_k code[n, k] * weight[k]

    `forward(input, code=None)`: a code is `[K]`, or `[N, K]` for one row per sample, the first dimension of the input.
    A code for all mixes the tables, then calls torch; one per sample mixes the rows that were looked up.

    Args:
        num_shots: K, the number of copies; all other arguments are those of `torch.nn.Embedding`.

    Raises:
        ValueError: for `max_norm`, which would change the rows of a mixed table, and for `sparse`, whose gradients
            have no copies.

    Example:
        >>> import torch
        >>> KShotEmbedding(10, 4, num_shots=2)(torch.tensor([[1, 2, 3]]), torch.tensor([0.5, 0.5])).shape
        torch.Size([1, 3, 4])
    """

    plain = nn.Embedding
    weight: nn.Parameter
    padding_idx: int | None
    scale_grad_by_freq: bool

    def __init__(self, *arguments: Any, num_shots: int = 8, **named: Any) -> None:
        super().__init__(*arguments, num_shots=num_shots, **named)
        _require_dense(self)

    @classmethod
    def from_plain(cls, layer: nn.Module, num_shots: int) -> Self:
        _require_dense(layer)
        return super().from_plain(layer, num_shots)

    def row_axes(self, input: Tensor) -> range:
        return range(input.dim())

    @by_samples
    def forward(self, input: Tensor, code: Tensor | None = None) -> Tensor:
        code = self.resolve_code(code)
        how: dict[str, Any] = {"padding_idx": self.padding_idx, "scale_grad_by_freq": self.scale_grad_by_freq}
        if code.dim() == 1:
            (weight,) = mixed_tensors([self.weight], code)
            return F.embedding(input, weight, **how)
        if input.dim() == 0 or len(code) != len(input):
            raise ValueError(f"a code per sample must have as many rows as input {list(input.shape)}, got {len(code)}")
        rows = [F.embedding(input, table, **how) for table in self.weight]
        shares = code.to(rows[0].dtype).unbind(1)
        parts = (share.reshape(-1, *(1,) * input.dim()) * row for share, row in zip(shares, rows))
        return functools.reduce(torch.add, parts)

    def settle_copies(self) -> None:
        if self.padding_idx is not None:  # the row of padding gets no gradient, so it would keep its noise
            self.weight.detach()[1:, self.padding_idx] = self.weight.detach()[0, self.padding_idx]


def _require_dense(layer: nn.Module) -> None:
    for name in ("max_norm", "sparse"):
        if getattr(layer, name):
            raise ValueError(f"an embedding with {name}={getattr(layer, name)} has no K-shot form")


register_conversion(nn.Embedding, KShotEmbedding.from_plain, KShotEmbedding.to_plain)
