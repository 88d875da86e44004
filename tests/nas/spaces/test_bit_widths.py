"""Bits as users write them."""

import pytest

from kshot_ext.nas.spaces.bit_widths import BitWidths, check_choices, parse_bits


def test_numbers_stand_for_all_pairs_and_pairs_for_themselves():
    assert [str(bits) for bits in parse_bits("4, 2")] == ["w2a2", "w2a4", "w4a2", "w4a4"]
    assert parse_bits("8") == (BitWidths(8, 8),)
    assert parse_bits("w8a4,w2a4") == (BitWidths(2, 4), BitWidths(8, 4))  # by rising cost
    assert BitWidths(2, 8).product == 16


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected numbers such as 2,4,8, or pairs such as w2a4,w4a8, got ''"),
        ("2;4", "expected numbers such as 2,4,8"),
        ("2,w2a4", "expected numbers such as 2,4,8"),
        ("-2", "expected numbers such as 2,4,8"),
        ("1,2", "expected a whole number of bits from 2 to 8, got 1"),
        ("w2a16", "expected a whole number of bits from 2 to 8, got 16"),
        ("2,2", "expected one or more different choices, got w2a2, w2a2"),
        ("w2a4,w2a4", "expected one or more different choices"),
    ],
)
def test_other_texts_are_refused(text, message):
    with pytest.raises(ValueError, match=f"bits: {message}"):
        parse_bits(text)


def test_no_choice_is_refused():
    with pytest.raises(ValueError, match="bits: expected one or more different choices, got none"):
        check_choices([])
