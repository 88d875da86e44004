"""Mixed weights of many dictionaries under one code."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from kshot_ext.reference.effective_weight import effective_weight


def mix_weights(
    weights: Sequence[Tensor],
    code: Tensor,
) -> list[Tensor]:
    """Mix each of many dictionaries with one code.

        mixed[l][o, i] = sum_k code[k] * weights[l][k, o, i]

    Args:
        weights: dictionaries, `[K, C_out, ...]` each.
        code: `[K]` or `[N, K]`.

    Returns:
        A tensor `[C_out, ...]` or `[N, C_out, ...]` for each.

    Example:
        >>> mix_weights([torch.tensor([[1.0], [3.0]])], torch.tensor([0.5, 0.5]))
        [tensor([2.])]
    """
    return [effective_weight(weight, code) for weight in weights]
