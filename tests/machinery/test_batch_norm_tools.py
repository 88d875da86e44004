"""What torch does to batch norms wherever it finds them, K-shot ones included."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, update_bn

import kshot_ext

pytestmark = pytest.mark.usefixtures("native_backend", "one_thread")

CODE = torch.tensor([0.25, 0.75])


def plain() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.BatchNorm1d(36))


def batches(count: int = 3) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(4, 3, 5, 5, generator=generator) for _ in range(count)]


def equal_copies(model: nn.Module) -> nn.Module:
    converted = kshot_ext.convert(model, 2, perturbation=0)
    kshot_ext.set_code(converted, CODE)
    return converted


@pytest.mark.parametrize("averaged", [False, True])
def test_update_bn(averaged: bool) -> None:
    """Statistics are the mean over batches, whatever they were before, and the momentum is the old one."""
    model = plain()
    converted = equal_copies(model)
    for each in (model, converted):
        each(batches()[0])
    if averaged:
        model, converted = AveragedModel(model), AveragedModel(converted)
        kshot_ext.set_code(converted, CODE)
    for each in (model, converted):
        update_bn(batches(), each)
    ours, theirs = dict(converted.named_buffers()), dict(model.named_buffers())
    assert ours.keys() == theirs.keys()
    torch.testing.assert_close(ours, theirs)
    last = list(converted.modules())[-1]
    assert (last.momentum, int(last.num_batches_tracked)) == (0.1, 3)


def test_update_bn_of_a_copy_without_a_code() -> None:
    with pytest.raises(ValueError, match=r"KShotConv2d needs a code .* call kshot_ext.set_code\(model, code\)"):
        update_bn(batches(), AveragedModel(equal_copies(plain())))


def test_norms_without_statistics_for_torch_func() -> None:
    model = plain()
    converted = equal_copies(model)
    for each in (model, converted):
        torch.func.replace_all_batch_norm_modules_(each)
    images = torch.stack(batches())
    expected = torch.func.vmap(lambda x: torch.func.functional_call(model, {}, x))(images)
    found = torch.func.vmap(lambda x: torch.func.functional_call(converted, {}, x))(images)
    torch.testing.assert_close(found, expected)


def test_synchronised_norms_of_torch_are_refused() -> None:
    converted = equal_copies(plain())
    before = copy.deepcopy(converted.state_dict())
    with pytest.raises(ValueError, match=r"KShotBatchNorm2d of 2: use kshot_ext.distributed.synchronize_batch_norm"):
        nn.SyncBatchNorm.convert_sync_batchnorm(converted)
    torch.testing.assert_close(converted.state_dict(), before)
    assert [type(layer).__name__ for layer in converted.children()][1] == "KShotBatchNorm2d"
    merged = nn.SyncBatchNorm.convert_sync_batchnorm(kshot_ext.merge(converted))
    assert isinstance(merged[1], nn.SyncBatchNorm)
