"""Copies start as plain layers do."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import kshot_ext
from kshot_ext.nn import init

SHOTS = 3


@pytest.mark.parametrize(
    "name", ["kaiming_normal_", "xavier_uniform_", "orthogonal_", "normal_", "trunc_normal_", "zeros_"]
)
def test_functions_start_each_copy_as_a_plain_weight(name: str) -> None:
    """From the same random numbers."""
    dictionary = nn.Parameter(torch.randn(SHOTS, 4, 3, 2, 2))
    torch.manual_seed(0)
    wanted = [getattr(nn.init, name)(torch.empty(4, 3, 2, 2)) for _ in range(SHOTS)]
    torch.manual_seed(0)
    assert getattr(init, name)(dictionary) is dictionary
    assert torch.equal(dictionary, torch.stack(wanted))
    assert dictionary.grad_fn is None


def test_arguments_are_torchs_and_other_names_are_not_there() -> None:
    dictionary = torch.empty(2, 3, 4)
    init.constant_(dictionary, val=2.0)
    assert (dictionary == 2).all()
    assert "kaiming_uniform_" in dir(init)
    for name in ("calculate_gain", "torch_", "_no_grad_normal_"):
        with pytest.raises(AttributeError, match=f"module 'kshot_ext.nn.init' has no attribute '{name}'"):
            getattr(init, name)


LAYERS = {
    "conv": lambda: nn.Conv2d(4, 6, 3, groups=2),
    "linear": lambda: nn.Linear(5, 3),
    "batch_norm": lambda: nn.BatchNorm2d(4),
    "group_norm": lambda: nn.GroupNorm(2, 4),
    "layer_norm": lambda: nn.LayerNorm(4),
    "embedding": lambda: nn.Embedding(5, 4, padding_idx=1),
    "conv_transpose": lambda: nn.ConvTranspose1d(4, 2, 3),
    "bits": lambda: kshot_ext.nn.QuantisedLinear(5, 3, weight_bits=4, activation_bits=4),
}


@pytest.mark.parametrize("name", LAYERS)
def test_reset_parameters_starts_each_copy_as_torch_does(name: str) -> None:
    plain = LAYERS[name]()
    kshot = kshot_ext.convert(plain, SHOTS)
    for tensor in kshot.state_dict().values():
        tensor.fill_(9)
    torch.manual_seed(0)
    wanted = []
    for _ in range(SHOTS):
        plain.reset_parameters()
        wanted.append({n: parameter.detach().clone() for n, parameter in plain.named_parameters()})
    torch.manual_seed(0)
    kshot.reset_parameters()
    for own, dictionary in kshot.named_parameters():
        assert torch.equal(dictionary, torch.stack([copy[own] for copy in wanted])), own
        assert dictionary.requires_grad
    for own, buffer in plain.named_buffers():
        assert torch.equal(kshot.get_buffer(own), buffer), own


def test_attention_starts_again() -> None:
    kshot = kshot_ext.nn.KShotMultiheadAttention(8, 2, num_shots=SHOTS)
    with torch.no_grad():
        for parameter in kshot.parameters():
            parameter.fill_(9)
    kshot.reset_parameters()
    bound = (6 / (8 + 24)) ** 0.5  # Xavier's, of a weight [24, 8]
    assert 0.9 * bound < kshot.in_proj_weight.abs().max() <= bound
    assert not torch.equal(kshot.in_proj_weight[0], kshot.in_proj_weight[1])
    assert not kshot.in_proj_bias.any()
    assert not kshot.out_proj.bias.any()


def test_a_users_function_sees_plain_layers() -> None:
    def start(layer: nn.Module) -> None:
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out")
            layer.bias.data.fill_(0.5)
        elif isinstance(layer, nn.Linear):
            layer.weight = nn.Parameter(torch.full_like(layer.weight, 3.0))
        elif isinstance(layer, nn.PReLU):
            nn.init.ones_(layer.weight)

    plain = nn.Sequential(nn.Conv2d(3, 8, 3), nn.PReLU(), nn.Linear(4, 2))
    kshot = kshot_ext.convert(plain, SHOTS)
    before = dict(kshot.named_parameters())
    torch.manual_seed(0)
    wanted = []
    for _ in range(SHOTS):
        plain[0].apply(start)
        wanted.append(plain[0].weight.detach().clone())
    torch.manual_seed(0)
    assert init.apply_to_copies(kshot, start) is kshot
    assert torch.equal(kshot[0].weight, torch.stack(wanted))
    assert (kshot[0].bias == 0.5).all()
    assert kshot[1].weight == 1
    assert (kshot[2].weight == 3).all()
    assert all(parameter is before[name] for name, parameter in kshot.named_parameters())


def test_a_narrow_layer_starts_its_own_part() -> None:
    wide = kshot_ext.convert(nn.Sequential(nn.Linear(4, 6)), 2)
    narrow = kshot_ext.narrow(wide, nn.Sequential(nn.Linear(4, 3)))
    before = wide[0].weight.detach().clone()
    narrow[0].reset_parameters()
    assert torch.equal(wide[0].weight[:, 3:], before[:, 3:])
    assert not torch.equal(wide[0].weight[:, :3], before[:, :3])
