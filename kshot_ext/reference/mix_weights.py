"""Mixed weights of many dictionaries under one code."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from kshot_ext.reference.effective_weight import effective_weight


def mix_weights(
    weights: Sequence[Tensor],  # each [K, C_out, ...]
    code: Tensor,  # [K] or [N, K]
) -> list[Tensor]:  # each [C_out, ...] or [N, C_out, ...]
    return [effective_weight(weight, code) for weight in weights]
