"""Data sets of a Python program: which images and targets are found in them, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import ConcatDataset, DataLoader, Dataset, IterableDataset, Subset, TensorDataset

from kshot_ext.nas.datasets import DataError, DataWarning, load_splits, open_source
from kshot_ext.nas.datasets.settings import ImageSettings
from kshot_ext.nas.datasets.source import ImageSource, Part
from kshot_ext.nas.datasets.streamed import StreamedImages
from kshot_ext.nas.task import MultiLabel, Regression

PIXELS = torch.randint(256, (12, 3, 4, 5), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
TARGETS = [4, 7, 9] * 4


class Pairs(Dataset):
    """Images, each passed through ``form``, with their targets; counts what is read."""

    def __init__(self, form: Callable[[Tensor], Any], targets: Any = TARGETS) -> None:
        self.form = form
        self.answers = targets
        self.reads = 0

    def __len__(self) -> int:
        return len(self.answers)

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        self.reads += 1
        return self.form(PIXELS[index]), self.answers[index]


def picture(image: Tensor) -> Image.Image:
    return Image.fromarray(image.permute(1, 2, 0).numpy())


def images_of(source: ImageSource) -> Tensor:
    return torch.stack([source.read(index) for index in range(len(source))])


@pytest.mark.parametrize(
    "form",
    [lambda image: image, picture, lambda image: image.permute(1, 2, 0).numpy()],
    ids=["tensor", "PIL", "array"],
)
def test_images_come_as_tensors_pictures_or_arrays(form: Callable[[Tensor], Any]) -> None:
    source = open_source(Pairs(form))
    assert torch.equal(images_of(source), PIXELS)
    assert source.labels.tolist() == [0, 1, 2] * 4
    assert source.class_names == ("4", "7", "9")
    assert source.parts == (Part.TRAIN,) * 12
    assert not source.varies


def test_floating_point_stays_as_it_is_and_is_not_normalised() -> None:
    pixels = torch.rand(30, 2, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    splits = load_splits(open_source(TensorDataset(pixels, torch.arange(30) % 3)), generator=torch.Generator())
    kept = torch.cat([splits.train.images, splits.validation.images, splits.test.images])
    assert torch.equal(kept.sum(dim=(1, 2, 3)).sort().values, pixels.float().sum(dim=(1, 2, 3)).sort().values)
    assert splits.mean.tolist() == [0, 0]
    assert splits.std.tolist() == [1, 1]


def test_the_set_of_a_loader_is_used_and_that_is_said() -> None:
    loader = DataLoader(TensorDataset(PIXELS, torch.tensor(TARGETS)), batch_size=5, shuffle=True)
    with pytest.warns(DataWarning, match="the dataset of the DataLoader is used; its batch size, sampler and collate"):
        source = open_source(loader)
    assert torch.equal(images_of(source), PIXELS)


def test_parts_come_by_name_or_in_order() -> None:
    train, test = Pairs(picture), Pairs(picture, [9, 4, 7])
    for data in ({"training": train, "test": test}, (train, None, test)):
        source = open_source(data)
        assert source.parts == (Part.TRAIN,) * 12 + (Part.TEST,) * 3
        assert source.labels.tolist() == [0, 1, 2] * 4 + [2, 0, 1]
        assert torch.equal(source.read(13), PIXELS[1])
        assert source.describe(13) == "data, test part, item 1"
    with pytest.warns(DataWarning, match="left out 1 parts: 'unlabeled'"):
        open_source({"train": train, "unlabeled": test})


class Listing(Pairs):
    """Lists targets and class names, as torchvision's sets do."""

    def __init__(self, targets: list[int], **attributes: Any) -> None:
        super().__init__(picture, targets)
        self.targets = targets
        for name, value in attributes.items():
            setattr(self, name, value)


def test_listed_targets_spare_reading_the_images_unless_they_are_not_those_of_items() -> None:
    listing = Listing([0, 1, 3] * 4, classes=["ant", "bee", "cat", "dog"])
    with pytest.warns(DataWarning, match="left out 1 classes without images: 'cat'"):
        source = open_source(listing)
    assert source.class_names == ("ant", "bee", "dog")
    assert listing.reads < 2 * len(listing) + 8  # it is looked at twice whether it varies, and at a few targets
    nested = open_source(Subset(ConcatDataset([listing, listing]), [3, 13, 23]))
    assert nested.class_names == ("ant", "bee", "dog")
    assert nested.labels.tolist() == [0, 1, 2]
    wrong = Listing([0, 1, 3] * 4)
    wrong.targets = [1, 0, 3] * 4
    assert open_source(wrong).labels.tolist() == [0, 1, 2] * 4


@pytest.mark.parametrize("keep", ["memory", "stream"])
def test_an_item_with_another_target_than_its_dataset_lists_is_an_error_when_it_is_read(keep: str) -> None:
    """More items than are compared at first, and one that answers otherwise."""

    class Corrected(Listing):
        def __len__(self) -> int:
            return 480

        def __getitem__(self, index: int) -> tuple[Any, Any]:
            return picture(PIXELS[index % 12]), (0 if index == 20 else self.targets[index])

    source = open_source(Corrected([0, 1, 3] * 160))
    assert source.labels.tolist() == [0, 1, 2] * 160
    with pytest.raises(DataError, match=r"data, item 20: expected target 3, .* got 0 from the item"):
        source.read(20)

    def read_all() -> None:
        images = ImageSettings(keep=keep, workers=0)
        splits = load_splits(source, generator=torch.Generator().manual_seed(0), images=images)
        for part in (splits.train, splits.validation, splits.test):
            list(part.read(torch.arange(len(part)).split(16)))

    with pytest.raises(DataError, match="item 20: expected target 3"):
        read_all()


def test_parts_that_name_classes_differently_are_refused() -> None:
    """As two ImageFolder do where one lacks the folder of a class: number 1 is a bee in one, and a cat in the other."""
    train = Listing([0, 1, 2] * 4, classes=["ant", "bee", "cat"])
    test = Listing([0, 1] * 6, classes=["ant", "cat"])
    with pytest.raises(DataError, match="expected the same classes in the same order in all parts, got train: 'ant'"):
        open_source({"train": train, "test": test})
    unnamed = Listing([0, 1] * 6)
    assert open_source({"train": train, "test": unnamed}).class_names == ("ant", "bee", "cat")


class Rows:
    """A Hugging Face data set, as far as it is looked at: rows by number, columns by name, features."""

    def __init__(self, features: dict[str, Any], rows: list[dict[str, Any]]) -> None:
        self.features, self.rows = features, rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, key: int | str) -> Any:
        return self.rows[key] if isinstance(key, int) else [row[key] for row in self.rows]


class ClassLabel:
    names = ("ant", "bee")


def test_columns_of_hugging_face_are_found_by_their_types_or_names() -> None:
    rows = [{"id": n, "photo": picture(image), "kind": n % 2} for n, image in enumerate(PIXELS)]
    kinds = {"id": object(), "photo": type("Image", (), {})(), "kind": ClassLabel()}
    source = open_source({"train": Rows(kinds, rows)})
    assert torch.equal(images_of(source), PIXELS)
    assert source.class_names == ("ant", "bee")
    renamed = [{"img": row["photo"], "label": row["kind"]} for row in rows]
    assert open_source(Rows({}, renamed)).labels.tolist() == [0, 1] * 6
    with pytest.raises(DataError, match=r"an image: expected a column image, .* got id, photo, kind"):
        open_source(Rows({}, rows))
    with pytest.raises(DataError, match="classes from 0 to 1, by their names, got -1, which usually means that there"):
        open_source(Rows(kinds, [{**row, "kind": -1} for row in rows]))


class Flipping(Pairs):
    """Mirrors images at random."""

    def __init__(self) -> None:
        super().__init__(lambda image: image.flip(2) if torch.rand(()) < 0.5 else image)


def test_random_transforms_are_seen_and_drawn_anew_with_the_generator() -> None:
    source = open_source(Flipping())
    assert source.varies
    splits = load_splits(source, generator=torch.Generator().manual_seed(0), images=ImageSettings(workers=0))
    assert isinstance(splits.train, StreamedImages)
    assert splits.augmentation.padding == 0
    chunks = torch.arange(len(splits.train)).split(4)

    def read(seed: int) -> Tensor:
        seeds = torch.randint(2**32, (len(splits.train),), generator=torch.Generator().manual_seed(seed))
        return torch.cat([images for images, _ in splits.train.read(chunks, seeds=seeds)])

    plain = PIXELS[splits.train.indices]
    assert torch.equal(read(0), read(0))
    assert not torch.equal(read(0), read(1))
    mirrored = (read(0) != plain).flatten(1).any(dim=1)
    assert 0 < int(mirrored.sum()) < len(plain)
    assert torch.equal(torch.where(mirrored[:, None, None, None], plain.flip(3), plain), read(0))


def test_a_set_that_says_it_has_a_transform_is_read_anew() -> None:
    listing = Listing([0, 1, 2] * 4, transform=lambda image: image)
    assert open_source(listing).varies
    assert open_source(Subset(listing, range(6))).varies


def test_a_given_transform_is_for_training_and_another_for_evaluation() -> None:
    source = open_source(
        Pairs(picture),
        transform=lambda image: np.asarray(image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)),
        evaluation_transform=lambda image: torch.from_numpy(np.array(image)).permute(2, 0, 1) // 2,
    )
    splits = load_splits(source, generator=torch.Generator().manual_seed(0), images=ImageSettings(workers=0))
    chunks = torch.arange(len(splits.train)).split(5)
    plain = PIXELS[splits.train.indices]
    for training, expected in ((True, plain.flip(3)), (False, plain // 2)):
        read = torch.cat([images for images, _ in splits.train.read(chunks, training=training)])
        assert torch.equal(read, expected)
    with pytest.raises(DataError, match=r"transforms run each time .* expected images.keep to be stream or auto"):
        load_splits(source, generator=torch.Generator(), images=ImageSettings(keep="memory"))


def test_numbers_are_targets_of_tasks_without_classes() -> None:
    ages = open_source(Pairs(picture, [31, 7, 55, 7]), task=Regression())
    assert ages.labels.tolist() == [[31], [7], [55], [7]]
    assert ages.class_names == ()
    marks = open_source(Pairs(picture, torch.tensor([[1, 0, 1], [0, 0, 1]])), task=MultiLabel())
    assert marks.labels.tolist() == [[1, 0, 1], [0, 0, 1]]
    with pytest.raises(DataError, match=r"multi-label expects zeros and ones .* got .4. from 7 to 55"):
        open_source(Pairs(picture, [31, 7, 55, 7]), task=MultiLabel())
    with pytest.raises(DataError, match="digits: expected data with targets of numbers for regression"):
        open_source(None, task=Regression())


class Endless(IterableDataset):
    def __iter__(self) -> Any:
        yield PIXELS[0], 0


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (5, r"data: expected a path, a map-style torch.*, got int"),
        (Endless(), r"data: expected a path, a map-style torch.*, got Endless"),
        (Pairs(picture, []), "data: expected images, got a dataset of none"),
        ((Pairs(picture),), "tuple .train, validation, test. of two or three parts, got 1"),
        ((None, Pairs(picture)), "expected a part to train on, got None"),
        ({"test": Pairs(picture)}, "expected a part named train, got 'test'"),
        ({"train": Pairs(picture), "tram": Pairs(picture)}, "parts named train, validation and test, got 'tram'"),
        ({"train": Pairs(picture), "training": Pairs(picture)}, "expected one train part, got several"),
        (TensorDataset(PIXELS), "data, item 0: expected a pair .image, target., got tuple of 1"),
        (Pairs(lambda image: "image.png"), "data, item 0: expected a PIL image, .* got str"),
        (Pairs(lambda image: image.int()), "data, item 0: .* got torch.int32"),
        (Pairs(lambda image: image.permute(1, 2, 0)), r"expected channels first, .* got a tensor of shape \[4, 5, 3\]"),
        (
            Pairs(lambda image: image / 0.0),
            "item 0: expected finite numbers, got .* NaN or infinite; look at its",
        ),
        (Pairs(picture, ["a", "b"]), "data: targets: expected whole numbers .* got str_?, such as"),
        (Pairs(picture, [[1], [1, 2]]), "data: targets: .* got rows of different lengths"),
        (Pairs(picture, [0.5, float("nan")]), "data: targets: expected finite numbers, got nan for item 1"),
        (
            Pairs(picture, [0.5, 1.5]),
            "classification expects an integer .* got floating point 0.5 for the first; name another",
        ),
        (Pairs(picture, [[1, 0, 0], [0, 1, 0]]), "an integer for every image, its class, got 3 numbers for the first"),
        (Pairs(picture, [3, 3]), "data: targets: expected at least 2 classes, got only 3"),
        ((Pairs(picture), Pairs(picture, [0.5])), "targets of one form in all parts, got train: torch.int64"),
    ],
)
def test_what_came_is_said_of_what_cannot_be_used(data: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        open_source(data)


def test_an_item_that_fails_names_itself() -> None:
    def broken(image: Tensor) -> Tensor:
        if torch.equal(image, PIXELS[2]):
            raise KeyError("lost")
        return image

    with pytest.raises(DataError, match=r"data, item 2: cannot be read .KeyError: 'lost'"):
        open_source(Pairs(broken))
