import pytest
import torch
from torch import nn

from kshot_ext.nas.training.gradient_steps import GradientSteps
from kshot_ext.nn import KShotLinear
from kshot_ext.ops.compact_gradient import SumOfUses
from kshot_ext.optim import KShotSGD

CPU = torch.device("cpu")


@pytest.fixture
def weight():
    return nn.Parameter(torch.ones(3))


def test_the_gradient_is_clipped_to_its_norm_and_forgotten(weight):
    steps, optimizer = GradientSteps("float32", CPU), torch.optim.SGD([weight], lr=1.0)
    steps.backward((weight * torch.tensor([3.0, 0.0, 4.0])).sum())
    steps.step(optimizer, clip_norm=2.5)
    torch.testing.assert_close(weight.detach(), torch.tensor([-0.5, 1.0, -1.0]))
    assert weight.grad is None
    steps.backward((weight * torch.tensor([3.0, 0.0, 4.0])).sum())
    steps.step(optimizer)
    torch.testing.assert_close(weight.detach(), torch.tensor([-3.5, 1.0, -5.0]))


def test_precision_is_that_of_products(weight):
    for precision, dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16)):
        with GradientSteps(precision, CPU).autocast():
            assert (weight[None] @ weight[:, None]).dtype == dtype
    assert weight.dtype == torch.float32


def test_half_precision_needs_cuda():
    with pytest.raises(ValueError, match="precision: float16 needs a CUDA device, got cpu"):
        GradientSteps("float16", CPU)


@pytest.fixture
def scaled_steps():
    """Steps with a gradient scaler, which here works on the CPU."""
    steps = GradientSteps("float32", CPU)
    steps._scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    return steps


def test_a_scaled_step_is_clipped_at_its_true_size(weight, scaled_steps):
    optimizer = torch.optim.SGD([weight], lr=1.0)
    scaled_steps.backward((weight * torch.tensor([3.0, 0.0, 4.0])).sum())
    assert weight.grad[0] == 3 * 1024
    scaled_steps.step(optimizer, clip_norm=2.5)
    torch.testing.assert_close(weight.detach(), torch.tensor([-0.5, 1.0, -1.0]))


def test_gradients_come_at_their_true_size_and_touch_no_slot(weight, scaled_steps):
    other, factors = nn.Parameter(torch.ones(1)), torch.tensor([3.0, 0.0, 4.0])
    for steps in (scaled_steps, GradientSteps("float32", CPU)):
        found, none = steps.gradients((weight * factors).sum(), [weight, other])
        assert torch.equal(found, factors)
        assert none is None
        assert weight.grad is None


def test_scaling_and_clipping_make_no_dense_gradient_of_a_dictionary(scaled_steps, monkeypatch, native_backend):
    """And give what torch's scaler and clipping give on dense ones."""
    results = []
    for kind in (KShotSGD, torch.optim.SGD):
        torch.manual_seed(0)
        layer = KShotLinear(4, 3, num_shots=5)
        optimizer = kind(layer.parameters(), lr=1.0)
        scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
        scaled_steps._scaler = scaler
        for scale in (1.0, float("inf"), 2.0):
            output = layer(torch.ones(2, 4), torch.tensor([0.4, 0.3, 0.2, 0.1, 0.0]))
            loss = (scale * output).square().sum()
            if kind is KShotSGD:
                with monkeypatch.context() as patch:
                    patch.setattr(SumOfUses, "dense", lambda gradient: pytest.fail("a dense gradient was made"))
                    scaled_steps.backward(loss)
                    scaled_steps.step(optimizer, clip_norm=0.5)
            else:
                scaler.scale(loss).backward()
                scaler.unscale_(optimizer)
                nn.utils.clip_grad_norm_(layer.parameters(), 0.5)
                scaler.step(optimizer)
                scaler.update()
                optimizer.zero_grad()
        assert scaler.get_scale() == 512
        results.append([parameter.detach() for parameter in layer.parameters()])
    torch.testing.assert_close(*results)


def test_a_step_that_is_not_finite_is_left_out_and_the_scale_halved(weight, scaled_steps):
    optimizer = torch.optim.SGD([weight], lr=1.0)
    scaled_steps.backward((weight * float("inf")).sum())
    scaled_steps.step(optimizer, clip_norm=1.0)
    assert torch.equal(weight.detach(), torch.ones(3))
    assert scaled_steps.state_dict()["scale"] == 512
    other = GradientSteps("float32", CPU)
    other._scaler = torch.amp.GradScaler("cpu")
    other.load_state_dict(scaled_steps.state_dict())
    assert other.state_dict() == scaled_steps.state_dict()
