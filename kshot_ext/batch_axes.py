"""Where each layer's input has its samples, found by changing one of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from kshot_ext.nn import KShotModule
from kshot_ext.nn.code import set_code
from kshot_ext.nn.sample_rows import MixedRows, SampleRows, rows_that_changed

_CHANGED = 1  # not the first and not the last, so that both orders of rows look different


def find_batch_axes(model: nn.Module, *example: Any, batch_axis: int = 0, **named: Any) -> dict[str, SampleRows]:
    """Let each K-shot layer know how the rows of its input belong to samples, for codes per sample, `[N, K]`.

    Networks of windows or patches (Swin, MaxViT, MobileViT) give their layers many rows of each sample, and
    transformers may keep positions before samples. The model runs twice without gradients, in evaluation mode, on
    examples of which one sample differs. What differs in a layer's input, belongs to that sample.

    It holds for inputs of other sizes, too: only the axis and the order of rows are kept. Layers that the examples do
    not reach keep what they knew.

    Args:
        model: with K-shot layers; its mode, codes and buffers stay as they are.
        example, named: what to call it with; tensors hold at least three different samples.
        batch_axis: of these tensors. Others, which have another size there than the first, are given as they are.

    Returns:
        What each layer that ran now knows, by name: the axis, and whether a sample's rows lie together. A layer whose
        input mixes samples refuses codes per sample from then on.

    Raises:
        ValueError: if there is no K-shot layer, or the examples do not differ, or are fewer than three.

    Example:
        >>> import kshot_ext
        >>> layer = nn.TransformerEncoderLayer(8, 2, 16).eval()  # takes [positions, samples, features]
        >>> model = kshot_ext.convert(layer, num_shots=3)
        >>> kshot_ext.find_batch_axes(model, torch.randn(5, 3, 8), batch_axis=1)["linear1"]
        SampleRows(axis=1, together=True)
        >>> kshot_ext.set_code(model, torch.eye(3))  # a code for each of three samples
        >>> model(torch.randn(7, 3, 8)).shape
        torch.Size([7, 3, 8])
    """
    layers = {name: layer for name, layer in model.named_modules() if isinstance(layer, KShotModule)}
    if not layers:
        raise ValueError(f"{type(model).__name__} holds no K-shot layer; make some with kshot_ext.convert(model)")
    samples = _samples(example, named, batch_axis)
    changed = [_with_one_changed(value, batch_axis, samples) for value in example]
    changed_named = {name: _with_one_changed(value, batch_axis, samples) for name, value in named.items()}
    with torch.no_grad(), _evaluated(model), _one_code(layers):
        before = _inputs(model, layers, example, named)
        after = _inputs(model, layers, changed, changed_named)
    found = {}
    for name, layer in layers.items():
        if before[name]:
            layer.sample_rows = found[name] = _agreed(layer, before[name], after[name], samples)
    return found


def _samples(example: tuple[Any, ...], named: Mapping[str, Any], axis: int) -> int:
    tensors = [value for value in (*example, *named.values()) if isinstance(value, Tensor) and value.dim() > axis]
    if not tensors:
        raise ValueError(f"example: expected tensors with samples on axis {axis}, got none")
    samples = tensors[0].shape[axis]
    if samples < 3:
        raise ValueError(f"example: expected 3 samples or more on axis {axis}, got {samples}")
    first = tensors[0]
    if first.select(axis, _CHANGED).equal(first.select(axis, 0)):
        raise ValueError(f"example: expected samples that differ, got equal ones on axis {axis}")
    return samples


def _with_one_changed(value: Any, axis: int, samples: int) -> Any:
    """The value with one sample replaced by another."""
    if not isinstance(value, Tensor) or value.dim() <= axis or value.shape[axis] != samples:
        return value
    value = value.clone()
    value.select(axis, _CHANGED).copy_(value.select(axis, 0))
    return value


def _inputs(
    model: nn.Module, layers: Mapping[str, KShotModule], example: Any, named: Mapping[str, Any]
) -> dict[str, list[Tensor]]:
    """What each layer gets in one call of the model, call by call."""
    seen: dict[str, list[Tensor]] = {name: [] for name in layers}
    with ExitStack() as hooks:
        for name, layer in layers.items():

            def keep(_: nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any], name: str = name) -> None:
                seen[name].append((arguments[0] if arguments else keywords["input"]).detach().clone())

            handle = layer.register_forward_pre_hook(keep, with_kwargs=True)
            hooks.callback(handle.remove)
        model(*example, **named)
    return seen


def _agreed(layer: KShotModule, before: list[Tensor], after: list[Tensor], samples: int) -> SampleRows:
    """How rows belong to samples in all calls of a layer; mixed where calls differ."""
    found = {
        rows_that_changed(one, other, _CHANGED, samples, layer.row_axes(one))
        if one.shape == other.shape
        else MixedRows()
        for one, other in zip(before, after, strict=True)
    }
    return found.pop() if len(found) == 1 else MixedRows()


@contextmanager
def _evaluated(model: nn.Module) -> Iterator[None]:
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


@contextmanager
def _one_code(layers: Mapping[str, KShotModule]) -> Iterator[None]:
    """Inside the context all layers mix their copies evenly."""
    codes = {layer: layer._code for layer in layers.values()}
    try:
        for layer in codes:
            own = next(iter(layer.parameters(recurse=False)), None)
            device = None if own is None else own.device
            set_code(layer, torch.full((layer.num_shots,), 1 / layer.num_shots, device=device))
        yield
    finally:
        for layer, code in codes.items():
            set_code(layer, code)
