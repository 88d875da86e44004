"""Copies, layers without values, and layers that other tools of torch change."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from machinery_models import CODE, SHOTS, converted, images, plain
from torch import nn
from torch.nn.utils import prune, skip_init
from torch.optim.swa_utils import AveragedModel

import kshot_ext
from kshot_ext.optim import KShotAdamW, KShotSGD

pytestmark = pytest.mark.usefixtures("native_backend", "one_thread")


@pytest.mark.parametrize("duplicate", [copy.deepcopy, AveragedModel])
def test_a_copy_says_that_it_has_no_code(duplicate: Callable[[nn.Module], nn.Module]) -> None:
    model = converted()
    twin = duplicate(model)
    with pytest.raises(ValueError, match=r"kshot_ext.set_code\(model, code\) before \(copies of a model have none\)"):
        twin(images())
    kshot_ext.set_code(twin, CODE)
    assert torch.equal(twin(images()), model(images()))


def test_an_average_of_models_is_that_of_their_merged_forms() -> None:
    """For one code, since mixing is linear."""
    models = [converted() for _ in range(2)]
    average = AveragedModel(models[0])
    with torch.no_grad():
        for parameter in models[1].parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    for model in models:
        average.update_parameters(model)
    merged = kshot_ext.merge(average.module, CODE)
    one, other = (kshot_ext.merge(model, CODE).state_dict() for model in models)
    for name, parameter in merged.named_parameters():
        torch.testing.assert_close(parameter, (one[name] + other[name]) / 2)


LAYERS: dict[str, tuple[type[nn.Module], tuple[int, ...]]] = {
    "KShotConv1d": (kshot_ext.nn.KShotConv1d, (3, 8, 3)),
    "KShotConv2d": (kshot_ext.nn.KShotConv2d, (3, 8, 3)),
    "KShotConv3d": (kshot_ext.nn.KShotConv3d, (3, 8, 3)),
    "KShotConvTranspose2d": (kshot_ext.nn.KShotConvTranspose2d, (3, 8, 3)),
    "KShotLinear": (kshot_ext.nn.KShotLinear, (3, 8)),
    "KShotBatchNorm2d": (kshot_ext.nn.KShotBatchNorm2d, (8,)),
    "KShotGroupNorm": (kshot_ext.nn.KShotGroupNorm, (2, 8)),
    "KShotLayerNorm": (kshot_ext.nn.KShotLayerNorm, (8,)),
    "KShotEmbedding": (kshot_ext.nn.KShotEmbedding, (5, 8)),
    "KShotMultiheadAttention": (kshot_ext.nn.KShotMultiheadAttention, (8, 2)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_skip_init(name: str) -> None:
    """The layer of a constructor, without its start: nothing is drawn. Values come from a state dict, or a start."""
    kind, arguments = LAYERS[name]
    before = torch.get_rng_state()
    layer = skip_init(kind, *arguments, num_shots=SHOTS, dtype=torch.float64)
    assert torch.equal(torch.get_rng_state(), before)
    usual = kind(*arguments, num_shots=SHOTS, dtype=torch.float64)
    layer.load_state_dict(usual.state_dict())
    torch.testing.assert_close(layer.state_dict(), usual.state_dict())
    assert {tensor.device.type for tensor in layer.state_dict().values()} == {"cpu"}


def test_a_model_that_is_made_on_the_meta_device() -> None:
    model = kshot_ext.convert(plain().to("meta"), SHOTS)
    kshot_ext.set_code(model, CODE.to("meta"))
    output = model(images().to("meta"))
    assert (output.shape, output.device.type) == ((2, 4), "meta")
    output.sum().backward()
    model.to_empty(device="cpu")
    for layer in model.modules():
        if hasattr(layer, "reset_parameters"):
            layer.reset_parameters()
    kshot_ext.set_code(model, CODE)
    assert model(images()).isfinite().all()
    model.load_state_dict(converted().state_dict())
    torch.testing.assert_close(model.eval()(images()), converted()(images()))


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_merge_on_the_meta_device(device: str) -> None:
    """Of a code with values, or with none: a plain model without values."""
    model = kshot_ext.convert(plain().to("meta"), SHOTS)
    merged = kshot_ext.merge(model, CODE.to(device))
    shapes = {name: value.shape for name, value in plain().state_dict().items()}
    assert {name: value.shape for name, value in merged.state_dict().items()} == shapes
    assert {value.device.type for value in merged.state_dict().values()} == {"meta"}


@pytest.mark.parametrize("optimizer", [KShotSGD, KShotAdamW, torch.optim.SGD])
def test_pruned_channels_stay_pruned(optimizer: type[torch.optim.Optimizer]) -> None:
    """`dim=1` counts output channels, as dimension 0 counts the copies; they are the same in all copies."""
    model = converted(training=True)
    prune.ln_structured(model[0], "weight", 0.5, n=2, dim=1)
    norms = model[0].weight_orig.detach().square().sum((0, 2, 3, 4))
    expected = norms < norms.median() if len(norms) % 2 else norms <= norms.sort().values[len(norms) // 2 - 1]
    trained = optimizer(model.parameters(), lr=0.1)
    before = model[0].weight.detach().clone()
    model(images()).square().sum().backward()
    trained.step()
    model(images())
    assert not torch.equal(model[0].weight, before)
    with pytest.raises(ValueError, match=r"prune.remove"):
        kshot_ext.merge(model)
    prune.remove(model[0], "weight")
    merged = kshot_ext.merge(model, CODE)
    assert torch.equal((merged[0].weight == 0).flatten(1).all(1), expected)
    assert torch.equal((merged[0].weight == 0).flatten(1).any(1), expected)


def test_histograms_of_dictionaries_for_tensorboard(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from torch.utils.tensorboard import SummaryWriter

    model = converted(training=True)
    optimizer = KShotSGD(model.parameters(), lr=0.1)
    model(images()).square().sum().backward()
    values = {}
    with SummaryWriter(str(tmp_path)) as writer:
        for name, parameter in model.named_parameters():
            values |= {name: parameter.detach(), f"{name}/grad": parameter.grad}
            writer.add_histogram(name, parameter, 0)
            writer.add_histogram(f"{name}/grad", parameter.grad, 0)
    events = EventAccumulator(str(tmp_path), size_guidance={"histograms": 0})
    events.Reload()
    for name, value in values.items():
        (found,) = (event.histogram_value for event in events.Histograms(name))
        assert found.num == value.numel()
        assert (found.min, found.max) == pytest.approx((float(value.min()), float(value.max())))
        assert found.sum == pytest.approx(float(value.double().sum()), abs=1e-4)
    optimizer.step()
