"""From searched modules to a network that any PyTorch installation can load."""

from __future__ import annotations

import torch
from torch import nn


def to_plain_network(network: nn.Module) -> torch.fx.GraphModule:
    """The same network as one graph of ``torch.nn`` layers, which share their tensors with ``network``.

    Any other class dissolves into the graph, so that ``torch.save`` of the result loads where the
    package is not installed.

    Example:
        >>> plain = to_plain_network(nn.Sequential(nn.Linear(4, 2), nn.ReLU()))
        >>> plain(torch.zeros(3, 4)).shape
        torch.Size([3, 2])
    """
    plain = torch.fx.symbolic_trace(network)
    for node in plain.graph.nodes:
        node.type = (
            None  # an annotation, which is text under `from __future__ import annotations`, and cannot be pickled
        )
    plain.recompile()
    return plain
