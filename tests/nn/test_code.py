"""The code of modules: given, set, checked, and forgotten by copies."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable

import pytest
import torch
from torch import nn

import kshot_ext
from kshot_ext.nn import KShotBatchNorm2d, KShotConv2d, KShotLinear, KShotModule

CODE = torch.tensor([0.5, 0.25, 0.25])
pytestmark = pytest.mark.usefixtures("native_backend", "one_thread")


def network() -> nn.Sequential:
    return nn.Sequential(
        KShotConv2d(3, 4, 3, num_shots=3),
        KShotBatchNorm2d(4, num_shots=3),
        nn.Flatten(),
        KShotLinear(16, 2, num_shots=3),
    )


def images(batch: int = 2) -> torch.Tensor:
    return torch.randn(batch, 3, 4, 4)


def test_set_code_reaches_every_layer_and_its_graph() -> None:
    model, code = network(), CODE.clone().requires_grad_()
    kshot_ext.set_code(model, code)
    model(images()).square().sum().backward()
    assert code.grad.count_nonzero() == 3


def test_set_code_per_sample() -> None:
    model, x = network().eval(), images()
    kshot_ext.set_code(model, torch.eye(3)[:2])
    both = model(x)
    for n in range(2):
        kshot_ext.set_code(model, torch.eye(3)[n])
        torch.testing.assert_close(both[n : n + 1], model(x[n : n + 1]))


def test_a_code_given_with_the_call_wins() -> None:
    layer, x = KShotLinear(4, 2, num_shots=3), torch.randn(5, 4)
    kshot_ext.set_code(layer, CODE)
    expected = nn.functional.linear(x, layer.weight[0], layer.bias[0])
    torch.testing.assert_close(layer(x, torch.eye(3)[0]), expected)


def test_without_a_code_a_layer_says_what_to_do() -> None:
    layer = KShotLinear(4, 2, num_shots=3)
    message = "KShotLinear needs a code of 3 entries: pass it to forward, or call kshot_ext.set_code"
    with pytest.raises(ValueError, match=message):
        layer(torch.zeros(5, 4))
    kshot_ext.set_code(layer, CODE)
    kshot_ext.set_code(layer, None)
    with pytest.raises(ValueError, match=message):
        layer(torch.zeros(5, 4))


@pytest.mark.parametrize("size", [(2,), (4, 4), (), (1, 1, 3)], ids=str)
def test_set_code_names_the_layer_that_it_does_not_fit(size: tuple[int, ...]) -> None:
    model = network()
    kshot_ext.set_code(model, CODE)
    with pytest.raises(ValueError, match=r"layer '0' keeps 3 copies: code must be \[3\] or \[N, 3\], got \["):
        kshot_ext.set_code(model, torch.zeros(size))
    model(images())  # the former code is still there


def test_set_code_needs_a_kshot_layer() -> None:
    with pytest.raises(ValueError, match=r"Linear holds no K-shot layer; make some with kshot_ext.convert\(model\)"):
        kshot_ext.set_code(nn.Linear(2, 2), CODE)


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ([0.5, torch.nan, 0.5], r"code must be finite, got \[0.5, nan, 0.5\]"),
        ([torch.inf, 0.0, 0.0], r"code must be finite, got \[inf, 0, 0\]"),
        ([1.5, -0.5, 0.0], r"code must be non-negative, got \[1.5, -0.5, 0\]"),
        ([0.5, 0.25, 0.0], r"each row of code must sum to 1, got sums \[0.75\]"),
        ([[1.0, 0.0, 0.0], [0.5, 0.5, 0.5]], r"each row of code must sum to 1, got sums \[1, 1.5\]"),
    ],
)
@pytest.mark.parametrize("given", [True, False], ids=["given", "set"])
def test_check_code(code: list, message: str, given: bool) -> None:
    layer, x = KShotLinear(4, 2, num_shots=3), torch.zeros(2, 4)
    layer.check_code = True
    layer(x, CODE)  # a good one passes
    if not given:
        kshot_ext.set_code(layer, torch.tensor(code))
    with pytest.raises(ValueError, match=message):
        layer(x, torch.tensor(code) if given else None)


def test_codes_are_not_checked_unless_asked_for() -> None:
    assert not KShotModule(2).check_code
    assert KShotLinear(4, 2, num_shots=3)(torch.ones(1, 4), torch.full((3,), torch.nan)).isnan().all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_check_code_allows_rounding(dtype: torch.dtype) -> None:
    layer = KShotLinear(4, 2, num_shots=3)
    layer.check_code = True
    layer(torch.zeros(2, 4), torch.tensor([0.1, 0.2, 0.7]).to(dtype))


def saved_and_loaded(model: nn.Module) -> nn.Module:
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False)  # written just now, by this test


@pytest.mark.parametrize("duplicate", [copy.deepcopy, saved_and_loaded])
def test_copies_forget_a_code_that_hangs_on_a_graph(duplicate: Callable[[nn.Module], nn.Module]) -> None:
    model, x = network().eval(), images()
    kshot_ext.set_code(model, (CODE.clone().requires_grad_() * 2).softmax(0))
    twin = duplicate(model)
    with pytest.raises(ValueError, match="needs a code"):
        twin(x)
    model(x)  # the original keeps its own
    for one in (model, twin):
        kshot_ext.set_code(one, CODE)
    assert torch.equal(model(x), twin(x))


def test_state_dict_holds_no_code() -> None:
    model, without = network(), network()
    kshot_ext.set_code(model, CODE)
    assert list(model.state_dict()) == list(without.state_dict())


def test_a_code_set_inside_of_a_vmap_ends_with_it() -> None:
    model, x = network().eval(), images()

    def function(code: torch.Tensor) -> torch.Tensor:
        kshot_ext.set_code(model, code)
        return model(x)

    torch.func.vmap(function)(torch.stack([CODE, CODE]))
    with pytest.raises(RuntimeError, match=r"a torch\.func\.vmap that has ended.*a code that was set inside of it"):
        model(x)
    torch.func.grad(lambda code: function(code).sum())(CODE)
    torch.testing.assert_close(model(x), function(CODE))  # a code of a finished gradient is a tensor as any other


@pytest.mark.parametrize("dim", [0, -1])
def test_check_code_sees_every_entry_under_function_transforms(dim: int) -> None:
    layer, x = KShotLinear(4, 2, num_shots=3), torch.ones(1, 4)
    layer.check_code = True
    good = torch.stack([CODE, torch.eye(3)[0]])
    bad = good * torch.tensor([[1.0], [1.5]])

    def loss(code: torch.Tensor) -> torch.Tensor:
        return layer(x, code).sum()

    for transformed in (loss, torch.func.grad(loss)):
        torch.func.vmap(transformed, dim)(good.movedim(0, dim))
        with pytest.raises(ValueError, match=r"each row of code must sum to 1, got sums \[1, 1.5\]"):
            torch.func.vmap(transformed, dim)(bad.movedim(0, dim))
