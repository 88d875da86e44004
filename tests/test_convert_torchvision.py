"""torchvision's classification families, converted: the same outputs under the first code, in both modes, and back.

Needs torchvision; look-alikes of what is hard in them are in `tests/nn/test_weight_readers.py`.
"""

from __future__ import annotations

import pytest
import torch
from torch import nn

import kshot_ext

models = pytest.importorskip("torchvision", reason="torchvision is not installed").models
pytestmark = [
    pytest.mark.usefixtures("native_backend"),
    pytest.mark.filterwarnings("ignore:convert left some layers:UserWarning"),
]

IMAGE_SIZES = {
    "convnext_tiny": 64,
    "densenet121": 64,
    "efficientnet_b0": 64,
    "googlenet": 64,
    "inception_v3": 299,
    "maxvit_t": 224,
    "mnasnet0_5": 64,
    "mobilenet_v2": 64,
    "mobilenet_v3_small": 64,
    "regnet_y_400mf": 64,
    "resnet18": 64,
    "shufflenet_v2_x0_5": 64,
    "squeezenet1_1": 64,
    "swin_t": 64,
    "swin_v2_t": 64,
    "vit_b_32": 224,
}
LEFT = {
    "swin_t": "ShiftedWindowAttention.forward reads its weight",
    "swin_v2_t": "ShiftedWindowAttentionV2.forward reads its weight",
}


def first(output: object) -> torch.Tensor:
    """The class scores, also of models that return several outputs in training."""
    return output if isinstance(output, torch.Tensor) else output[0]


@pytest.mark.parametrize("name", IMAGE_SIZES)
def test_family(name: str) -> None:
    start = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
    model = models.get_model(name, weights=None, **start)
    with torch.no_grad():
        for parameter in model.parameters():  # some heads start at zero, and hide what is before them
            parameter.add_(0.02 * torch.randn(parameter.shape))
    kshot = kshot_ext.convert(model, 2)
    kshot_ext.set_code(kshot, torch.tensor([1.0, 0.0]))
    images = torch.randn(2, 3, IMAGE_SIZES[name], IMAGE_SIZES[name])
    for training in (True, False):
        results = []
        for each in (model, kshot):
            torch.manual_seed(1)  # dropout
            with torch.no_grad():
                results.append(first(each.train(training)(images)))
        scale = results[0].abs().max()
        assert scale > 0
        assert (results[1] - results[0]).abs().max() < 1e-3 * scale
    layers = dict(kshot.named_modules())
    report = kshot_ext.conversion_report(kshot)
    left = {path: reason for path, reason in report.left.items() if isinstance(layers[path], (nn.Linear, nn.Conv2d))}
    assert bool(left) == (name in LEFT)
    assert all(reason.startswith(LEFT[name]) for reason in left.values())
    merged, state = kshot_ext.merge(kshot).state_dict(), model.state_dict()
    assert list(merged) == list(state)
    assert all(torch.equal(merged[path], state[path]) for path, _ in model.named_parameters())
