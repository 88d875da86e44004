"""Stacking K copies into a dictionary, and back."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def stack_shots(copies: Sequence[Tensor]) -> Tensor:
    """Dictionary `[K, ...]` of K equally shaped tensors; each copy keeps its memory layout."""
    first = copies[0]
    dictionary = torch.empty_strided(
        (len(copies), *first.shape),
        (first.numel(), *first.stride()),
        dtype=first.dtype,
        device=first.device,
    )
    with torch.no_grad():
        for shot, copy in zip(dictionary, copies):
            shot.copy_(copy)
    return dictionary
