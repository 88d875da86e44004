"""Contrastive search without labels: weights and scores come from recognising images in other views of them."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kshot_ext.nas.checks import check_at_least, check_one_of
from kshot_ext.nas.datasets.augmentation import Views
from kshot_ext.nas.methods.method import MethodSettings, Setup
from kshot_ext.nas.methods.parts.path_method import PathMethod
from kshot_ext.nas.methods.parts.several_paths import check_several_paths
from kshot_ext.nas.methods.selection import SelectionTools
from kshot_ext.nas.networks.calibration import Batches
from kshot_ext.nas.networks.evaluation import Scores
from kshot_ext.nas.networks.evaluation_mode import evaluation_mode
from kshot_ext.nas.searchers.generations import SEARCHERS
from kshot_ext.nas.searchers.search_stage import SearchStage
from kshot_ext.nas.spaces.architecture import Architecture
from kshot_ext.nas.spaces.space import SearchSpace
from kshot_ext.nas.stage import Stage
from kshot_ext.nas.training.loop import Step, Stepper


@dataclass(frozen=True, kw_only=True)
class ContrastiveSettings(MethodSettings):
    """The contrastive task.

    Args:
        features: numbers that a network describes a view by.
        temperature: what cosines are divided by.
        search: what proposes architectures, as ``search.method`` does for other methods.

    Raises:
        ValueError: if a value is out of range.
    """

    name: str = "csnas"
    features: int = 256
    temperature: float = 0.07
    search: str = "tpe"

    def __post_init__(self) -> None:
        check_at_least("features", self.features, 2, 2**16)
        check_at_least("temperature", self.temperature, 1e-3)
        check_one_of("search", self.search, SEARCHERS)


class ContrastiveSearch(PathMethod[ContrastiveSettings]):
    """Trains uniform paths to recognise each image of a batch in another view of it:

        loss = -mean_i log( exp(cos(z_i, z_i') / t) / sum_{j != i} exp(cos(z_i, z_j) / t) )

    over both views of all N images, where z' belongs to the other view of the image of z, and j runs over the other
    2N - 1 views. Each path ends in a linear layer to its ``features`` numbers z. A network's score is this loss on
    images that no weight is trained on.

    Labels are not needed, and so not given. With K > 1 copies a path has the code that it starts with.

    Nguyen and Chang, "CSNAS: Contrastive Self-supervised Learning Neural Architecture Search via Sequential Model-Based
    Optimization", arXiv 2102.10557; the loss as in Chen et al., SimCLR, ICML 2020.

    Raises:
        ValueError: if the space has one architecture, or the codes' start would look at labels.
    """

    summary = "contrastive training and scores without labels, search by a tree-structured Parzen estimator"
    paper = "Nguyen and Chang, CSNAS: Contrastive Self-supervised Learning Neural Architecture Search, arXiv 2102.10557"
    Settings = ContrastiveSettings
    needs_labels = False

    def __init__(self, setup: Setup, settings: ContrastiveSettings) -> None:
        check_several_paths(settings.name, setup.space)
        super().__init__(setup, settings)
        start = self.simplex_net.start
        if start is not None and start.settles:
            raise ValueError(
                f"codes.start: expected one that reads no labels, since method {settings.name} has none, "
                f"got {setup.codes.start!r}"
            )

    @property
    def score_network(self) -> ContrastiveScore:
        return ContrastiveScore(self.setup.views, self.settings.temperature)

    def selection(self, tools: SelectionTools) -> Stage:
        return SearchStage(tools.archive, replace(tools.settings, method=self.settings.search))

    def trained_space(self) -> SearchSpace:
        return self.space.with_outputs(self.settings.features)

    def step(self, images: Tensor, labels: Tensor, do: Stepper) -> Step:
        """One step on two views of each image; in place of a label each view has the place of its partner."""
        count = do.num_images
        self._of_all_processes = partial(do.processes.gathered, count=count)
        own = do.processes.part_of(torch.arange(count, device=images.device))
        return super().step(torch.cat(do.views(images, 2)), torch.cat([own + count, own]), do)

    def path_loss(self, path: Architecture, code: Tensor, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """The loss of a path on both views of this process's images, and the similarities that it is made of."""
        features = self.supernet(images, path, code)
        everyone = torch.cat([self._of_all_processes(half) for half in features.chunk(2)])
        similarities = view_similarities(features, everyone, labels, self.settings.temperature)
        return F.cross_entropy(similarities, labels), similarities


@dataclass(frozen=True)
class ContrastiveScore:
    """How well a network recognises images in other views of them; can be sent to other processes.

    Args:
        views: how they are made; the same ones for every network.
        temperature: what cosines are divided by.
    """

    views: Views
    temperature: float

    @torch.no_grad()
    def __call__(self, network: nn.Module, batches: Batches) -> Scores:
        """The mean loss, and the share of views that are nearer to their partner than to all others of the batch.

        Args:
            network: from images to features ``[B, D]``.
            batches: images float32 ``[B, C, H, W]``; their labels are not looked at.

        Raises:
            ValueError: if there is no image.
        """
        generator = torch.Generator().manual_seed(0)
        loss, recognised, total = 0.0, 0, 0
        with evaluation_mode(network):
            for images, _ in batches:
                count, channels = images.shape[:2]
                drawn = [self.views.draw(count, channels, generator) for _ in range(2)]
                features = torch.cat([network(self.views(images, numbers)) for numbers in drawn])
                partners = torch.arange(2 * count, device=images.device).roll(count)
                similarities = view_similarities(features, features, partners, self.temperature)
                loss += float(F.cross_entropy(similarities, partners, reduction="sum"))
                recognised += int(((similarities.argmax(dim=1) == partners) & ~similarities.isnan().any(dim=1)).sum())
                total += len(partners)
        if total == 0:
            raise ValueError("batches: expected at least one image to score the network on, got none")
        return Scores(recognised / total, math.inf if math.isnan(loss) else loss / total)


def view_similarities(features: Tensor, everyone: Tensor, partners: Tensor, temperature: float) -> Tensor:
    """Cosines of some views with all, over the temperature; minus infinity of a view with itself.

    Args:
        features: ``[M, D]``, of some of the views.
        everyone: ``[2 N, D]``, of the first view of each image, then of the second.
        partners: int64 ``[M]``, the place among all of the other view of the same image.

    Returns:
        At least float32 ``[M, 2 N]``, differentiable in both.

    Example:
        >>> features = torch.tensor([[1.0, 0.0], [0.0, 2.0], [3.0, 0.0], [0.0, 1.0]])
        >>> view_similarities(features, features, torch.tensor([2, 3, 0, 1]), 0.5)[0]
        tensor([-inf, 0., 2., 0.])
    """
    dtype = torch.promote_types(features.dtype, torch.float32)
    with torch.autocast(features.device.type, enabled=False):  # the temperature would multiply what rounding leaves
        one, other = (F.normalize(rows.to(dtype), dim=1) for rows in (features, everyone))
        similarities = one @ other.T / temperature
    own = (partners + len(everyone) // 2) % len(everyone)
    return similarities.scatter(1, own[:, None], -math.inf)
