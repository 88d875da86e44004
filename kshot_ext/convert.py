"""From a plain model to a K-shot model, and back to a plain one."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn

from kshot_ext import functional as KF
from kshot_ext.nn import KShotBatchNorm2d, KShotConv1d, KShotConv2d, KShotConv3d, KShotLinear, KShotModule
from kshot_ext.nn.conv import _KShotConv
from kshot_ext.nn.shots import stack_shots

_CONVOLUTIONS = {nn.Conv1d: KShotConv1d, nn.Conv2d: KShotConv2d, nn.Conv3d: KShotConv3d}


def convert(
    model: nn.Module,
    num_shots: int = 8,
    *,
    perturbation: float = 0.1,
    generator: torch.Generator | None = None,
) -> nn.Module:
    """Copy a model with K-shot layers in the place of its plain ones.

    Swaps `Conv1d`, `Conv2d`, `Conv3d`, `Linear` and `BatchNorm2d`; subclasses of them, which may mean something
    else by their weight, stay as they are. Layers and parameters used in several places stay shared. The first
    copy of every weight is the model's own, the others

        weight[k] = weight + perturbation * rms(weight) * noise,   noise ~ N(0, 1),

    since equal copies under equal codes would get equal gradients and never part. Give the result its code by
    `kshot_ext.set_code(converted, code)`.

    Args:
        model: any module; left untouched.
        num_shots: K, the number of copies.
        perturbation: size of the noise relative to the root mean square of the weight.
        generator: source of the noise (on the CPU); default: torch's global one.

    Returns:
        A new module.

    Raises:
        ValueError: if `num_shots` or `perturbation` is out of range, or `model` has no layer to convert.

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
    dictionaries: dict[int, nn.Parameter] = {}

    def dictionary_of(parameter: nn.Parameter) -> nn.Parameter:
        if id(parameter) not in dictionaries:
            copies = _perturbed_copies(parameter.detach(), num_shots, perturbation, generator)
            dictionaries[id(parameter)] = nn.Parameter(stack_shots(copies), requires_grad=parameter.requires_grad)
        return dictionaries[id(parameter)]

    def swap(_name: str, layer: nn.Module) -> nn.Module | None:
        kshot = _empty_kshot_layer(layer, num_shots)
        if kshot is None:
            return None
        for name, parameter in layer.named_parameters(recurse=False):
            setattr(kshot, name, dictionary_of(parameter))
        for name, buffer in layer.named_buffers(recurse=False):
            setattr(kshot, name, buffer)
        return kshot.train(layer.training)

    converted, count = swap_layers(copy.deepcopy(model), swap)
    if count == 0:
        raise ValueError(
            f"{type(model).__name__} has no layer to convert: expected a Conv1d, Conv2d, Conv3d, Linear or BatchNorm2d"
        )
    return converted


def merge(model: nn.Module, code: Tensor | None = None) -> nn.Module:
    """Copy a K-shot model as plain `torch.nn` layers that hold the effective weights.

    Args:
        model: a module with K-shot layers, narrow ones (see `kshot_ext.narrow`) included; left untouched.
        code: `[K]`; default: the code that `kshot_ext.set_code` left in each layer.

    Returns:
        A new module without K-shot layers: its outputs are those of `model` under the code.

    Raises:
        ValueError: if a code is not of shape `[K]` or missing, or `model` has no K-shot layer.

    Example:
        >>> kshot = convert(nn.Sequential(nn.Linear(4, 2)), num_shots=3)
        >>> merge(kshot, torch.tensor([0.2, 0.3, 0.5]))
        Sequential(
          (0): Linear(in_features=4, out_features=2, bias=True)
        )
    """
    originals = dict(model.named_modules())  # a copy holds no code
    mixed: dict[tuple[int, torch.Size, int], nn.Parameter] = {}

    def mixed_parameter(dictionary: nn.Parameter, shape: torch.Size, code: Tensor) -> nn.Parameter:
        if code.dim() != 1:
            raise ValueError(f"code must have shape [K]: a plain layer has one weight; got {list(code.shape)}")
        key = id(dictionary), shape, id(code)
        if key not in mixed:
            with torch.no_grad():
                value = KF.effective_weight(dictionary, code.detach().to(dictionary.device))
            mixed[key] = nn.Parameter(_leading(value, shape), requires_grad=dictionary.requires_grad)
        return mixed[key]

    def swap(path: str, layer: nn.Module) -> nn.Module | None:
        if not isinstance(layer, KShotModule):
            return None
        plain = _empty_plain_layer(layer)
        for name, parameter in layer.named_parameters(recurse=False):
            layer_code = originals[path].resolve_code(code)
            setattr(plain, name, mixed_parameter(parameter, getattr(plain, name).shape, layer_code))
        for name, buffer in layer.named_buffers(recurse=False):
            setattr(plain, name, _leading(buffer, getattr(plain, name).shape))
        return plain.train(layer.training)

    merged, count = swap_layers(copy.deepcopy(model), swap)
    if count == 0:
        raise ValueError(f"{type(model).__name__} holds no K-shot layer to merge")
    return merged


def swap_layers(model: nn.Module, swap: Callable[[str, nn.Module], nn.Module | None]) -> tuple[nn.Module, int]:
    """Replace, in place, each module for which `swap(name, module)` returns another one.

    A module is swapped once, however often it is used.

    Returns:
        The model (which may be a replacement itself), and the number of modules swapped.
    """
    swapped: dict[nn.Module, nn.Module] = {}
    for name, module in model.named_modules():
        replacement = swap(name, module)
        if replacement is not None:
            swapped[module] = replacement
    for module in list(model.modules()):
        for name, child in module._modules.items():
            if child in swapped:
                module._modules[name] = swapped[child]
    return swapped.get(model, model), len(swapped)


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


def _empty_kshot_layer(layer: nn.Module, num_shots: int) -> KShotModule | None:
    """A K-shot layer of the same geometry, on no device yet; None for layers that have no K-shot form."""
    kind = type(layer)
    if kind in _CONVOLUTIONS:
        return _CONVOLUTIONS[kind](*_convolution_arguments(layer), device="meta", num_shots=num_shots)
    if kind is nn.Linear:
        return KShotLinear(layer.in_features, layer.out_features, layer.bias is not None, "meta", num_shots=num_shots)
    if kind is nn.BatchNorm2d:
        return KShotBatchNorm2d(*_batch_norm_arguments(layer), device="meta", num_shots=num_shots)
    return None


def _empty_plain_layer(layer: KShotModule) -> nn.Module:
    if isinstance(layer, _KShotConv):
        return layer.plain(*_convolution_arguments(layer), device="meta")
    if isinstance(layer, KShotLinear):
        return nn.Linear(layer.in_features, layer.out_features, layer.bias is not None, "meta")
    if isinstance(layer, KShotBatchNorm2d):
        return nn.BatchNorm2d(*_batch_norm_arguments(layer), device="meta")
    raise ValueError(f"merge knows no plain form of {type(layer).__name__}")


def _convolution_arguments(layer: nn.Module) -> tuple:
    return (
        layer.in_channels,
        layer.out_channels,
        layer.kernel_size,
        layer.stride,
        layer.padding,
        layer.dilation,
        layer.groups,
        layer.bias is not None,
        layer.padding_mode,
    )


def _batch_norm_arguments(layer: nn.Module) -> tuple:
    return layer.num_features, layer.eps, layer.momentum, layer.affine, layer.track_running_stats
