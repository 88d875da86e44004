"""State dicts of plain models go into converted ones, those of merged models too, with torch's strictness and words."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import kshot_ext

SHOTS = 3
CODE = torch.tensor([0.5, 0.3, 0.2])
pytestmark = pytest.mark.usefixtures("native_backend", "one_thread")


def network() -> nn.Module:
    attention = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(2), nn.Linear(9, 8), attention, nn.PReLU(8)
    )


def kshot_of(model: nn.Module) -> nn.Module:
    kshot = kshot_ext.convert(model, SHOTS)
    kshot_ext.set_code(kshot, CODE)
    return kshot


@pytest.mark.parametrize("assign", [False, True])
def test_a_plain_state_fills_all_copies(assign: bool) -> None:
    kshot, other = kshot_of(network()), network()
    other(torch.randn(4, 3, 5, 5))  # moves the statistics
    state = copy.deepcopy(other.state_dict())
    assert str(kshot.load_state_dict(other.state_dict(), assign=assign)) == "<All keys matched successfully>"
    for name, value in state.items():
        held = kshot.state_dict()[name]
        assert all(torch.equal(each, value) for each in (held if held.dim() > value.dim() else [held])), name
    x = torch.randn(2, 3, 5, 5)
    torch.testing.assert_close(kshot.eval()(x), other.eval()(x), rtol=1e-5, atol=1e-5)
    with torch.no_grad():
        kshot[0].weight[1].zero_()  # each copy has memory of its own
    assert torch.equal(kshot[0].weight[0], state["0.weight"])
    assert all(torch.equal(other.state_dict()[name], value) for name, value in state.items())


def test_a_merged_state_goes_back_and_a_kshot_one_from_model_to_model() -> None:
    kshot = kshot_of(network())
    merged = kshot_ext.merge(kshot)
    again = kshot_of(network())
    again.load_state_dict(merged.state_dict())
    x = torch.randn(2, 3, 5, 5)
    torch.testing.assert_close(again.eval()(x), kshot.eval()(x), rtol=1e-4, atol=1e-5)
    again.load_state_dict(kshot.state_dict())
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in kshot.state_dict().items())
    network().load_state_dict(merged.state_dict())


def test_what_does_not_fit_is_told_as_torch_does() -> None:
    plain, kshot = nn.Sequential(nn.Linear(4, 2)), kshot_ext.convert(nn.Sequential(nn.Linear(4, 2)), SHOTS)
    wrong = {"0.weight": torch.zeros(2, 5), "more": torch.zeros(1)}
    messages = []
    for model in (plain, kshot):
        with pytest.raises(RuntimeError) as raised:
            model.load_state_dict(wrong)
        messages.append(str(raised.value))
    assert messages[1] == messages[0].replace(
        "in current model is torch.Size([2, 4])", "in current model is torch.Size([3, 2, 4])"
    )
    found = kshot.load_state_dict({"0.weight": torch.ones(2, 4), "more": torch.zeros(1)}, strict=False)
    assert (found.missing_keys, found.unexpected_keys) == (["0.bias"], ["more"])
    assert torch.equal(kshot[0].weight, torch.ones(3, 2, 4))
    with pytest.raises(RuntimeError, match=r"size mismatch for 0\.weight"):  # of another number of copies
        kshot.load_state_dict(kshot_ext.convert(plain, 2).state_dict())


def test_a_state_from_before_norms_counted_batches_loads_as_in_torch() -> None:
    plain = nn.Sequential(nn.BatchNorm2d(4))
    state = {name: value for name, value in plain.state_dict().items() if "num_batches" not in name}
    kshot = kshot_ext.convert(plain, 2)
    kshot[0].num_batches_tracked.fill_(7)
    kshot.load_state_dict(state)
    assert kshot[0].num_batches_tracked == 7
    state_of_today = plain.state_dict()
    del state_of_today["0.num_batches_tracked"]
    with pytest.raises(RuntimeError, match=r'Missing key.* "0\.num_batches_tracked"'):
        kshot.load_state_dict(state_of_today)


def test_a_narrow_model_loads_what_its_wide_one_loads() -> None:
    wide = kshot_ext.convert(nn.Sequential(nn.Linear(4, 6)), 2)
    narrow = kshot_ext.narrow(wide, nn.Sequential(nn.Linear(4, 3)))
    plain = nn.Sequential(nn.Linear(4, 6))
    narrow.load_state_dict(plain.state_dict())
    assert torch.equal(wide[0].weight[1], plain[0].weight)
