from __future__ import annotations

import json
from pathlib import Path

import pytest

from kshot_ext.nas.runs.truth import TruthError, read_truth
from kshot_ext.nas.spaces import create_space
from kshot_ext.nas.spaces.architecture import Architecture
from kshot_ext.nas.spaces.space import SearchSpace


def _table(tmp_path: Path, content: object) -> Path:
    path = tmp_path / "table.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_accuracies_by_architecture(tmp_path: Path, tiny_space: SearchSpace) -> None:
    path = _table(tmp_path, {"00000012": {"test_acc": [1, 2], "mean_acc": 68.5, "flops": 3}, "22222222": 93})
    expected = {Architecture((0, 0, 0, 0, 0, 0, 1, 2)): 68.5, Architecture((2,) * 8): 93.0}
    assert read_truth(path, tiny_space) == expected


def test_keys_in_the_form_of_nas_bench_201(tmp_path: Path) -> None:
    space = create_space("nas-bench-201", image_shape=(3, 32, 32), num_classes=10)
    key = "|nor_conv_3x3~0|+|none~0|skip_connect~1|+|avg_pool_3x3~0|nor_conv_1x1~1|none~2|"
    assert read_truth(_table(tmp_path, {key: 90.5}), space) == {Architecture((3, 0, 1, 4, 2, 0)): 90.5}


def test_two_keys_of_one_architecture_are_refused(tmp_path: Path) -> None:
    space = create_space("nas-bench-201", image_shape=(3, 32, 32), num_classes=10)
    key = "|none~0|+|none~0|none~1|+|none~0|none~1|none~2|"
    with pytest.raises(TruthError, match=r"key '.*2\|\|': expected one for each architecture, got another"):
        read_truth(_table(tmp_path, {key: 10.0, f"{key}|": 90.0}), space)


@pytest.mark.parametrize("key", ["|none~0|", "|none~1|+|none~0|none~1|+|none~0|none~1|none~2|", "00000", ""])
def test_other_keys_are_refused_by_nas_bench_201(key: str) -> None:
    space = create_space("nas-bench-201", image_shape=(3, 32, 32), num_classes=10)
    with pytest.raises(ValueError, match="expected the form"):
        space.from_key(key)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("half a", "not a JSON file"),
        ([], r"expected a JSON object of accuracies by architecture, got \[\]"),
        ({}, r"expected a JSON object of accuracies by architecture, got \{\}"),
        ({"00000003": 1.0}, r"key '00000003': operations\[7\]: expected one of .*, got 3; .* space nas-bench-macro"),
        ({"0000000": 1.0}, "key '0000000': .* has 8 layers, got 7 operations"),
        ({"": 1.0}, "key '': expected a digit for each of 8 layers"),
        ({"|none~0|": 1.0}, "expected a digit for each of 8 layers"),
        ({"00000000": {"accuracy": 1}}, "key '00000000': expected an accuracy, or an object with mean_acc, got {.*1}"),
        ({"00000000": float("nan")}, "expected an accuracy, .* got NaN"),
        ({"00000000": True}, "expected an accuracy, .* got true"),
        ({"00000000": 10**400}, "expected an accuracy, .* got 1000"),
        ({"00000000": {"mean_acc": -(10**400)}}, "expected an accuracy, .* got {"),
    ],
)
def test_other_tables_are_refused(tmp_path: Path, tiny_space: SearchSpace, content: object, message: str) -> None:
    with pytest.raises(TruthError, match=rf"table\.json: .*{message}"):
        read_truth(_table(tmp_path, content), tiny_space)


def test_a_space_with_widths_has_no_such_table(tmp_path: Path) -> None:
    space = create_space("nas-bench-macro", image_shape=(1, 8, 8), num_classes=3, channels=4, widths=(0.5, 1.0))
    with pytest.raises(TruthError, match="needs 8 widths, got None"):
        read_truth(_table(tmp_path, {"00000000": 1.0}), space)
