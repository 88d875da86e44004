import pytest

from kshot_ext.nas.spaces.architecture import Architecture


@pytest.mark.parametrize("architecture", [Architecture((0, 2, 1)), Architecture((1, 0), widths=(3, 4))])
def test_json_round_trip(architecture):
    assert Architecture.from_json(architecture.to_json()) == architecture


def test_equal_architectures_are_one_key():
    assert len({Architecture((0, 1)), Architecture([0, 1]), Architecture((1, 0))}) == 2


def test_with_operation_changes_one_layer():
    assert Architecture((0, 1, 2)).with_operation(1, 0) == Architecture((0, 0, 2))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[0, 1]", "JSON object"),
        ("{", "JSON object"),
        ('{"operations": [0], "weights": "os.system"}', "JSON object"),
        ('{"operations": []}', "one or more indices"),
        ('{"operations": "012"}', "one or more indices"),
        ('{"operations": [0, -1]}', r"operations\[1\].*got -1"),
        ('{"operations": [0, true]}', r"operations\[1\].*got True"),
        ('{"operations": [0.5]}', r"operations\[0\].*got 0.5"),
        ('{"operations": [0, 1], "widths": []}', "widths: .*one or more indices"),
        ("[" * 100000, "expected a JSON object, got .* nested too deeply"),
        (f"[1{'0' * 5000}]", "expected a JSON object, got .*digits"),
    ],
)
def test_rejects_damaged_json(text, message):
    with pytest.raises(ValueError, match=message):
        Architecture.from_json(text)
