from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from kshot_ext.nas.datasets.splits import DataSplits
from kshot_ext.nas.runs.run_card import RunCard, RunCardError
from kshot_ext.nas.runs.settings import RunSettings
from kshot_ext.nas.tables import as_table


def _with_another_pixel(splits: DataSplits) -> DataSplits:
    images = splits.validation.images.clone()
    images[3, 0, 2, 1] ^= 1
    return replace(splits, validation=replace(splits.validation, images=images))


def _with_another_label(splits: DataSplits) -> DataSplits:
    labels = splits.train.labels.clone()
    labels[0] = (labels[0] + 1) % 3
    return replace(splits, train=replace(splits.train, labels=labels))


def _divided_otherwise(splits: DataSplits) -> DataSplits:
    return replace(splits, validation=splits.test, test=splits.validation)


def _with_another_class_name(splits: DataSplits) -> DataSplits:
    return replace(splits, class_names=("one", "two", "four"))


@pytest.mark.parametrize(
    "change", [_with_another_pixel, _with_another_label, _divided_otherwise, _with_another_class_name]
)
def test_other_images_are_noticed(tiny_splits: DataSplits, change) -> None:
    settings = RunSettings(data="/photos.zip")
    card = RunCard.new("search", settings, "photos", tiny_splits)
    card.check_continues(settings, tiny_splits)
    with pytest.raises(RunCardError, match=r"data: /photos\.zip is not what the run began with"):
        card.check_continues(settings, change(tiny_splits))


def test_other_settings_are_noticed(tiny_splits: DataSplits) -> None:
    card = RunCard.new("search", RunSettings(), "digits", tiny_splits)
    card.check_settings(dict(reversed(as_table(RunSettings()).items())))
    with pytest.raises(RunCardError, match="its settings were changed since the run began"):
        card.check_settings(as_table(RunSettings(seed=1)))


def test_another_file_of_an_own_space_is_noticed(tiny_splits: DataSplits, tmp_path: Path) -> None:
    (tmp_path / "my.py").write_text("class Space: ...")
    settings = RunSettings(space=f"{tmp_path / 'my.py'}:Space")
    card = RunCard.new("search", settings, "digits", tiny_splits)
    card.check_continues(settings, tiny_splits)
    (tmp_path / "my.py").write_text("class Space: wider = True")
    with pytest.raises(RunCardError, match=r"space: .*my\.py:Space is not what the run began with"):
        card.check_continues(settings, tiny_splits)


def test_a_card_comes_back(tiny_splits: DataSplits) -> None:
    card = RunCard.new("rank", RunSettings(), "digits", tiny_splits)
    assert RunCard.from_json(card.to_json()) == card
    assert card.run != RunCard.new("rank", RunSettings(), "digits", tiny_splits).run


def test_a_card_of_before_there_were_notes_comes_back(tiny_splits: DataSplits) -> None:
    card = RunCard.new("rank", RunSettings(), "digits", tiny_splits)
    fields = json.loads(card.to_json())
    del fields["data_notes"]
    assert RunCard.from_json(json.dumps(fields)) == card


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"run": "a", "image_shape": 3}'])
def test_other_texts_are_refused(text: str) -> None:
    with pytest.raises(RunCardError, match="expected the JSON object of a run"):
        RunCard.from_json(text)


def test_a_card_says_when_and_by_what_its_run_began(tiny_splits: DataSplits, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["/venv/kshot_ext/__main__.py", "search", "--out", "a b"])
    card = RunCard.new("search", RunSettings(), "digits", tiny_splits)
    assert card.command_line == ("kshot-ext", "search", "--out", "a b")
    assert card.begun.startswith("2")
    assert RunCard.from_json(card.to_json()) == card


def test_a_card_of_an_older_version_keeps_its_digest(tiny_splits: DataSplits) -> None:
    """Else its run could not go on: checkpoints know it by the digest."""
    card = replace(RunCard.new("search", RunSettings(), "digits", tiny_splits), begun="", command_line=())
    fields = json.loads(card.to_json())
    assert not {"begun", "command_line"} & fields.keys()
    assert RunCard.from_json(json.dumps(fields)).digest == card.digest
