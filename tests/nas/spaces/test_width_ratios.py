import pytest

from kshot_ext.nas.spaces.width_ratios import parse_ratios, scaled


@pytest.mark.parametrize(
    ("text", "ratios"),
    [
        ("0.25,0.5,1", (0.25, 0.5, 1.0)),
        ("0.2-1.0", (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)),
        (" .9 - 1 ", (0.9, 1.0)),
    ],
)
def test_reads_lists_and_ranges(text, ratios):
    assert parse_ratios(text) == ratios


@pytest.mark.parametrize(
    "text", ["", "1", "1,0.5", "0.5,0.75", "0,1", "0.5,0.5,1", "0.25-1", "0.2-0.9", "half,1", "nan,1"]
)
def test_refuses_others(text):
    with pytest.raises(ValueError, match="widths: expected"):
        parse_ratios(text)


def test_halves_are_rounded_up_whatever_floating_point_makes_of_them():
    for channels in range(1, 200):
        for tenths in range(1, 11):
            assert scaled(channels, tenths / 10) == max(1, (channels * tenths + 5) // 10)
