from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import PurePosixPath

import pytest

from kshot_ext.nas.datasets import DataError
from kshot_ext.nas.datasets.layout import Layout, arrange
from kshot_ext.nas.datasets.source import Part


def _arrange(*files: str) -> Layout:
    return arrange(map(PurePosixPath, files), [], "pets", lambda file: file.suffix == ".png")


def _files(*folders: str, count: int = 2) -> list[str]:
    return [f"{folder}/{number}.png" for folder in folders for number in range(count)]


def _classes(*parts: str) -> list[str]:
    return [f"{part}/{name}" for part in parts for name in ("cat", "dog")]


def _parts(layout: Layout) -> dict[Part, int]:
    return dict(Counter(layout.parts))


@pytest.mark.parametrize(
    ("folders", "held_out"),
    [
        (("training", "testing"), [Part.TEST]),
        (("Training_Set", "Dev_Set", "Test_Set"), [Part.VALIDATION, Part.TEST]),
        (("train", "eval"), [Part.TEST]),
        (("tr", "development"), [Part.VALIDATION]),
        (("pets-1.0/TRAIN", "pets-1.0/Holdout"), [Part.TEST]),
    ],
)
def test_part_folders_of_the_usual_names_are_no_classes(folders: Sequence[str], held_out: list[Part]) -> None:
    layout = _arrange(*_files(*_classes(*folders)))
    assert layout.class_names == ("cat", "dog")
    assert _parts(layout) == dict.fromkeys([Part.TRAIN, *held_out], 4)
    assert layout.notes == ()


@pytest.mark.parametrize("inside", [["extra"], _classes("extra")])
def test_images_of_no_part_are_left_out_and_counted(inside: list[str]) -> None:
    extra = _files(*inside)
    layout = _arrange(*_files(*_classes("train", "test")), *extra)
    assert layout.class_names == ("cat", "dog")
    assert _parts(layout) == {Part.TRAIN: 4, Part.TEST: 4}
    told, counted = layout.notes
    assert told == "folder 'extra' is no part that a search uses"
    assert counted.startswith(f"left out {len(extra)} files outside of the folders of classes: '{extra[0]}'")


@pytest.mark.parametrize(
    ("folders", "message"),
    [
        (["train/cat", "train/dog", "fox"], r"pets: 'train' are named like parts of a data set, 'fox' beside them are"),
        (
            ["train", "test", "fox"],
            r"pets: 'test', 'train' are named like parts .* put all class folders into .*'train'",
        ),
        (["train", "test"], r"pets: 'test', 'train' are named like parts .* but hold no folders of classes"),
        (_classes("val", "dev", "train"), r"pets: 'dev' and 'val' both name the validation part; expected one folder"),
        (_classes("Train", "train"), r"pets: 'Train' and 'train' both name the train part"),
        ([*_classes("train"), "test"], r"pets/test: class 'cat' is not in every part .* holds images, but no folders"),
        (_classes("dev", "test"), r"pets: expected a folder 'train' among the parts, got dev, test"),
    ],
)
def test_names_open_to_two_readings_are_refused(folders: list[str], message: str) -> None:
    with pytest.raises(DataError, match=message):
        _arrange(*_files(*folders))


def test_a_class_may_be_called_like_a_part() -> None:
    """The railway kind of train, as CIFAR-100 and COCO have it."""
    layout = _arrange(*_files("bus", "train"))
    assert layout.class_names == ("bus", "train")
    assert _parts(layout) == {Part.TRAIN: 4}
    assert layout.notes == ("folder 'train' is taken for a class, as it has images in it and stands beside others",)


def test_the_cure_that_the_message_names_works() -> None:
    layout = _arrange(*_files("train/train", "train/test", "train/fox"))
    assert layout.class_names == ("fox", "test", "train")
    assert _parts(layout) == {Part.TRAIN: 6}


def test_folders_without_images_beside_parts_are_none() -> None:
    layout = _arrange(*_files(*_classes("train", "val")), "labels/a.txt", "labels/b.txt")
    assert layout.class_names == ("cat", "dog")
    assert layout.notes == ("left out 2 files that Pillow reads no image from: 'labels/a.txt', 'labels/b.txt'",)


def test_parts_inside_of_classes_are_told() -> None:
    layout = _arrange(*_files("cat/train", "cat/test", "dog/train", "dog/test"))
    assert _parts(layout) == {Part.TRAIN: 8}
    assert layout.notes == (
        "folders 'test', 'train' inside of classes are no parts: their images are divided anew; "
        "expected PART/CLASS/image",
    )


def test_what_is_left_out_is_counted_with_examples() -> None:
    layout = _arrange(
        *_files("cat", "dog"), "loose.png", "cat/a.heic", "cat/b.heic", "dog/c.heic", "dog/d.heic",
        "dog/.hidden.png", "__MACOSX/cat/._0.png", "cat/._0.png", ".git/config", "fox\x1b/../e.png",
    )  # fmt: skip
    assert layout.class_names == ("cat", "dog")
    assert layout.notes == (
        "left out 4 files that Pillow reads no image from: 'cat/a.heic', 'cat/b.heic', 'dog/c.heic', ...",
        "left out 2 files with hidden names: 'dog/.hidden.png', 'fox\\x1b/../e.png'",
        "left out 1 file outside of the folders of classes: 'loose.png'",
    )


@pytest.mark.parametrize(
    ("train", "test"),
    [
        ("01_train", "02_test"),
        ("cifar10-train", "cifar10-test"),
        ("train_v1", "test_v1"),
        ("train (1)", "test (1)"),
        ("train", "test_256"),
    ],
)
def test_parts_with_more_in_their_names_are_found_and_told(train: str, test: str) -> None:
    layout = _arrange(*_files(*_classes(train)), *_files(*_classes(test), count=1))
    assert layout.class_names == ("cat", "dog")
    assert _parts(layout) == {Part.TRAIN: 4, Part.TEST: 2}
    (note,) = layout.notes
    names = ", ".join(map(repr, sorted([train, test])))
    assert note == f"folders {names} are taken for parts; if they are classes, put them into a folder 'train'"


@pytest.mark.parametrize(
    ("folders", "message"),
    [
        (
            _classes("train0", "train1", "test0"),
            "'train0' and 'train1' both name the train part.* put all class folders",
        ),
        (
            _classes("train_a", "rest"),
            "'rest', 'train_a' hold the same folders, .* 'train_a' are named like.*; call parts",
        ),
        (_classes("trainval_1", "test_1"), "hold the same folders, as parts of a data set do, and 'test_1' are named"),
        (_classes("val_1", "test_1"), "hold the same folders, as parts of a data set do, and 'test_1', 'val_1' are"),
        (
            [*_classes("train_1"), "test_1/cat"],
            "class 'dog' is not in every part .*taken for parts; if they are classes",
        ),
    ],
)
def test_folders_that_might_be_parts_of_any_name_are_refused(folders: list[str], message: str) -> None:
    with pytest.raises(DataError, match=message):
        _arrange(*_files(*folders))


def test_words_of_parts_in_the_names_of_classes() -> None:
    assert _arrange(*_files("beaker", "test_tube")).notes == ()
    assert _arrange(*_files("tram/a", "trainer/b", "test_tube/c")).class_names == ("test_tube", "trainer", "tram")
    assert _arrange(*_files("test_strip/a", "test_tube/b")).class_names == ("test_strip", "test_tube")
    layout = _arrange(*_files("test_tube", "train_car"))
    assert layout.class_names == ("test_tube", "train_car")
    assert layout.notes == (
        "folders 'test_tube', 'train_car' are taken for classes, as not all of them hold folders of classes",
    )
