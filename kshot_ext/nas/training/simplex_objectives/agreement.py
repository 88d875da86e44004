"""Codes that are alike where gradients agree, and differ where they do not."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from kshot_ext.nas.spaces.architecture import Architecture
from kshot_ext.nas.training.gradient_matching import gradient_cosine, path_gradients
from kshot_ext.nas.training.simplex_objectives.objective import Batch, PathLosses, SimplexObjective, StepTools


class Agreement(SimplexObjective):
    """Paths whose gradients on the weights that both use agree should share copies, others should not:

        L = -mean over pairs i, j of z_ij * <code_i, code_j>,   z_ij = (cos(g_i, g_j) - mean) / deviation

    g is the gradient with respect to the effective weights, on one batch. Why the inner product of codes: a step of
    path i by rate r moves copy k by ``-r code_i[k] g_i``, hence the weight of path j by ``-r <code_i, code_j> g_i``,
    and its loss by ``-r <code_i, code_j> <g_i, g_j>``. So codes say how much of a step another path feels, and
    gradients whether it helps or hurts. Cosines, since large gradients belong to poor paths, which should not decide.

    Nearly all gradients agree somewhat. Without the mean, all paths would do best to move into one copy, where steps
    are longest; with it, paths that agree less than most part. (As the modularity of a graph compares the links within
    a group with those to expect, Newman, PNAS 2006.) Division by the deviation makes the term as large as the
    penalties, whatever the network. Both are over the pairs seen so far, and forget exponentially; z counts as a
    constant in the gradient.

    With codes per layer, z and its statistics are those of each layer, over pairs that share an operation there, and L
    is the mean over layers. Pairs without a common weight say nothing.

    To group networks by agreement of gradients is from Hu et al., "Generalizing Few-Shot NAS with Gradient Matching",
    ICLR 2022, who split a supernet by it; soft codes for it are ours. It cannot part codes that are all alike.
    """

    compares_paths = True
    parts_equal_codes = False

    def backward(self, paths: Sequence[Architecture], batches: Iterator[Batch], tools: StepTools) -> float:
        losses, batch = PathLosses(tools), next(batches)
        codes = tools.simplex_net(paths)
        gradients = []
        for path, code in zip(paths, codes.detach()):
            share = losses.add(path, code, batch)
            gradients.append(path_gradients(tools.supernet, path, share, tools.gradient_steps, tools.processes))
        losses.whole()
        one, other = torch.triu_indices(len(paths), len(paths), 1).tolist()  # all pairs
        groups = [None] if codes.dim() == 2 else [set(layer.parameters()) for layer in tools.supernet.layers]
        cosines = [[gradient_cosine(gradients[i], gradients[j], group) for group in groups] for i, j in zip(one, other)]
        weights = self.weigh(torch.tensor(cosines, dtype=torch.float64))
        rows = codes if codes.dim() == 3 else codes[:, None]  # [n, L or 1, K]
        likeness = (rows[one] * rows[other]).sum(dim=2)
        # Each process knows the whole gradients already, so it adds its part of the same objective.
        tools.gradient_steps.backward(-(weights.to(rows) * likeness).mean() / tools.processes.size)
        return losses.mean()

    def weigh(self, cosines: Tensor) -> Tensor:
        """z of pairs of paths by their cosines in G groups of weights, NaN where there is none; these are then seen.

        Args:
            cosines: float64 ``[pairs, G]``.

        Returns:
            float64 ``[pairs, G]``, 0 where there is no cosine, or they have all been the same.
        """
        known = cosines.isfinite()
        values = cosines.where(known, 0.0)
        sums = self.remember(torch.stack([known.double(), values, values.square()]).sum(dim=1))
        mean, square = sums[1:] / sums[0].clamp(min=1e-9)
        variance = square - mean.square()
        weights = (values - mean) / variance.clamp(min=1e-12).sqrt()
        return weights.where(known & (variance > 1e-12), 0.0)
