"""From a plain model to a K-shot model, and back to a plain one."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn

from kshot_ext.nn import KShotModule
from kshot_ext.nn.conversion_report import ConversionReport, report_on
from kshot_ext.nn.conversions import registered_ancestor, routing_class_of
from kshot_ext.nn.copying import copy_model
from kshot_ext.nn.fast_paths import restore_fast_paths, turn_off_fast_paths
from kshot_ext.nn.forms import kshot_form, plain_form, take_form
from kshot_ext.nn.fused_form import unfuse_modules
from kshot_ext.nn.fusing import fuse_modules
from kshot_ext.nn.merging import (
    code_of,
    dictionary,
    leading,
    require_own_dictionaries,
    require_plain_form,
    require_values,
)
from kshot_ext.nn.mixed import mixed_tensors
from kshot_ext.nn.narrowing import is_narrowed, swap_layers
from kshot_ext.nn.obstacles import sort_layers
from kshot_ext.nn.routed_conv import RoutedConv2d
from kshot_ext.nn.selection import Selection, left_by_choice
from kshot_ext.nn.shots import perturbed_copies, stack_shots

_MOST_NAMED = 8
"""Layers that a warning or error names; the report names all."""


def conversion_report(
    model: nn.Module, *, include: Selection | None = None, exclude: Selection | None = None
) -> ConversionReport:
    """Tell which layers of a model are K-shot layers, and why the others are not.

    It is read off the model as it is now, so it holds after further edits too. Of a plain model it tells what `convert`
    would do.

    Args:
        model: any module.
        include, exclude: as in `convert`.

    Example:
        >>> kshot = convert(nn.Sequential(nn.Conv2d(3, 8, 3), nn.PReLU(8)), num_shots=2)
        >>> print(conversion_report(kshot))
        K-shot layers: 1, with 224 parameters of one copy (96.6%)
          0  Conv2d  224
        left as they are: 1, with 8 parameters (3.4%)
          1  8  PReLU has no K-shot form
    """
    return report_on(model, left_by_choice(model, include, exclude))


def convert(
    model: nn.Module,
    num_shots: int = 8,
    *,
    include: Selection | None = None,
    exclude: Selection | None = None,
    perturbation: float = 0.1,
    generator: torch.Generator | None = None,
) -> nn.Module:
    """Copy a model with K-shot layers in the place of its plain ones.

    Swaps convolutions, transposed ones too, `Linear`, `BatchNorm1d/2d/3d`, `GroupNorm`, `LayerNorm`, `Embedding`,
    `MultiheadAttention`, layers of timm and torchvision that are close to them, layers with bits
    (`nn.QuantisedConv2d`, `nn.QuantisedLinear`), which then quantise the mixed weight, and what
    `kshot_ext.register_conversion` was told of. The first copy of every weight is the model's own,
    the others

        weight[k] = weight + perturbation * rms(weight) * noise,   noise ~ N(0, 1),

    since equal copies under equal codes would get equal gradients and never part. Give the result its code by
    `kshot_ext.set_code(converted, code)`.

    In a `Sequential`, a batch norm and the ReLU, ReLU6, SiLU or hard-swish behind it then run as one operation. Their
    results and names stay, and with a hook on either of them they run one by one.

    A layer that routes (timm's `CondConv2d`) keeps several weights already: it gets no copies, and becomes a
    `nn.RoutedConv2d`, with the same tensors under the same names and our kernels.

    Layers and parameters used in several places stay shared; mode, attributes, hooks, `requires_grad`, dtype, device
    and memory format stay. A layer that cannot be swapped without a change of meaning stays as it is: other
    subclasses, layers whose weight is computed by a hook or a parametrisation, tied to a layer of another kind, or read
    by their parent's code, and more. A warning names them, `kshot_ext.conversion_report` gives the reason of each.

    The result is another model with other parameters, as of `copy.deepcopy`. So make optimisers after it. A bias or a
    scale has two dimensions in it, `[K, C]`: who sorts parameters by `p.ndim` must take one off in K-shot layers.

    Args:
        model: any module; left untouched.
        num_shots: K, the number of copies.
        include: the layers to swap: a pattern of names as in a shell (`"features.*"`), several, or a function
            `(name, module) -> bool`. A pattern that fits a module means all layers in it; default: all.
        exclude: layers to leave, in the same way; it goes before `include`.
        perturbation: size of the noise relative to the root mean square of the weight.
        generator: source of the noise (on the CPU); default: torch's global one.

    Returns:
        A new module.

    Raises:
        TypeError: if `include` or `exclude` is neither patterns nor a function.
        ValueError: if `num_shots` or `perturbation` is out of range, a pattern fits no module, or no layer of `model`
            can be converted.

    Example:
        >>> import kshot_ext
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU())
        >>> kshot = convert(model, num_shots=4)
        >>> kshot_ext.set_code(kshot, torch.tensor([1.0, 0.0, 0.0, 0.0]))
        >>> image = torch.randn(2, 3, 9, 9)
        >>> torch.allclose(kshot.eval()(image), model.eval()(image), atol=1e-6)
        True
    """
    if perturbation < 0:
        raise ValueError(f"perturbation must be >= 0, got {perturbation}")
    by_choice = left_by_choice(model, include, exclude)
    able, left = sort_layers(model, by_choice)
    if not able:
        raise ValueError(
            f"{type(model).__name__} has no layer to convert: expected a Conv2d, a Linear, a norm, or another kind "
            f"that kshot_ext.register_conversion was told of{_listed(left)}"
        )
    converted = copy_model(model)
    layers = dict(converted.named_modules())
    dictionaries: dict[nn.Parameter, nn.Parameter] = {}

    def dictionary_of(parameter: nn.Parameter | None) -> nn.Parameter | None:
        if parameter is None:
            return None
        if parameter not in dictionaries:
            copies = perturbed_copies(parameter.detach(), num_shots, perturbation, generator)
            dictionary = nn.Parameter(stack_shots(copies), requires_grad=parameter.requires_grad)
            vars(dictionary).update(vars(parameter))
            dictionaries[parameter] = dictionary
        return dictionaries[parameter]

    for name in able:
        layer = layers[name]
        if (own_class := routing_class_of(type(layer))) is not None:
            own_class.adopt(layer)
            continue
        new = kshot_form(layer, num_shots)
        old = plain_form(new)
        parameters: dict[str, Tensor | None] = {
            own: dictionary_of(parameter) for own, parameter in layer._parameters.items()
        }
        take_form(layer, old, new, parameters, layer._buffers)
        cast("KShotModule", layer).settle_copies()
    turn_off_fast_paths(converted)
    fuse_modules(converted)
    originals = dict(model.named_modules())
    surprising = {
        name: why
        for name, why in left.items()
        if _could_be_converted(type(layers[name])) and originals[name] not in by_choice
    }
    if surprising:
        warnings.warn(f"convert left some layers as they are{_listed(surprising)}", stacklevel=2)
    return converted


def merge(model: nn.Module, code: Tensor | None = None) -> nn.Module:
    """Copy a K-shot model as plain `torch.nn` layers that hold the effective weights.

    Hooks, mode and attributes of the layers stay. A parametrised layer (`torch.nn.utils.parametrize`) becomes a plain
    one with the weight that it has in eval mode.

    Args:
        model: a module with K-shot layers, narrow ones (see `kshot_ext.narrow`) included, also those that `narrow` made
            of sliced layers; left untouched.
        code: `[K]`; default: the code that `kshot_ext.set_code` left in each layer.

    Returns:
        A new module without K-shot layers: its outputs are those of `model` under the code.

    Raises:
        ValueError: naming the layer, if a code is not of shape `[K]` or missing, or a layer has no plain form: a
            subclass, one whose weight a hook computes, or one tied to another kind of layer; or if `model` has no
            K-shot layer.

    Example:
        >>> kshot = convert(nn.Sequential(nn.Linear(4, 2)), num_shots=3)
        >>> merge(kshot, torch.tensor([0.2, 0.3, 0.5]))
        Sequential(
          (0): Linear(in_features=4, out_features=2, bias=True)
        )
    """
    originals = {name: layer for name, layer in model.named_modules() if isinstance(layer, KShotModule)}
    routed = any(isinstance(layer, RoutedConv2d) and layer.plain is not None for layer in model.modules())
    if not originals and not routed and not any(map(is_narrowed, model.modules())):
        raise ValueError(f"{type(model).__name__} holds no K-shot layer to merge")
    for name, layer in originals.items():
        require_plain_form(name, layer)
    require_own_dictionaries(model)
    codes = {name: code_of(name, layer, code) for name, layer in originals.items()}
    merged = copy_model(model)
    layers = dict(merged.named_modules())
    mixed: dict[Tensor, dict[tuple[Any, ...], nn.Parameter]] = {}

    def mixed_parameter(dictionary: Tensor, shape: torch.Size, code: Tensor) -> nn.Parameter:
        by_use = mixed.setdefault(dictionary, {})
        use = shape, None if dictionary.is_meta else tuple(code.tolist())
        if use not in by_use:
            with torch.no_grad():
                (value,) = mixed_tensors([dictionary], code.detach().to(dictionary.device))
            by_use[use] = nn.Parameter(leading(value, shape), requires_grad=dictionary.requires_grad)
            vars(by_use[use]).update(vars(dictionary))
        return by_use[use]

    for name in originals:
        layer = cast("KShotModule", layers[name])
        new = plain_form(layer)
        require_values(name, layer, new)
        old = kshot_form(new, layer.num_shots)
        parameters: dict[str, Tensor | None] = dict(new._parameters)
        for own, wanted in parameters.items():
            if wanted is not None:
                parameters[own] = mixed_parameter(dictionary(layer, own), wanted.shape, cast("Tensor", codes[name]))
        buffers = dict(layer._buffers)
        for own, wanted in new._buffers.items():
            if wanted is not None:
                buffers[own] = leading(cast("Tensor", buffers[own]), wanted.shape)
        layer._modules.pop("parametrizations", None)
        take_form(layer, old, new, parameters, buffers)
    for layer in layers.values():
        if isinstance(layer, RoutedConv2d):
            layer.release()
    merged = swap_layers(merged, lambda _, layer: layer.to_plain() if is_narrowed(layer) else None)
    restore_fast_paths(merged)
    unfuse_modules(merged)
    return merged


def _could_be_converted(kind: type[nn.Module]) -> bool:
    return registered_ancestor(kind) is not None or routing_class_of(kind) is not None


def _listed(left: Mapping[str, str]) -> str:
    """Names and reasons as the end of a sentence."""
    named = [f"{name or 'the model itself'}: {reason}" for name, reason in list(left.items())[:_MOST_NAMED]]
    if len(left) > _MOST_NAMED:
        named.append(f"and {len(left) - _MOST_NAMED} more, see kshot_ext.conversion_report(model)")
    return "".join(f"\n  {line}" for line in named)
