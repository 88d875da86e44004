"""Which choices of a space train the same weights together, by their gradients."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from kshot_ext.nas.networks.supernet import Supernet, path_loss
from kshot_ext.nas.spaces.architecture import Architecture
from kshot_ext.nas.spaces.space import SearchSpace


def choice_similarities(
    supernet: Supernet,
    code: Tensor,
    batches: Sequence[tuple[Tensor, Tensor]],
    generator: torch.Generator,
    label_smoothing: float = 0.0,
) -> list[Tensor]:
    """How well the choices of each gene train the weights of all other layers together:

        similarity_ab = cos(g_a, g_b),   g_a = sum over batches of d loss(path with choice a) / d shared weights

    A batch draws one path; all choices of all genes are tried in it, everything else being the same. What belongs to
    the gene's own layer does not count. (Gradient matching of Hu et al., "Generalizing Few-Shot NAS with Gradient
    Matching", ICLR 2022.)

    Args:
        supernet: left unchanged, its running statistics and gradients too.
        code: the code of every path.
        batches: images float32 ``[B, C, H, W]`` and labels int64 ``[B]``; a path each.
        generator: draws the paths.
        label_smoothing: of the loss.

    Returns:
        For each gene, the layers' operations first, then the widths, a matrix float32 ``[C, C]`` of its C choices, on
        the CPU.
    """
    space = supernet.space
    parameters = dict(supernet.named_parameters())
    paths = [space.genes(space.sample(generator)) for _ in batches]
    similarities = []
    with _unchanged_buffers(supernet):
        for gene, num_choices in enumerate(space.num_choices):
            own = f"layers.{gene}." if gene < space.num_layers else None
            shared = [p for name, p in parameters.items() if own is None or not name.startswith(own)]
            gradients = []
            for choice in range(num_choices):
                with_choice = [_with_choice(space, genes, gene, choice) for genes in paths]
                gradients.append(_sum_of_gradients(supernet, code, with_choice, batches, shared, label_smoothing))
            unit = nn.functional.normalize(torch.stack(gradients), dim=1)
            similarities.append((unit @ unit.T).cpu())
    return similarities


def _with_choice(space: SearchSpace, genes: Sequence[int], gene: int, choice: int) -> Architecture:
    return space.from_genes([*genes[:gene], choice, *genes[gene + 1 :]])


def _sum_of_gradients(
    supernet: Supernet,
    code: Tensor,
    paths: Sequence[Architecture],
    batches: Sequence[tuple[Tensor, Tensor]],
    parameters: Sequence[nn.Parameter],
    label_smoothing: float,
) -> Tensor:
    """The gradient by some parameters, in a row; zeros where a parameter has no part in it."""
    total = torch.zeros(sum(parameter.numel() for parameter in parameters), device=parameters[0].device)
    for path, (images, labels) in zip(paths, batches):
        loss, _ = path_loss(supernet, path, code, images, labels, label_smoothing)
        gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
        filled = [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, gradients)]
        total += torch.cat([gradient.flatten() for gradient in filled])
    return total


@contextmanager
def _unchanged_buffers(module: nn.Module) -> Iterator[None]:
    """Batch norm's running statistics are afterwards what they were."""
    kept = {name: buffer.clone() for name, buffer in module.named_buffers()}
    try:
        yield
    finally:
        with torch.no_grad():
            for name, buffer in module.named_buffers():
                buffer.copy_(kept[name])
