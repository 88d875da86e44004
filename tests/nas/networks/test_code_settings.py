import pytest

from kshot_ext.nas.networks.code_settings import CodeForm, CodeSettings


def test_default_is_the_plain_softmax_at_all_times():
    assert {CodeSettings().form_at(progress) for progress in (0, 0.3, 1)} == {CodeForm(1.0, 1.0)}


def test_share_moves_evenly_and_temperature_by_a_constant_factor():
    settings = CodeSettings(free_share_at_start=0.2, free_share=0.6, temperature_at_start=8.0, temperature=0.5)
    forms = [settings.form_at(progress) for progress in (0, 0.25, 0.5, 0.75, 1)]
    assert [form.free_share for form in forms] == pytest.approx([0.2, 0.3, 0.4, 0.5, 0.6])
    assert [form.temperature for form in forms] == pytest.approx([8, 4, 2, 1, 0.5])


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"perturbation": -0.1}, "perturbation: expected at least 0"),
        ({"spread": -1.0}, "spread"),
        ({"fixed_epochs": -1}, "fixed_epochs"),
        ({"free_share": 1.1}, "free_share: expected at most 1, got 1.1"),
        ({"free_share_at_start": -0.1}, "free_share_at_start"),
        ({"temperature": 0.0}, "temperature: expected"),
        ({"temperature_at_start": 0.0}, "temperature_at_start"),
        ({"balance": -1.0}, "balance"),
        ({"width_separation": -1.0}, "width_separation"),
        ({"width_distance": 2.1}, "width_distance"),
    ],
)
def test_rejects_settings_out_of_range(changed, message):
    with pytest.raises(ValueError, match=message):
        CodeSettings(**changed)
