"""The phantoms and the doses that they are planned to get."""

from __future__ import annotations

import pytest
import torch

from parts.phantoms import INPUTS, SIDE, planned_dose, random_phantoms, rotated


@pytest.fixture(scope="module")
def phantoms() -> tuple[torch.Tensor, torch.Tensor]:
    return random_phantoms(12, torch.Generator().manual_seed(0))


def test_structures_lie_in_the_body_and_apart(phantoms: tuple[torch.Tensor, torch.Tensor]) -> None:
    inputs, _ = phantoms
    assert inputs.shape == (12, INPUTS, SIDE, SIDE, SIDE)
    density, *structures, body = inputs.unbind(dim=1)
    assert set(body.unique().tolist()) == {0, 1}
    assert (density[body == 0] == 0).all()
    assert (density[body == 1] > 0).all()
    assert (sum(structures) <= body).all()
    assert (structures[0].sum(dim=(1, 2, 3)) > 10).all()


def test_the_target_gets_a_dose_of_one_and_nothing_is_dosed_outside_the_body(phantoms) -> None:
    inputs, dose = phantoms
    target, body = inputs[:, 1:2], inputs[:, -1:]
    torch.testing.assert_close((dose * target).sum(dim=(1, 2, 3, 4)), target.sum(dim=(1, 2, 3, 4)))
    assert (dose[body == 0] == 0).all()
    assert (dose >= 0).all()
    assert (dose * body).sum() / body.sum() < 0.5  # so the beams meet in the target


def test_a_mirrored_phantom_gets_the_mirrored_dose(phantoms) -> None:
    """The beams lie symmetrically about the first one, which comes along the rows."""
    inputs, dose = phantoms
    torch.testing.assert_close(planned_dose(inputs.flip(4)), dose.flip(4), atol=1e-3, rtol=1e-3)


def test_a_quarter_turn_and_back() -> None:
    volumes = torch.rand(1, 2, 3, 5, 5, generator=torch.Generator().manual_seed(0))
    angle = torch.tensor(torch.pi / 2)
    turned = rotated(volumes, angle)
    assert any(torch.allclose(turned, volumes.rot90(k, (3, 4)), atol=1e-5) for k in (1, 3))
    torch.testing.assert_close(rotated(turned, -angle), volumes, atol=1e-5, rtol=0)


def test_an_organ_in_the_way_is_spared(phantoms) -> None:
    inputs, dose = phantoms
    without = inputs.clone()
    without[:, 3] = 0
    organ = inputs[:, 3:4]
    assert (dose * organ).sum() < (planned_dose(without) * organ).sum()
