"""How much of other people's networks `kshot_ext.convert` converts: timm's, one of each family, with random weights.

    python -m benchmarks.conversions                  # all of NETWORKS
    python -m benchmarks.conversions resnet18 ...     # some

Each is converted, compared under the code of the first copy, trained for a step, merged, compared again, and loads the
merged state. Needs timm and torchvision.
"""

from __future__ import annotations

import warnings
from collections import Counter
from typing import Annotated

import torch
import typer
from torch import nn

import kshot_ext

NETWORKS = (
    "beit_base_patch16_224", "botnet26t_256", "cait_xxs24_224", "coat_lite_tiny", "coatnet_nano_rw_224", "convit_tiny",
    "convnext_atto", "crossvit_tiny_240", "cspresnet50", "davit_tiny", "densenet121", "dla46_c", "dpn48b",
    "eca_nfnet_l0", "edgenext_xx_small", "efficientformer_l1", "efficientnet_b0", "efficientvit_b0", "efficientvit_m0",
    "ese_vovnet19b_slim", "fasternet_t0", "fastvit_t8", "focalnet_tiny_srf", "gcvit_xxtiny", "ghostnet_050",
    "hgnetv2_b0", "hrnet_w18_small", "inception_next_atto", "levit_128s", "mambaout_femto", "mixer_s32_224",
    "mobilenetv3_small_050", "mobileone_s0", "mobilevit_xxs", "mvitv2_tiny", "nf_regnet_b0", "pit_ti_224",
    "poolformer_s12", "pvt_v2_b0", "regnety_002", "repvit_m0_9", "res2net50_14w_8s", "resnest14d", "resnet18",
    "resnetv2_50", "rexnet_100", "starnet_s1", "swin_tiny_patch4_window7_224", "tf_efficientnet_b0",
    "tf_efficientnet_cc_b0_4e", "tiny_vit_5m_224", "twins_pcpvt_small", "vgg11", "vit_tiny_patch16_224",
    "xcit_nano_12_p16_224",
)  # fmt: skip
_SHOTS, _CLASSES, _IMAGES = 2, 10, 2
_TOLERANCE = 1e-3
"""Largest difference of outputs in float32, relative to the largest output."""


def network(name: str, image_size: int) -> tuple[nn.Module, int]:
    """A network of timm that takes small images, if it can, and the size of the images that it takes."""
    import timm

    usual = timm.get_pretrained_cfg(name).input_size[-1]
    for options, size in (({"img_size": image_size}, image_size), ({}, image_size), ({}, usual)):
        torch.manual_seed(0)
        try:
            model = timm.create_model(name, num_classes=_CLASSES, **options)
            with torch.no_grad():
                model.eval()(torch.zeros(1, 3, size, size))
        except (TypeError, AssertionError, RuntimeError, ValueError):
            continue
        with torch.no_grad():  # heads and branches that start at zero hide what is before them
            for parameter in model.parameters():
                parameter.add_(0.02 * torch.randn(parameter.shape))
        return model, size
    raise RuntimeError(f"takes images of neither {image_size} nor {usual} pixels")


def check(model: nn.Module, image_size: int) -> tuple[kshot_ext.ConversionReport, Counter]:
    """Convert, compare, train, merge and compare: the report, and how many layers stay for which reason.

    Raises:
        AssertionError: if outputs differ.
    """
    images = torch.randn(_IMAGES, 3, image_size, image_size)
    kshot = kshot_ext.convert(model, _SHOTS)
    kshot_ext.set_code(kshot, torch.tensor([1.0, 0.0]))
    _compare("the converted network", kshot, model, images)
    kshot_ext.set_code(kshot, torch.tensor([0.6, 0.4]))
    optimizer = kshot_ext.optim.KShotSGD(kshot_ext.optim.decay_groups(kshot, 1e-5), lr=1e-3)
    kshot.train()(images).square().mean().backward()
    optimizer.step()
    merged = kshot_ext.merge(kshot)
    _compare("the merged network", merged, kshot, images)
    model.load_state_dict(merged.state_dict())
    kshot.load_state_dict(merged.state_dict())
    report = kshot_ext.conversion_report(kshot)
    layers = dict(kshot.named_modules())
    reasons = Counter((type(layers[name]).__name__, _short(reason)) for name, reason in report.left.items())
    return report, reasons


def _compare(what: str, ours: nn.Module, theirs: nn.Module, images: torch.Tensor) -> None:
    with torch.no_grad():
        found, wanted = ours.eval()(images), theirs.eval()(images)
    difference = (found - wanted).abs().max() / wanted.abs().max()
    if not difference < _TOLERANCE:
        raise AssertionError(f"{what} differs by {difference:.1e}")


def _short(reason: str) -> str:
    """A reason without the names that its first half has already, and without shapes."""
    return "has no K-shot form" if reason.endswith("has no K-shot form") else reason.partition(",")[0]


def row(name: str, image_size: int) -> str:
    """The line of one network in the table."""
    try:
        report, reasons = check(*network(name, image_size))
    except Exception as error:  # of the network or of ours: the table shows it
        return f"| {name} | | | {type(error).__name__}: {str(error).splitlines()[0]} |"
    held = sum(report.parameters[each] for each in report.swapped) / sum(report.parameters.values())
    left = "; ".join(f"{count} `{kind}`: {why}" for (kind, why), count in reasons.items())
    return f"| {name} | {len(report.swapped)} | {held:.1%} | {left} |"


def main(
    names: Annotated[list[str] | None, typer.Argument(help="networks of timm; default: one of each family")] = None,
    image_size: Annotated[int, typer.Option(help="height and width of images, where networks take any")] = 64,
) -> None:
    warnings.simplefilter("ignore")  # the table tells what stays
    print("| network | K-shot layers | of its parameters | left |\n| --- | --- | --- | --- |", flush=True)
    for name in names or NETWORKS:
        print(row(name, image_size), flush=True)


if __name__ == "__main__":
    typer.run(main)
