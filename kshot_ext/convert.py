"""From a plain model to a K-shot model, and back to a plain one."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from kshot_ext import functional as KF
from kshot_ext.nn import KShotModule
from kshot_ext.nn.conversions import registered_ancestor
from kshot_ext.nn.copying import copy_model
from kshot_ext.nn.fast_paths import restore_fast_paths, turn_off_fast_paths
from kshot_ext.nn.forms import kshot_form, plain_class, plain_form, take_form
from kshot_ext.nn.fused_form import unfuse_modules
from kshot_ext.nn.fusing import fuse_modules
from kshot_ext.nn.obstacles import holders_of_tensors, sort_layers
from kshot_ext.nn.shots import stack_shots

_MOST_NAMED = 8
"""Layers that a warning or error names; the report names all."""


@dataclass(frozen=True)
class ConversionReport:
    """What of a model is K-shot, and what is not, and why.

    Attributes:
        swapped: names of the K-shot layers, and of the plain kind that each stands for.
        left: names of the other modules with parameters or buffers of their own, and the reason of each.
    """

    swapped: Mapping[str, str]
    left: Mapping[str, str]

    def __str__(self) -> str:
        lines = [f"K-shot layers: {len(self.swapped)}"]
        lines += [f"  {name or '(the model itself)'}: {kind}" for name, kind in self.swapped.items()]
        lines += [f"left as they are: {len(self.left)}"]
        lines += [f"  {name or '(the model itself)'}: {reason}" for name, reason in self.left.items()]
        return "\n".join(lines)


def conversion_report(model: nn.Module) -> ConversionReport:
    """Tell which layers of a model are K-shot layers, and why the others are not.

    It is read off the model as it is now, so it holds after further edits too.

    Example:
        >>> kshot = convert(nn.Sequential(nn.Conv2d(3, 8, 3), nn.GroupNorm(2, 8)), num_shots=2)
        >>> print(conversion_report(kshot))
        K-shot layers: 1
          0: Conv2d
        left as they are: 1
          1: GroupNorm has no K-shot form
    """
    able, left = sort_layers(model)
    swapped = {}
    for name, layer in model.named_modules():
        if isinstance(layer, KShotModule):
            swapped[name] = (layer.plain or type(layer)).__name__
    plain = dict.fromkeys(able, "it is plain, and convert would swap it")
    order = {name: position for position, (name, _) in enumerate(model.named_modules())}
    return ConversionReport(swapped, dict(sorted({**left, **plain}.items(), key=lambda item: order[item[0]])))


def convert(
    model: nn.Module,
    num_shots: int = 8,
    *,
    perturbation: float = 0.1,
    generator: torch.Generator | None = None,
) -> nn.Module:
    """Copy a model with K-shot layers in the place of its plain ones.

    Swaps `Conv1d`, `Conv2d`, `Conv3d`, `Linear` and `BatchNorm2d`, and layers with bits (`nn.QuantisedConv2d`,
    `nn.QuantisedLinear`), which then quantise the mixed weight. The first copy of every weight is the model's own,
    the others

        weight[k] = weight + perturbation * rms(weight) * noise,   noise ~ N(0, 1),

    since equal copies under equal codes would get equal gradients and never part. Give the result its code by
    `kshot_ext.set_code(converted, code)`.

    In a `Sequential`, a batch norm and the ReLU, ReLU6, SiLU or hard-swish behind it then run as one operation. Their
    results and names stay, and with a hook on either of them they run one by one.

    Layers and parameters used in several places stay shared; mode, attributes, hooks, `requires_grad`, dtype, device
    and memory format stay. A layer that cannot be swapped without a change of meaning stays as it is: subclasses,
    layers whose weight is computed by a hook or a parametrisation, tied to a layer of another kind, or read by their
    parent's code, and more. A warning names them, `kshot_ext.conversion_report` gives the reason of each.

    The result is another model with other parameters, as of `copy.deepcopy`. So make optimisers after it. A bias or a
    scale has two dimensions in it, `[K, C]`: who sorts parameters by `p.ndim` must take one off in K-shot layers.

    Args:
        model: any module; left untouched.
        num_shots: K, the number of copies.
        perturbation: size of the noise relative to the root mean square of the weight.
        generator: source of the noise (on the CPU); default: torch's global one.

    Returns:
        A new module.

    Raises:
        ValueError: if `num_shots` or `perturbation` is out of range, or no layer of `model` can be converted.

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
    able, left = sort_layers(model)
    if not able:
        raise ValueError(
            f"{type(model).__name__} has no layer to convert: expected a Conv1d, Conv2d, Conv3d, Linear or "
            f"BatchNorm2d{_listed(left)}"
        )
    converted = copy_model(model)
    layers = dict(converted.named_modules())
    dictionaries: dict[nn.Parameter | None, nn.Parameter | None] = {None: None}

    def dictionary_of(parameter: nn.Parameter | None) -> nn.Parameter | None:
        if parameter not in dictionaries:
            copies = _perturbed_copies(parameter.detach(), num_shots, perturbation, generator)
            dictionary = nn.Parameter(stack_shots(copies), requires_grad=parameter.requires_grad)
            vars(dictionary).update(vars(parameter))
            dictionaries[parameter] = dictionary
        return dictionaries[parameter]

    for name in able:
        layer = layers[name]
        new = kshot_form(layer, num_shots)
        old = plain_form(new)
        parameters = {own: dictionary_of(parameter) for own, parameter in layer._parameters.items()}
        take_form(layer, old, new, parameters, layer._buffers)
        layer.settle_copies()
    turn_off_fast_paths(converted)
    fuse_modules(converted)
    surprising = {name: why for name, why in left.items() if registered_ancestor(type(layers[name]))}
    if surprising:
        warnings.warn(f"convert left some layers as they are{_listed(surprising)}", stacklevel=2)
    return converted


def merge(model: nn.Module, code: Tensor | None = None) -> nn.Module:
    """Copy a K-shot model as plain `torch.nn` layers that hold the effective weights.

    Hooks, mode and attributes of the layers stay. A parametrised layer (`torch.nn.utils.parametrize`) becomes a plain
    one with the weight that it has in eval mode.

    Args:
        model: a module with K-shot layers, narrow ones (see `kshot_ext.narrow`) included; left untouched.
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
    if not originals:
        raise ValueError(f"{type(model).__name__} holds no K-shot layer to merge")
    for name, layer in originals.items():
        _require_plain_form(name, layer)
    _require_own_dictionaries(model)
    codes = {name: _code_of(name, layer, code) for name, layer in originals.items()}
    merged = copy_model(model)
    layers = dict(merged.named_modules())
    mixed: dict[Tensor, dict[tuple, nn.Parameter]] = {}

    def mixed_parameter(dictionary: Tensor, shape: torch.Size, code: Tensor) -> nn.Parameter:
        by_use = mixed.setdefault(dictionary, {})
        use = shape, tuple(code.tolist())
        if use not in by_use:
            with torch.no_grad():
                value = KF.effective_weight(dictionary, code.detach().to(dictionary.device))
            by_use[use] = nn.Parameter(_leading(value, shape), requires_grad=dictionary.requires_grad)
            vars(by_use[use]).update(vars(dictionary))
        return by_use[use]

    for name in originals:
        layer = layers[name]
        new = plain_form(layer)
        old = kshot_form(new, layer.num_shots)
        parameters: dict[str, Tensor | None] = dict(new._parameters)
        for own, wanted in parameters.items():
            if wanted is not None:
                parameters[own] = mixed_parameter(_dictionary(layer, own), wanted.shape, codes[name])
        buffers = dict(layer._buffers)
        for own, wanted in new._buffers.items():
            if wanted is not None:
                buffers[own] = _leading(buffers[own], wanted.shape)
        layer._modules.pop("parametrizations", None)
        take_form(layer, old, new, parameters, buffers)
    restore_fast_paths(merged)
    unfuse_modules(merged)
    return merged


def _require_plain_form(name: str, layer: KShotModule) -> None:
    """Refuse a K-shot layer that has no plain form, or other parameters than that."""
    computed = set(layer.parametrizations) if parametrize.is_parametrized(layer) else set()
    kind = plain_class(layer)
    if kind is None:
        raise ValueError(f"layer {name!r}: merge knows no plain form of {type(layer).__name__}")
    found = computed | {own for own, parameter in layer._parameters.items() if parameter is not None}
    wanted = {own for own, parameter in plain_form(layer)._parameters.items() if parameter is not None}
    if found != wanted:
        raise ValueError(
            f"layer {name!r}: expected the parameters {sorted(wanted)} of a {kind.__name__}, got {sorted(found)}; if a "
            "hook computes the weight, make it permanent first (torch.nn.utils.prune.remove, remove_weight_norm, ...)"
        )


def _require_own_dictionaries(model: nn.Module) -> None:
    """Refuse a dictionary that is also held in another way, which `merge` would leave as it is."""
    for holders in holders_of_tensors(model).values():
        dictionaries = [h for h in holders if isinstance(h.module, KShotModule) and h.name in h.module._parameters]
        others = [holder for holder in holders if holder not in dictionaries]
        if dictionaries and others:
            raise ValueError(
                f"{dictionaries[0]} is also {others[0]}, which would keep all copies: part them before merge"
            )


def _code_of(name: str, layer: KShotModule, code: Tensor | None) -> Tensor | None:
    if not list(layer.parameters()):
        return None
    code = layer.resolve_code(code)
    if code.dim() != 1:
        raise ValueError(
            f"layer {name!r}: code must have shape [K]: a plain layer has one weight; got {list(code.shape)}"
        )
    return code


def _dictionary(layer: KShotModule, name: str) -> Tensor:
    """All copies of a parameter, also of one that a parametrisation computes."""
    if not parametrize.is_parametrized(layer, name):
        return layer._parameters[name]
    layer.parametrizations.eval()
    trained = any(parameter.requires_grad for parameter in layer.parametrizations[name].parameters())
    return getattr(layer, name).detach().requires_grad_(trained)


def _listed(left: Mapping[str, str]) -> str:
    """Names and reasons as the end of a sentence."""
    named = [f"{name or 'the model itself'}: {reason}" for name, reason in list(left.items())[:_MOST_NAMED]]
    if len(left) > _MOST_NAMED:
        named.append(f"and {len(left) - _MOST_NAMED} more, see kshot_ext.conversion_report(model)")
    return "".join(f"\n  {line}" for line in named)


def _leading(tensor: Tensor, shape: torch.Size) -> Tensor:
    """The leading part of a tensor, as a tensor of its own."""
    return tensor if tensor.shape == shape else tensor[tuple(map(slice, shape))].clone()


def _perturbed_copies(
    value: Tensor, num_shots: int, perturbation: float, generator: torch.Generator | None
) -> list[Tensor]:
    scale = perturbation * value.double().square().mean().sqrt()
    copies = [value]
    for _ in range(num_shots - 1):
        noise = torch.randn(value.shape, generator=generator, dtype=torch.float32).to(value.device)
        copies.append(torch.empty_like(value).copy_(value + (scale * noise).to(value.dtype)))
    return copies
