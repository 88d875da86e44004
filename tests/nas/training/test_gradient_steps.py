import pytest
import torch
from torch import nn

from kshot_ext.nas.training.gradient_steps import GradientSteps

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
