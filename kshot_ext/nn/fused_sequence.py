"""Sequences in which a K-shot batch norm also applies the activation behind it, and adds a residual.

    output = activation(norm(x) + residual)

in one pass over each tensor. As separate layers they make a tensor each. A sequence changes its class in its place, as
layers do (`nn/forms.py`), and its parts stay what they are: names, hooks and slices hold. Where somebody looks at what
lies between two layers, by a hook, they run one after the other.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn
from torch.nn.modules import module as torch_module

from kshot_ext.nn.batch_norm import KShotBatchNorm2d

_ACTIVATIONS = {nn.ReLU: "relu", nn.ReLU6: "relu6", nn.SiLU: "silu", nn.Hardswish: "hardswish"}


class FusedSequence:
    """Mixin of the classes that :func:`fuse_sequences` gives; before it in the order of methods come none."""

    _modules: dict[str, nn.Module]

    def forward(self, input: Tensor, *, residual: Tensor | None = None) -> Tensor:
        """The output of the sequence; its last layer adds the residual (see `adds_residual`)."""
        layers = list(self._modules.values())
        last = len(layers) - 1
        passed_over = -1
        for index, layer in enumerate(layers):
            if index == passed_over:
                continue
            if index == last and residual is not None:
                input = layer(input, residual=residual)
            elif index == last or not _is_free_norm(layer):
                input = layer(input)
            else:
                activation = _activation_of(layers[index + 1])
                passed_over = -1 if activation == "identity" else index + 1
                input = layer(input, activation=activation)
        return input

    def adds_residual(self) -> bool:
        """Whether the last layer is a batch norm, or a sequence that ends in one, and no hook sees the difference."""
        last = next(reversed(self._modules.values()))
        ends_in_norm = last.adds_residual() if isinstance(last, FusedSequence) else _is_free_norm(last)
        return ends_in_norm and not _is_watched(self)

    def __reduce_ex__(self, protocol: Any) -> tuple:
        rebuild, (_, *arguments), *state = super().__reduce_ex__(protocol)
        return _rebuilt, (type(self).__mro__[2], rebuild, *arguments), *state


def fuse_sequences(model: nn.Module) -> None:
    """Give, in place, the sequences of `model` that hold a K-shot batch norm the form that fuses.

    Subclasses of `torch.nn.Sequential` with a forward of their own stay as they are.
    """
    for module in reversed(list(_sequences(model))):  # parts come behind what holds them
        if not isinstance(module, FusedSequence) and _can_fuse(module):
            module.__class__ = _fused_kind(type(module))


def unfuse_sequences(model: nn.Module) -> None:
    """Undo `fuse_sequences`."""
    for module in model.modules():
        if isinstance(module, FusedSequence):
            module.__class__ = type(module).__mro__[2]


def plus_residual(sequence: nn.Module, input: Tensor, residual: Tensor) -> Tensor:
    """`residual + sequence(input)`, without a tensor in between where the last layer can add it."""
    if isinstance(sequence, FusedSequence) and sequence.adds_residual():
        return sequence(input, residual=residual)
    return residual + sequence(input)


def _sequences(model: nn.Module) -> Iterator[nn.Sequential]:
    for module in model.modules():
        own = "forward" in vars(module) or type(module).forward is not nn.Sequential.forward
        if isinstance(module, nn.Sequential) and not own:
            yield module


def _can_fuse(sequence: nn.Sequential) -> bool:
    layers = list(sequence)
    ends_in_one = bool(layers) and isinstance(layers[-1], FusedSequence)
    return ends_in_one or any(type(layer) is KShotBatchNorm2d for layer in layers)


@functools.cache
def _fused_kind(kind: type[nn.Sequential]) -> type[nn.Sequential]:
    """A class like `kind` that fuses. It has the same name: what a model prints stays as it was."""
    return type(kind.__name__, (FusedSequence, kind), {"__module__": kind.__module__, "__doc__": kind.__doc__})


def _rebuilt(kind: type[nn.Sequential], rebuild: Any, *arguments: Any) -> nn.Sequential:
    """What copies and pickles of a fused sequence are made by: no module has its class under a name."""
    return rebuild(_fused_kind(kind), *arguments)


def _is_free_norm(layer: nn.Module) -> bool:
    return type(layer) is KShotBatchNorm2d and not _is_watched(layer)


def _activation_of(layer: nn.Module) -> str:
    """The activation that a layer is, "identity" for other layers and for those that are watched."""
    name = _ACTIVATIONS.get(type(layer), "identity")
    return "identity" if _is_watched(layer) or layer._forward_pre_hooks else name


def _is_watched(layer: nn.Module) -> bool:
    """Whether a hook sees what the layer puts out, or the gradient of it, or the layer has a forward of its own."""
    hooks = layer._forward_hooks or layer._backward_hooks or layer._backward_pre_hooks
    own_forward = getattr(layer.forward, "__func__", None) is not type(layer).forward
    return bool(hooks or own_forward or torch_module._has_any_global_hook())
