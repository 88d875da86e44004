"""Whatever is done to gradients between backward and step, KShotSGD then moves the weights where torch's SGD does."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from alike import KINDS, assert_alike, is_compact, loss_of, make
from torch import Tensor, nn

from kshot_ext.optim import KShotSGD

pytestmark = pytest.mark.usefixtures("native_backend", "one_thread")


def copy_flat(grad: Tensor) -> None:
    """Out to one vector and back, as in hand-made averaging over processes."""
    flat = torch.cat([grad.flatten()]) * 0.5
    grad.copy_(flat.view(grad.shape))


def through_numpy(grad: Tensor) -> None:
    array = grad.numpy()
    array[0] = 0
    np.clip(array, -0.1, 0.1, out=array)


def keep_a_view(grad: Tensor) -> None:
    rows = grad.unbind(0)
    grad.mul_(2)
    rows[1].zero_()


def assign_data(grad: Tensor) -> None:
    grad.data = torch.ones_like(grad)


EDITS: dict[str, Callable[[Tensor], object]] = {
    "data_zero": lambda g: g.data.zero_(),
    "data_clamp": lambda g: g.data.clamp_(-0.1, 0.1),
    "data_item": lambda g: g.data.__setitem__(0, 0.0),
    "data_assigned": assign_data,
    "detach": lambda g: g.detach().mul_(0.1),
    "detach_in_place": lambda g: g.detach_().mul_(0.1),
    "requires_grad": lambda g: g.requires_grad_(False).zero_(),
    "item": lambda g: g.__setitem__(0, 0.0),
    "slice": lambda g: g.__setitem__((slice(None), slice(1, None)), 0.0),
    "ellipsis": lambda g: g.__setitem__((..., 0), 3.0),
    "mask": lambda g: g.__setitem__(g > 0, 0.0),
    "indices": lambda g: g.__setitem__(torch.tensor([0, 2]), 1.0),
    "select": lambda g: g[0].zero_(),
    "view": lambda g: g.contiguous().view(-1).zero_(),
    "flatten": lambda g: g.flatten(1).mul_(0.0),
    "narrow": lambda g: g.narrow(0, 0, 1).zero_(),
    "transpose": lambda g: g.transpose(0, 1).zero_(),
    "permute": lambda g: g.movedim(0, -1).zero_(),
    "unsqueeze": lambda g: g.unsqueeze(0).zero_(),
    "chunk": lambda g: g.chunk(2)[0].fill_(2.0),
    "split": lambda g: g.split(1)[1].neg_(),
    "diagonal": lambda g: g.diagonal(dim1=0, dim2=1).zero_(),
    "as_strided": lambda g: g.as_strided((2,), (1,)).zero_(),
    "unfold": lambda g: g.unfold(0, 2, 1)[0].zero_(),
    "a_view_kept": keep_a_view,
    "out": lambda g: torch.mul(g, 0.5, out=g),
    "out_nan_to_num": lambda g: torch.nan_to_num(g, 0.0, out=g),
    "out_of_others": lambda g: torch.add(torch.ones_like(g), 1, out=g),
    "clamp": lambda g: g.clamp_(-0.1, 0.1),
    "scale": lambda g: g.mul_(0.5),
    "scale_by_tensor": lambda g: g.mul_(torch.tensor(0.5)),
    "divide": lambda g: g.div_(3),
    "multiply_by_mask": lambda g: g.__imul__((torch.arange(g.numel()) % 2).view(g.shape)),
    "subtract_mean": lambda g: g.sub_(g.mean()),
    "centralise": lambda g: g.add_(-g.mean(dim=tuple(range(1, g.dim())), keepdim=True)),
    "standardise": lambda g: g.div_(g.std() + 1e-8),
    "noise": lambda g: g.add_(torch.randn(g.shape, generator=torch.Generator().manual_seed(1))),
    "normal": lambda g: g.normal_(generator=torch.Generator().manual_seed(1)),
    "lerp": lambda g: g.lerp_(torch.ones_like(g), 0.5),
    "addcmul": lambda g: g.addcmul_(torch.ones_like(g), torch.ones_like(g), value=0.1),
    "masked_fill": lambda g: g.masked_fill_(g > 0, 0.0),
    "index_fill": lambda g: g.index_fill_(0, torch.tensor([0]), 0.0),
    "index_add": lambda g: g.index_add_(0, torch.tensor([0]), torch.ones_like(g)[:1]),
    "scatter": lambda g: g.scatter_(0, torch.zeros_like(g, dtype=torch.int64), 1.0),
    "where_copied": lambda g: g.copy_(torch.where(g > 0, g, torch.zeros_like(g))),
    "fill": lambda g: g.fill_(0.3),
    "fill_diagonal": lambda g: g.flatten(1).fill_diagonal_(0.0),
    "sign": lambda g: g.sign_(),
    "renorm": lambda g: g.renorm_(2, 0, 0.1),
    "swap_rows": lambda g: g.copy_(g.flip(0)),
    "set": lambda g: g.set_(torch.ones_like(g)),
    "foreach_scale": lambda g: torch._foreach_mul_([g], 0.1),
    "foreach_zero": lambda g: torch._foreach_zero_([g]),
    "foreach_masks": lambda g: torch._foreach_mul_([g], [(g > 0).double()]),
    "foreach_add": lambda g: torch._foreach_add_([g], [torch.ones_like(g)], alpha=0.1),
    "flat_copy": copy_flat,
    "numpy": through_numpy,
    "asarray": lambda g: np.asarray(g).__setitem__(0, 0.0),
    "dlpack": lambda g: torch.from_dlpack(g).zero_(),
    "numpy_dlpack": lambda g: torch.from_dlpack(np.from_dlpack(g)).mul_(0.5),
    "shared_storage": lambda g: torch.tensor([], dtype=g.dtype).set_(g.untyped_storage()).mul_(0.5),
    "share_memory": lambda g: g.share_memory_().mul_(0.5),
    "as_tensor": lambda g: torch.as_tensor(g).mul_(0.5),
    "inside_inference_mode": torch.inference_mode()(lambda g: g.mul_(0.5)),
}


@pytest.mark.parametrize("edit", EDITS.values(), ids=EDITS)
def test_an_edit_counts(edit: Callable[[Tensor], object]) -> None:
    def work(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        loss_of(model).backward()
        assert all(is_compact(p) == isinstance(optimizer, KShotSGD) for p in model.parameters())
        with torch.no_grad():
            for parameter in (model[0].weight, model[3].weight):
                edit(parameter.grad)
        optimizer.step()

    assert_alike(work)


@pytest.mark.parametrize("edit", [EDITS[name] for name in ("item", "data_clamp", "numpy", "a_view_kept")])
def test_an_edit_between_two_backward_passes_counts(edit: Callable[[Tensor], object]) -> None:
    """And the second pass adds to the tensor that the first left, so that views taken before see the sum."""

    def work(model: nn.Module, optimizer: torch.optim.Optimizer) -> Tensor:
        loss_of(model).backward()
        with torch.no_grad():
            edit(model[0].weight.grad)
        before, row = model[0].weight.grad, model[0].weight.grad[1]
        loss_of(model).backward()
        assert model[0].weight.grad is before
        optimizer.step()
        return row

    assert_alike(work)


ASSIGNMENTS: dict[str, Callable[[nn.Parameter], None]] = {
    "product": lambda p: setattr(p, "grad", p.grad * 0.5),
    "clone": lambda p: (setattr(p, "grad", p.grad.clone()), p.grad.zero_()),
    "other": lambda p: setattr(p, "grad", torch.ones_like(p)),
    "none": lambda p: setattr(p, "grad", None),
    "deleted": lambda p: delattr(p, "grad"),
    "same": lambda p: setattr(p, "grad", p.grad),
    "of_data": lambda p: p.data.add_(p.grad, alpha=-0.1),
    "clip_norm": lambda p: torch.nn.utils.clip_grad_norm_([p], 0.1),
    "clip_other_norm": lambda p: torch.nn.utils.clip_grad_norm_([p], 0.1, norm_type=1.0, foreach=False),
    "clip_values": lambda p: torch.nn.utils.clip_grad_value_([p], 0.01),
}


@pytest.mark.parametrize("change", ASSIGNMENTS.values(), ids=ASSIGNMENTS)
def test_what_becomes_of_the_parameters_gradient_counts(change: Callable[[nn.Parameter], None]) -> None:
    def work(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        loss_of(model).backward()
        with torch.no_grad():
            change(model[0].weight)
        optimizer.step()

    assert_alike(work)


READINGS: dict[str, Callable[[Tensor], object]] = {
    "norm": lambda g: [g.norm(order) for order in (0, 0.5, 1, 2, 3, float("inf"))],
    "norm_call": lambda g: [g.norm(), torch.norm(g), g.norm(2, dim=0), torch.linalg.vector_norm(g, 3)],
    "tolist": lambda g: g.tolist(),
    "numpy": lambda g: g.numpy().copy(),
    "array": lambda g: np.asarray(g).copy(),
    "histc": lambda g: torch.histc(g, 5, -1, 1),
    "isnan": lambda g: (g.isnan().any(), torch.isfinite(g).all(), bool((g != 0).any())),
    "item": lambda g: g.flatten()[0].item(),
    "quantile": lambda g: torch.quantile(g, 0.5),
    "sparsity": lambda g: (g.count_nonzero(), g.abs().mean(), g.std(), g.min(), g.max()),
    "text": lambda g: (repr(g), str(g), f"{g.sum():.3f}"),
    "cosine": lambda g: torch.cosine_similarity(g.flatten(), torch.ones(g.numel()).double(), dim=0),
    "foreach_norm": lambda g: torch._foreach_norm([g, g], 1),
    "vector": lambda g: torch.nn.utils.parameters_to_vector([g.contiguous()]),
    "stack": lambda g: torch.stack([g, g]),
    "einsum": lambda g: torch.einsum("i...,j...->ij", g, g),
    "layout": lambda g: (g.stride(), g.is_contiguous(), g.storage_offset(), g.nbytes, g.data_ptr() % 8),
    "kind": lambda g: (type(g) is torch.Tensor, g.is_leaf, g.requires_grad, g.grad_fn, g.layout),
    "get_total_norm": lambda g: torch.nn.utils.get_total_norm([g], 3.0),
    "float": lambda g: (g.float(), g.half(), g.bfloat16()),
}


@pytest.mark.parametrize("read", READINGS.values(), ids=READINGS)
def test_a_reading_sees_the_dense_gradient_and_changes_nothing(read: Callable[[Tensor], object]) -> None:
    def work(model: nn.Module, optimizer: torch.optim.Optimizer) -> object:
        loss_of(model).backward()
        seen = read(model[0].weight.grad)
        optimizer.step()
        return seen

    results = []
    for kind in KINDS:
        model, optimizer = make(kind)
        results.append((work(model, optimizer), model[0].weight.detach()))
    assert_same_values(*results)


def assert_same_values(one: Any, other: Any) -> None:
    if isinstance(one, (tuple, list)):
        assert len(one) == len(other)
        for a, b in zip(one, other):
            assert_same_values(a, b)
    elif isinstance(one, (Tensor, np.ndarray, float)):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-9)
    else:
        assert one == other


def test_a_histogram_for_tensorboard(tmp_path: Path) -> None:
    from torch.utils.tensorboard import SummaryWriter

    model, _ = make(KShotSGD)
    loss_of(model).backward()
    with SummaryWriter(str(tmp_path)) as writer:
        writer.add_histogram("gradient", model[0].weight.grad, 0)
    assert [path.stat().st_size > 100 for path in tmp_path.iterdir()] == [True]


def reassigned_data(model: nn.Module) -> None:
    for parameter in model.parameters():
        parameter.data = parameter.data.float()


CONVERSIONS: dict[str, Callable[[nn.Module], object]] = {
    "half": lambda m: m.half(),
    "float": lambda m: m.float(),
    "bfloat16": lambda m: m.bfloat16(),
    "same": lambda m: m.double(),
    "data": reassigned_data,
    "data_and_read": lambda m: (reassigned_data(m), m[0].weight.grad.mul_(0.5)),
    "read_and_data": lambda m: (m[0].weight.grad.mul_(0.5), reassigned_data(m)),
    "share_memory": lambda m: m.share_memory(),
    "module_zero_grad": lambda m: m.zero_grad(set_to_none=False),
}


@pytest.mark.parametrize("convert", CONVERSIONS.values(), ids=CONVERSIONS)
@pytest.mark.parametrize("momentum", [0.0, 0.5])
def test_a_model_converted_between_backward_and_step(convert: Callable[[nn.Module], object], momentum: float) -> None:
    results = []
    for kind in KINDS:
        model, optimizer = make(kind, momentum=momentum)
        loss_of(model).backward()
        convert(model)
        optimizer.step()
        results.append([parameter.detach() for parameter in model.parameters()])
    assert results[0][0].dtype == results[1][0].dtype
    eps = torch.finfo(results[0][0].dtype).eps
    torch.testing.assert_close(*results, rtol=16 * eps, atol=16 * eps)


def test_swapped_tensors() -> None:
    """Conversion by `swap_tensors`, which torch's FSDP and `__future__` setting use."""

    def work(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        loss_of(model).backward()
        torch.__future__.set_swap_module_params_on_conversion(True)
        try:
            model.float()
            model.double()
        finally:
            torch.__future__.set_swap_module_params_on_conversion(False)
        optimizer.step()

    results = []
    for kind in KINDS:
        model, optimizer = make(kind, momentum=0.0)
        work(model, optimizer)
        results.append([parameter.detach() for parameter in model.parameters()])
    torch.testing.assert_close(*results, rtol=1e-6, atol=1e-6)
