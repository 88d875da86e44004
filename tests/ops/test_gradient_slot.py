"""Parameters whose gradients may be compact are parameters like others, but for the slot that their owner sees."""

from __future__ import annotations

import copy
import gc
import io
import pickle
from multiprocessing.reduction import ForkingPickler

import pytest
import torch
from torch import Tensor, nn

from kshot_ext import functional as KF
from kshot_ext.ops.compact_gradient import SumOfUses
from kshot_ext.ops.gradient_slot import (
    OwnedParameter,
    gradient_in_slot,
    linear_parts,
    own,
    takes_compact_gradient,
    with_grads,
    zero_compact,
)

pytestmark = pytest.mark.usefixtures("native_backend", "one_thread")
CODE = torch.tensor([0.5, 0.3, 0.2])
GRADIENT = CODE.reshape(3, 1, 1).expand(3, 4, 2)  # of the sum of the effective weight


class Owner:
    """Stands in for an optimiser."""


@pytest.fixture
def owner() -> Owner:
    return Owner()


@pytest.fixture
def weight(owner: Owner) -> nn.Parameter:
    """With a compact gradient in its slot."""
    weight = nn.Parameter(torch.randn(3, 4, 2))
    own(weight, owner)
    KF.effective_weight(weight, CODE).sum().backward()
    assert is_compact(weight)
    return weight


def is_compact(parameter: Tensor) -> bool:
    return isinstance(gradient_in_slot(parameter), SumOfUses)


def test_reading_puts_the_dense_tensor_into_the_slot(weight: nn.Parameter) -> None:
    gradient = weight.grad
    assert type(gradient) is Tensor
    assert torch.equal(gradient, GRADIENT)
    assert gradient_in_slot(weight) is gradient
    assert weight.grad is gradient
    assert Tensor.grad.__get__(weight) is gradient


def test_looking_into_the_slot_leaves_it(weight: nn.Parameter) -> None:
    assert gradient_in_slot(weight) is gradient_in_slot(weight)
    assert is_compact(weight)


def test_the_layout_is_the_parameters(owner: Owner) -> None:
    weight = nn.Parameter(torch.randn(3, 4, 3, 3, 2).movedim(-1, 2))
    own(weight, owner)
    KF.effective_weight(weight, CODE).sum().backward()
    assert is_compact(weight)
    assert weight.grad.stride() == weight.stride()


def test_to_a_dense_gradient_dense_ones_are_added(weight: nn.Parameter, monkeypatch: pytest.MonkeyPatch) -> None:
    gradient = weight.grad
    monkeypatch.setattr(SumOfUses, "dense", lambda _: pytest.fail("there was a compact one"))
    KF.effective_weight(weight, CODE).sum().backward()
    assert weight.grad is gradient
    torch.testing.assert_close(gradient, 2 * GRADIENT)


def test_hooks_get_plain_tensors(weight: nn.Parameter) -> None:
    seen: list[type] = []
    handles = [
        weight.register_hook(lambda gradient: seen.append(type(gradient))),
        weight.register_post_accumulate_grad_hook(lambda parameter: seen.append(type(parameter.grad))),
    ]
    for expected in ([Tensor, Tensor], [Tensor, Tensor, Tensor, Tensor]):
        weight.grad = None
        KF.effective_weight(weight, CODE).sum().backward()
        assert seen == expected
    for handle in handles:
        handle.remove()
    weight.grad = None
    KF.effective_weight(weight, CODE).sum().backward()
    assert is_compact(weight)


def test_what_inference_mode_reads_can_be_added_to(weight: nn.Parameter) -> None:
    """As where a logger is a function under `torch.inference_mode`."""
    with torch.inference_mode():
        assert weight.grad.norm() > 0
    KF.effective_weight(weight, CODE).sum().backward()
    torch.testing.assert_close(weight.grad, 2 * GRADIENT)


def test_setting_and_deleting(weight: nn.Parameter) -> None:
    other = torch.ones(3, 4, 2)
    weight.grad = other
    assert weight.grad is other
    del weight.grad
    assert weight.grad is None
    with pytest.raises(RuntimeError, match="assign a gradient of size"):
        weight.grad = torch.ones(2)


@pytest.mark.parametrize("first_gone", [0, 1])
def test_it_ends_with_the_last_owner(first_gone: int) -> None:
    weight, owners = nn.Parameter(torch.randn(3, 4, 2)), [Owner(), Owner()]
    for owner in owners:
        own(weight, owner)
    del owner
    while owners:
        owners.pop(first_gone if len(owners) == 2 else 0)
        gc.collect()
        weight.grad = None
        KF.effective_weight(weight, CODE).sum().backward()
        assert is_compact(weight) == bool(owners)
        assert torch.equal(weight.grad, GRADIENT)


def test_parameters_of_other_classes_and_leaves_stay_what_they_are(owner: Owner) -> None:
    class Special(nn.Parameter):
        pass

    for leaf in (Special(torch.randn(3, 4, 2)), torch.randn(3, 4, 2, requires_grad=True)):
        kind = type(leaf)
        own(leaf, owner)
        assert type(leaf) is kind
        assert not isinstance(leaf, OwnedParameter)
        KF.effective_weight(leaf, CODE).sum().backward()
        assert torch.equal(Tensor.grad.__get__(leaf), GRADIENT)


def test_without_torchs_private_name_gradients_are_dense(weight: nn.Parameter, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch._C, "_will_engine_execute_node")
    weight.grad = None
    KF.effective_weight(weight, CODE).sum().backward()
    assert torch.equal(Tensor.grad.__get__(weight), GRADIENT)


def test_outside_a_backward_pass_nothing_is_taken(weight: nn.Parameter) -> None:
    node = KF.effective_weight(weight, CODE).grad_fn
    with torch.no_grad():
        assert not takes_compact_gradient(weight, node)


def test_looks_like_a_parameter(weight: nn.Parameter) -> None:
    assert isinstance(weight, nn.Parameter)
    assert repr(weight) == repr(nn.Parameter(weight.data))
    assert type(weight.detach()) is type(weight.data) is type(weight * 1) is Tensor


def test_a_parameter_made_of_it(weight: nn.Parameter, owner: Owner) -> None:
    other = nn.Parameter(weight, requires_grad=False)
    assert isinstance(other, nn.Parameter)
    assert other.data_ptr() == weight.data_ptr()
    assert other.grad is None
    other.requires_grad_()
    KF.effective_weight(other, CODE).sum().backward()
    assert not is_compact(other)
    own(other, owner)
    other.grad = None
    KF.effective_weight(other, CODE).sum().backward()
    assert is_compact(other)
    assert vars(pickle.loads(pickle.dumps(other))) == {}
    assert type(copy.deepcopy(other)) is nn.Parameter


def saved(weight: nn.Parameter, weights_only: bool) -> nn.Parameter:
    file = io.BytesIO()
    torch.save(weight, file)
    file.seek(0)
    return torch.load(file, weights_only=weights_only)


COPIES = {
    "pickle": lambda weight: pickle.loads(pickle.dumps(weight)),
    "old_pickle": lambda weight: pickle.loads(pickle.dumps(weight, protocol=2)),
    "save": lambda weight: saved(weight, weights_only=False),
    "save_weights_only": lambda weight: saved(weight, weights_only=True),
    "deepcopy": copy.deepcopy,
    "copy": copy.copy,
    "between_processes": lambda weight: pickle.loads(bytes(ForkingPickler.dumps(weight))),
}


@pytest.mark.parametrize("make", COPIES.values(), ids=COPIES)
@pytest.mark.parametrize("requires_grad", [True, False])
def test_copies_are_plain_parameters(make, requires_grad: bool, weight: nn.Parameter) -> None:
    weight.requires_grad_(requires_grad)
    weight.note = "mine"
    other = make(weight)
    plain = make(noted(nn.Parameter(weight.data.clone(), requires_grad)))
    assert type(other) is nn.Parameter
    assert torch.equal(other, weight)
    assert other.requires_grad == requires_grad
    assert other.grad is None
    assert vars(other) == vars(plain)
    assert is_compact(weight), "copying must not make the gradient dense"


def noted(parameter: nn.Parameter) -> nn.Parameter:
    parameter.note = "mine"
    return parameter


def test_one_parameter_at_two_places_stays_one(weight: nn.Parameter) -> None:
    for make in COPIES.values():
        model = nn.ParameterDict({"one": weight, "other": weight})
        first, second = make([model["one"], model["other"]])
        assert first is second


def test_processes_share_its_memory(weight: nn.Parameter) -> None:
    other = pickle.loads(bytes(ForkingPickler.dumps(weight)))
    with torch.no_grad():
        other.fill_(7)
    assert weight.is_shared()
    assert torch.equal(weight.detach(), torch.full((3, 4, 2), 7.0))


def test_zero_in_compact_form(weight: nn.Parameter) -> None:
    zero_compact(weight)
    assert is_compact(weight)
    KF.effective_weight(weight, CODE).sum().backward()
    assert is_compact(weight)
    assert torch.equal(weight.grad, GRADIENT)


def test_scaling_the_parts_scales_the_gradient(weight: nn.Parameter, owner: Owner) -> None:
    KF.effective_weight(weight, CODE, gate=torch.arange(4.0)).sum().backward()
    other = nn.Parameter(torch.ones(2))
    other.grad = torch.tensor([1.0, 2.0])
    parts = linear_parts([gradient_in_slot(weight), gradient_in_slot(other)])
    assert [part.numel() for part in parts] == [8, 8, 2]
    for stand_in in with_grads(parts):
        stand_in.grad.mul_(3)
    torch.testing.assert_close(weight.grad, 3 * GRADIENT * (1 + torch.arange(4.0))[:, None])
    assert other.grad.tolist() == [3, 6]


def test_the_class_has_nothing_else_of_its_own() -> None:
    """What else a parameter is asked for must be torch's."""
    own_names = {name for name in vars(OwnedParameter) if not name.startswith("__")}
    assert own_names == {"grad", "as_parameter", "detach"}
