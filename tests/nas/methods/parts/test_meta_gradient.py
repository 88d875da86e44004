"""Also of calls of second order through K-shot layers, whose native kernels differentiate once."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import kshot_ext
from kshot_ext.nas.methods.parts.meta_gradient import meta_gradient
from kshot_ext.nn import KShotChain, KShotConvNormAct


def test_of_a_quadratic_it_is_what_one_works_out():
    w, unused = nn.Parameter(torch.tensor([1.0, -2.0])), nn.Parameter(torch.tensor(5.0))
    s = torch.tensor([3.0, 0.5], requires_grad=True)
    # lesson = sum s w^3, examination = sum w^2:  w' = w - 3 r s w^2,  d/ds = 2 w' * (-3 r w^2)
    found = meta_gradient(lambda: (s * w**3).sum(), lambda: (w**2).sum(), [w, unused], [s], 0.1)
    moved = torch.tensor([1 - 0.9, -2 - 0.6])
    torch.testing.assert_close(found[0], 2 * moved * -0.3 * torch.tensor([1.0, 4.0]))
    assert torch.equal(w, torch.tensor([1.0, -2.0]))
    assert w.grad is unused.grad is s.grad is None


def layers(dtype):
    generator = torch.Generator().manual_seed(0)
    chain = KShotChain(
        KShotConvNormAct(3, 12, 1, activation="relu6", num_shots=2),
        KShotConvNormAct(12, 12, 3, padding=1, groups=12, activation="relu6", num_shots=2),
        KShotConvNormAct(12, 4, 1, activation="identity", num_shots=2),
    )
    with torch.no_grad():
        for parameter in chain.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.5)
    return chain.to(dtype)


@pytest.mark.usefixtures("native_backend")
@pytest.mark.parametrize("mode", ["train", "eval"])
def test_it_goes_through_chains_of_kshot_layers(mode):
    """In float32 the native chains serve what is of first order; float64 takes the sequence of layers."""
    images = torch.randn(6, 3, 6, 6, generator=torch.Generator().manual_seed(1))
    labels, shaper = torch.tensor([0, 1, 2, 3, 0, 1]), torch.tensor([0.3, -0.2])

    def found(dtype):
        chain, s = layers(dtype), shaper.to(dtype).requires_grad_()
        getattr(chain, mode)()
        kshot_ext.set_code(chain, torch.tensor([0.25, 0.75], dtype=dtype))
        before = copy.deepcopy(chain.state_dict())

        def logits(part):
            return chain(images[part].to(dtype).contiguous(memory_format=torch.channels_last)).mean((2, 3))

        def lesson():  # the gate depends on the weights, so that the second derivative does
            out = logits(slice(0, 3))
            return (out[0, :2] * s).sum().sigmoid() * F.cross_entropy(out, labels[:3])

        def examination():
            return F.cross_entropy(logits(slice(3, 6)), labels[3:])

        weights = list(chain.parameters())
        gradient = meta_gradient(lesson, examination, weights, [s], 0.5)[0]
        assert all(torch.equal(chain.state_dict()[n], before[n]) for n, _ in chain.named_parameters())

        def after(shaped):
            s.data.copy_(shaped)
            twin = copy.deepcopy(dict(chain.named_parameters()))
            steps = torch.autograd.grad(lesson(), weights)
            with torch.no_grad():
                for weight, step in zip(weights, steps):
                    weight.sub_(0.5 * step)
                value = examination().item()
                for weight, kept in zip(weights, twin.values()):
                    weight.copy_(kept)
            return value

        return gradient, after

    gradient, after = found(torch.float64)
    for index in range(2):
        nudge = torch.zeros(2, dtype=torch.float64)
        nudge[index] = 1e-5
        numeric = (after(shaper.double() + nudge) - after(shaper.double() - nudge)) / 2e-5
        assert abs(numeric) > 1e-4
        assert float(gradient[index]) == pytest.approx(numeric, rel=1e-6)
    single, _ = found(torch.float32)
    torch.testing.assert_close(single, gradient.float(), rtol=1e-3, atol=1e-5)


def test_weights_are_put_back_when_an_examination_fails():
    w = nn.Parameter(torch.tensor([0.1, 0.2]))
    s = torch.tensor(1.0, requires_grad=True)

    def fails():
        assert not torch.equal(w, torch.tensor([0.1, 0.2]))
        raise RuntimeError("no images")

    with pytest.raises(RuntimeError, match="no images"):
        meta_gradient(lambda: (s * w**2).sum(), fails, [w], [s], 0.1)
    assert torch.equal(w, torch.tensor([0.1, 0.2]))
