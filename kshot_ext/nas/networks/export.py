"""A network of the supernet on its own, to be used like any other PyTorch network."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from kshot_ext.convert import merge
from kshot_ext.nas.networks.calibration import Batches, recalibrate_batch_norm
from kshot_ext.nas.networks.supernet import Supernet
from kshot_ext.nas.spaces.architecture import Architecture
from kshot_ext.nas.spaces.plain_network import to_plain_network
from kshot_ext.nn import DynamicGroupConv2d, KShotModule, export_dynamic_groups


def extract(
    supernet: Supernet, architecture: Architecture, code: Tensor, calibration: Batches | None = None
) -> torch.fx.GraphModule:
    """One network of a supernet on its own, with its effective weights, in plain ``torch.nn`` layers.

    Its outputs are those of ``supernet(images, architecture, code)`` with the same batch-norm statistics.

    Args:
        supernet: left unchanged.
        architecture: which network.
        code: ``[K]``, mixes the weight copies; or ``[L, K]``, one row for each searched layer.
        calibration: batches of training images to measure batch-norm statistics on; None keeps those of the
            supernet, which are a mixture over all paths.

    Raises:
        ValueError: if the architecture is not of the supernet's space or the code not of K entries.
    """
    with supernet.coded_path(architecture, code) as path:
        network = plain_copy(path)
    if calibration is not None:
        network.load_state_dict(recalibrate_batch_norm(network, calibration), strict=False)
    return network


def plain_copy(network: nn.Module) -> torch.fx.GraphModule:
    """A copy of a network that a supernet lends, in plain ``torch.nn`` layers with the effective weights.

    Raises:
        ValueError: naming the layer, if one has no plain form.
    """
    if _has(network, DynamicGroupConv2d):  # which is trained with one copy, whose code a copied layer does not keep
        device = next(network.parameters()).device
        return to_plain_network(merge(export_dynamic_groups(network), torch.ones(1, device=device)))
    return to_plain_network(merge(network) if _has(network, KShotModule) else copy.deepcopy(network))


def _has(network: nn.Module, kind: type[nn.Module]) -> bool:
    return any(isinstance(module, kind) for module in network.modules())
