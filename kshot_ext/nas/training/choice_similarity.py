"""Which choices of a space train the same weights together."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from kshot_ext.nas.networks.calibration import Batches
from kshot_ext.nas.networks.supernet import Supernet, path_loss
from kshot_ext.nas.spaces.architecture import Architecture
from kshot_ext.nas.spaces.space import SearchSpace
from kshot_ext.nas.task import CLASSIFICATION, Task
from kshot_ext.nas.training.data_parallel import DataParallel
from kshot_ext.nas.training.gradient_matching import PathGradients, gradient_cosine, path_gradients
from kshot_ext.nas.training.gradient_steps import GradientSteps


def choice_similarities(
    supernet: Supernet,
    code: Tensor,
    batches: Batches,
    generator: torch.Generator,
    gradient_steps: GradientSteps,
    processes: DataParallel,
    label_smoothing: float = 0.0,
    task: Task = CLASSIFICATION,
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
        gradient_steps: the precision to compute in.
        processes: those that share each batch.
        label_smoothing: of the loss.
        task: what labels mean.

    Returns:
        For each gene, the layers' operations first, then the widths, a matrix float32 ``[C, C]`` of its C choices, on
        the CPU; 0 where a choice has no gradient.
    """
    space, batches = supernet.space, list(batches)
    paths = [space.genes(space.sample(generator)) for _ in batches]
    kept = {name: buffer.clone() for name, buffer in supernet.named_buffers()}

    def gradients(path: Architecture, images: Tensor, labels: Tensor) -> PathGradients:
        images, labels, share = processes.part(images, labels)
        with gradient_steps.autocast():
            loss, _ = path_loss(supernet, path, code, images, labels, label_smoothing, task)
        return path_gradients(supernet, path, share * loss, gradient_steps, processes)

    similarities = []
    for gene, num_choices in enumerate(space.num_choices):
        own = set(supernet.layers[gene].parameters()) if gene < space.num_layers else set()
        sums: list[PathGradients] = []
        for choice in range(num_choices):
            found = [gradients(_with_choice(space, genes, gene, choice), *b) for genes, b in zip(paths, batches)]
            sums.append(_sum(found, own))
        similarities.append(_cosines(sums))
    with torch.no_grad():
        for name, buffer in supernet.named_buffers():
            buffer.copy_(kept[name])
    return similarities


def _with_choice(space: SearchSpace, genes: Sequence[int], gene: int, choice: int) -> Architecture:
    return space.from_genes([*genes[:gene], choice, *genes[gene + 1 :]])


def _sum(found: Sequence[PathGradients], left_out: set[nn.Parameter]) -> PathGradients:
    parts: dict[nn.Parameter, list[Tensor]] = defaultdict(list)
    for gradients in found:
        for weight, gradient in gradients.items():  # in their order, so that sums are the same in every process
            if weight not in left_out:
                parts[weight].append(gradient)
    return {weight: torch.stack(tensors).sum(dim=0) for weight, tensors in parts.items()}


def _cosines(sums: Sequence[PathGradients]) -> Tensor:
    matrix = torch.eye(len(sums))
    for one in range(len(sums)):
        for other in range(one):
            cosine = gradient_cosine(sums[one], sums[other])
            matrix[one, other] = matrix[other, one] = 0.0 if math.isnan(cosine) else cosine
    return matrix
