"""From a K-shot model, or one of sliced layers, to narrower ones that share its weights."""

from __future__ import annotations

from typing import cast

from torch import nn

from kshot_ext.nn import KShotModule
from kshot_ext.nn.fast_paths import turn_off_fast_paths
from kshot_ext.nn.fused_form import plain_kind
from kshot_ext.nn.fusing import fuse_modules
from kshot_ext.nn.narrowing import Narrowable, swap_layers
from kshot_ext.nn.obstacles import HOOK_TABLES
from kshot_ext.nn.quantised import with_bits_of


def narrow(model: nn.Module, plain: nn.Module) -> nn.Module:
    """Give a narrower plain model the leading channels of a K-shot model's layers, and parts of sliced layers.

    Layers are matched by name. Each one uses

        weight[k, :C_out', :C_in', ...],   C_out' and C_in' those of the plain layer,

    through the operators' own widths: nothing is copied, and what the narrow model learns, the wide one has learnt.
    `kshot_ext.merge` makes truly narrow layers of it. Where a plain layer has bits (`nn.QuantisedConv2d`), the
    narrow one computes with as many, whether the wide one has others or none. Sliced layers (`kshot_ext.nn.sliced`,
    `nn.GatedConv2d`) also give the kernel size and groups of the plain layer, where they have them.

    Args:
        model: a module with K-shot or sliced layers; left untouched.
        plain: the same network with at most as many channels in every layer. It is best made under
            `torch.device("meta")`, since its weights are not used. The result is made of its other modules.

    Returns:
        A model of the plain one's structure, in the mode (training or not) of `model`.

    Raises:
        ValueError: naming the layer that `model` lacks, or has in another or a smaller form; or one of `plain` with
            hooks, which would be lost.

    Example:
        >>> import kshot_ext
        >>> wide = kshot_ext.convert(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 1)), num_shots=2)
        >>> half = narrow(wide, nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 1)))
        >>> half[0].weight is wide[0].weight
        True
        >>> code = torch.tensor([0.5, 0.5])
        >>> kshot_ext.set_code(half, code)
        >>> image = torch.randn(2, 3, 9, 9)
        >>> torch.allclose(half(image), kshot_ext.merge(half, code)(image), atol=1e-6)
        True
    """
    layers = dict(model.named_modules())

    def share(name: str, wanted: nn.Module) -> nn.Module | None:
        shapes = _own_shapes(wanted)
        if not shapes:
            return None
        layer = layers.get(name)
        if any(getattr(wanted, table) for table in HOOK_TABLES):
            raise ValueError(
                f"layer {name!r} of the plain model has hooks, which narrow would lose: register them after"
            )
        if isinstance(layer, (KShotModule, Narrowable)):
            try:
                narrowed = layer.narrowed(wanted)
                return with_bits_of(wanted, narrowed) if isinstance(narrowed, KShotModule) else narrowed
            except ValueError as error:
                raise ValueError(f"layer {name!r}: {error}") from error
        if layer is None or plain_kind(layer) is not plain_kind(wanted) or _own_shapes(layer) != shapes:
            found = "none" if layer is None else f"{type(layer).__name__} {_own_shapes(layer)}"
            raise ValueError(
                f"layer {name!r}: expected a K-shot or sliced layer to narrow, or one equal to "
                f"{type(wanted).__name__} {shapes}, got {found}"
            )
        if not wanted._modules:
            return cast("nn.Module", layer)
        # It has parts, which may be narrower than those of `layer`: it shares the tables of the tensors alone.
        wanted._parameters, wanted._buffers = layer._parameters, layer._buffers
        return None

    narrowed = swap_layers(plain, share).train(model.training)
    turn_off_fast_paths(narrowed)
    fuse_modules(narrowed)
    return narrowed


def _own_shapes(layer: nn.Module) -> dict[str, tuple[int, ...]]:
    """Shapes of the parameters and buffers that are the layer's own, not those of its parts."""
    tensors = {**layer._parameters, **layer._buffers}
    return {name: tuple(tensor.shape) for name, tensor in tensors.items() if tensor is not None}
