"""Stacking K copies into a dictionary, and back."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def stack_shots(copies: Sequence[Tensor] | Tensor) -> Tensor:
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


def perturbed_copies(
    value: Tensor, num_shots: int, perturbation: float, generator: torch.Generator | None
) -> list[Tensor]:
    """A tensor and K - 1 noisy copies: `perturbation` times its root mean square is the size of the noise."""
    scale = perturbation * value.double().square().mean().sqrt()
    copies = [value]
    for _ in range(num_shots - 1):
        noise = torch.randn(value.shape, generator=generator, dtype=torch.float32).to(value.device)
        copies.append(torch.empty_like(value).copy_(value + (scale * noise).to(value.dtype)))
    return copies
