"""Siamese trackers: what they compute, how they learn, and how they follow an object."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kshot_ext.nas.networks.evaluation_mode import evaluation_mode
from parts.videos import TEMPLATE, WINDOW, Videos, corners, overlap, window_side

STRIDE = 4  # of the features, in pixels
CELLS = WINDOW // STRIDE  # positions of the score map along a side
KERNEL = TEMPLATE // STRIDE
TOWER_LAYERS = 3
USUAL_SIDE = 0.125  # half a box's side as a part of the window's, about


class Tracker(nn.Module):
    """A backbone up to its output layer, the correlation, and the two towers of the head.

    Args:
        stem: first layer of the backbone.
        layers: blocks, the output layer, which knows its `depth`, and the layers of the two towers.
        head: by the names of its parts: `fusion` of the correlations, `score` and `box` behind the towers.
    """

    def __init__(self, stem: nn.Module, layers: Sequence[nn.Module], head: nn.Module) -> None:
        super().__init__()
        self.stem, self.head = stem, head
        *blocks, self.output = layers[: -2 * TOWER_LAYERS]
        scoring, boxing = layers[-2 * TOWER_LAYERS : -TOWER_LAYERS], layers[-TOWER_LAYERS:]
        self.blocks = nn.ModuleList(blocks)
        self.scoring, self.boxing = nn.Sequential(*scoring), nn.Sequential(*boxing)

    def embed(self, images: Tensor, depth: int | None = None) -> Tensor:
        """Features ``[N, C, H / 4, W / 4]`` of the output layer; blocks behind it are run up to ``depth`` only."""
        features = [self.stem(images)]
        for block in self.blocks[: depth or self.output.depth]:
            features.append(block(features[-1]))
        return self.output(features[self.output.depth])

    def match(self, template: Tensor, window: Tensor) -> Tensor:
        """Features to the logit of each position and the four logarithmic sides around it, ``[N, 5, CELLS, CELLS]``."""
        correlation = torch.bmm(template.flatten(2).transpose(1, 2), window.flatten(2))
        fused = self.head["fusion"](correlation.view(-1, KERNEL**2, CELLS, CELLS))
        return torch.cat([self.head["score"](self.scoring(fused)), self.head["box"](self.boxing(fused))], dim=1)

    def forward(self, images: tuple[Tensor, Tensor] | Tensor) -> Tensor:
        if isinstance(images, Tensor):  # as costs are counted: one frame, and every block, to know the cost of each
            window = self.embed(images, len(self.blocks))
            return self.match(window[..., :KERNEL, :KERNEL], window)
        template, window = images
        return self.match(self.embed(template), self.embed(window))


def cells_and_boxes(output: Tensor) -> tuple[Tensor, Tensor]:
    """Centres of the positions ``[CELLS^2, 2]``, and the box at each as corners ``[N, CELLS^2, 4]``, in the window."""
    line = (torch.arange(CELLS) + 0.5) / CELLS
    cells = torch.stack(torch.meshgrid(line, line, indexing="xy"), dim=2).flatten(0, 1)
    sides = USUAL_SIDE * output[:, 1:].flatten(2).movedim(1, 2).clamp(-3, 3).exp()
    return cells, torch.cat([cells - sides[..., :2], cells + sides[..., 2:]], dim=2)


def tracking_loss(output: Tensor, boxes: Tensor) -> Tensor:
    """Cross-entropy of the scores, both kinds of positions weighing the same, and -log overlap where the object is."""
    cells, found = cells_and_boxes(output)
    truth = boxes.unsqueeze(1)
    away = (cells - truth[..., :2]).abs()
    inside = (away < (truth[..., 2:] / 4).clamp_min(0.51 / CELLS)).all(dim=2)
    outside = (away > truth[..., 2:] / 2).any(dim=2) & ~inside
    entropy = F.binary_cross_entropy_with_logits(output[:, 0].flatten(1), inside.float(), reduction="none")
    fit = overlap(found, corners(truth))[inside].clamp_min(1e-3).log()
    return (entropy[inside].mean() + entropy[outside].mean()) / 2 - fit.mean()


@torch.no_grad()
def track(network: Tracker, videos: Videos) -> Tensor:
    """Boxes ``[N, T, 4]`` by centre and size; the first is the true one, of the template."""
    box = videos.boxes[:, 0]
    template = network.embed(videos.view(0, box[:, :2], window_side(box) / 2, TEMPLATE))
    hann = torch.hann_window(CELLS + 2, periodic=False)[1:-1]
    near = (hann.view(-1, 1) * hann).flatten()
    path = [box]
    for frame in range(1, videos.centres.shape[1]):
        side = window_side(box)
        output = network.match(template, network.embed(videos.view(frame, box[:, :2], side, WINDOW)))
        merit = 0.7 * output[:, 0].flatten(1).sigmoid() + 0.3 * near
        _, found = cells_and_boxes(output)
        low, high = found[torch.arange(len(box)), merit.argmax(dim=1)].split(2, dim=1)
        centre = box[:, :2] + ((low + high) / 2 - 0.5) * side.unsqueeze(1)
        box = torch.cat([centre, torch.lerp(box[:, 2:], (high - low) * side.unsqueeze(1), 0.4)], dim=1)
        path.append(box)
    return torch.stack(path, dim=1)


def average_overlap(network: Tracker, videos: Videos) -> float:
    """Mean overlap over all frames but the first."""
    with evaluation_mode(network):
        return float(overlap(corners(track(network, videos)), corners(videos.boxes))[:, 1:].mean())
