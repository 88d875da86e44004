"""Models and optimisers saved, pickled, copied and shared while a KShotSGD owns the parameters."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from alike import KINDS, is_compact, loss_of, make, train_shared, use_code
from torch import nn

from kshot_ext.optim import KShotSGD

pytestmark = pytest.mark.usefixtures("native_backend", "one_thread")


def saved(thing: Any, weights_only: bool = False) -> Any:
    file = io.BytesIO()
    torch.save(thing, file)
    file.seek(0)
    return torch.load(file, weights_only=weights_only)


COPIES: dict[str, Callable[[Any], Any]] = {
    "save": saved,
    "pickle": lambda thing: pickle.loads(pickle.dumps(thing)),
    "deepcopy": copy.deepcopy,
}


@pytest.mark.parametrize("duplicate", COPIES.values(), ids=COPIES)
@pytest.mark.parametrize("after_backward", [False, True])
def test_a_model_and_its_optimizer_go_on_training_as_copies(
    duplicate: Callable[[Any], Any], after_backward: bool
) -> None:
    """Together, so that the copied optimiser owns the copied parameters; gradients stay behind, as in torch."""
    results = []
    for kind in KINDS:
        model, optimizer = make(kind)
        if after_backward:
            loss_of(model).backward()
        twin, twin_optimizer = duplicate((model, optimizer))
        use_code(twin)
        assert all(type(parameter) is nn.Parameter for parameter in duplicate(model).parameters())
        for parameter, other in zip(model.parameters(), twin.parameters()):
            assert torch.equal(parameter, other)
            assert other.grad is None
            assert is_compact(parameter) == (after_backward and kind is KShotSGD)
        for _ in range(2):
            twin_optimizer.zero_grad()
            loss_of(twin).backward()
            assert all(is_compact(parameter) == (kind is KShotSGD) for parameter in twin.parameters())
            twin_optimizer.step()
        results.append([parameter.detach() for parameter in twin.parameters()])
    torch.testing.assert_close(*results)


@pytest.mark.parametrize("alive", [True, False])
def test_a_model_is_saved_as_one_that_no_optimizer_has_seen(alive: bool) -> None:
    model, optimizer = make(KShotSGD)
    untouched = copy.deepcopy(model)
    if not alive:
        del optimizer
    assert len(pickle.dumps(model)) == len(pickle.dumps(untouched))
    assert b"OwnedParameter" not in pickle.dumps(model)


@pytest.mark.parametrize("keep_vars", [False, True])
def test_state_dicts_load_as_weights_only(keep_vars: bool) -> None:
    model, optimizer = make(KShotSGD)
    loss_of(model).backward()
    state = saved({"model": model.state_dict(keep_vars=keep_vars), "optimizer": optimizer.state_dict()}, True)
    twin, twin_optimizer = make(KShotSGD)
    nn.init.zeros_(twin[0].weight)
    twin.load_state_dict(state["model"], assign=True)
    twin_optimizer = KShotSGD(twin.parameters(), lr=1.0)
    twin_optimizer.load_state_dict(state["optimizer"])
    loss_of(twin).backward()
    assert all(is_compact(parameter) for parameter in twin.parameters())
    optimizer.step(), twin_optimizer.step()
    torch.testing.assert_close(model.state_dict(), twin.state_dict())


def test_a_gradient_is_saved_as_a_tensor() -> None:
    model, _ = make(KShotSGD)
    loss_of(model).backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    torch.testing.assert_close(saved(gradients, weights_only=True), gradients)


def test_averaged_models() -> None:
    """Copies by torch's own averaging, swa and ema."""
    results = []
    for kind in KINDS:
        model, optimizer = make(kind)
        averages = [
            torch.optim.swa_utils.AveragedModel(model),
            torch.optim.swa_utils.AveragedModel(model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.9)),
        ]
        for _ in range(3):
            optimizer.zero_grad()
            loss_of(model).backward()
            optimizer.step()
            for average in averages:
                average.update_parameters(model)
        results.append([average.state_dict() for average in averages])
    torch.testing.assert_close(*results)


def test_another_process_trains_the_shared_memory() -> None:
    """Once a compact gradient is shared it is dense, and the model stays one model in both processes."""
    results = []
    for kind in KINDS:
        model, optimizer = make(kind)
        loss_of(model).backward()
        model.share_memory()
        assert all(p.is_shared() and p.grad.is_shared() for p in model.parameters())
        if kind is KShotSGD:
            torch.multiprocessing.spawn(train_shared, (model, optimizer))
        else:
            train_shared(0, model, optimizer)
        results.append([parameter.detach() for parameter in model.parameters()])
    torch.testing.assert_close(*results)
