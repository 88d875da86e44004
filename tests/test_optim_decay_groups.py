"""Which parameters decay, in plain and in K-shot models."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.utils import parametrize

import kshot_ext
from kshot_ext.optim import decay_groups


def test_biases_and_norm_parameters_do_not_decay() -> None:
    plain = nn.Sequential(
        nn.Conv2d(2, 3, 1), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(3, 2), nn.LayerNorm(2), nn.BatchNorm1d(2)
    )
    for module in (plain, kshot_ext.convert(plain, 4)):
        weights = {module[0].weight, module[3].weight}
        decaying, others = decay_groups(module, 0.1)
        assert set(decaying["params"]) == weights
        assert set(others["params"]) == set(module.parameters()) - weights
        assert (decaying["weight_decay"], others["weight_decay"]) == (0.1, 0.0)
        assert [group["weight_decay"] for group in decay_groups(module, 0.1, decay_norms=True)] == [0.1, 0.1]
    assert len(decay_groups(nn.BatchNorm2d(3), 0.1)) == 1


def test_attention_and_embeddings_are_sorted_as_plain_ones() -> None:
    plain = nn.ModuleList([nn.MultiheadAttention(4, 2), nn.Embedding(5, 4), nn.ConvTranspose2d(4, 2, 1)])
    names = [[], []]
    for module, found in zip((plain, kshot_ext.convert(plain, 3)), names):
        of_parameter = {parameter: name for name, parameter in module.named_parameters()}
        found += [[of_parameter[each] for each in group["params"]] for group in decay_groups(module, 0.1)]
    assert names[0] == names[1]
    assert names[0][1] == ["0.in_proj_bias", "0.out_proj.bias", "2.bias"]


class Doubled(nn.Module):
    """A parametrisation."""

    def forward(self, tensor: torch.Tensor) -> torch.Tensor:
        return 2 * tensor


def test_computed_parameters_are_sorted_as_what_they_are_computed_from() -> None:
    plain = nn.Sequential(nn.Linear(3, 2), nn.LayerNorm(2))
    for module in (plain, kshot_ext.convert(plain, 4)):
        for layer in module:
            parametrize.register_parametrization(layer, "weight", Doubled())
        names = {parameter: name for name, parameter in module.named_parameters()}
        decaying, others = ({names[each] for each in group["params"]} for group in decay_groups(module, 0.1))
        assert decaying == {"0.parametrizations.weight.original"}
        assert others == {"0.bias", "1.bias", "1.parametrizations.weight.original"}


def test_a_step_shrinks_what_decays_alone() -> None:
    kshot = kshot_ext.convert(nn.Sequential(nn.Linear(3, 2), nn.LayerNorm(2)), 2)
    before = {name: parameter.detach().clone() for name, parameter in kshot.named_parameters()}
    for parameter in kshot.parameters():
        parameter.grad = torch.zeros_like(parameter)
    torch.optim.SGD(decay_groups(kshot, 0.5), lr=0.1).step()
    for name, parameter in kshot.named_parameters():
        torch.testing.assert_close(parameter.detach(), before[name] * (0.95 if name == "0.weight" else 1.0))
