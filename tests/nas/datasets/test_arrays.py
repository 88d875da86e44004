from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from kshot_ext.nas.datasets import DataError, DataWarning, open_source

IMAGES = np.arange(4 * 5 * 6 * 3, dtype=np.uint8).reshape(4, 5, 6, 3)
LABELS = np.array([7, -1, 7, -1])


@pytest.fixture
def write_npz(tmp_path: Path) -> Callable[..., Path]:
    def write(**arrays: np.ndarray) -> Path:
        np.savez(tmp_path / "set.npz", **arrays)
        return tmp_path / "set.npz"

    return write


def test_reads_colour_images(write_npz: Callable[..., Path]) -> None:
    source = open_source(write_npz(images=IMAGES, labels=LABELS))
    assert source.class_names == ("-1", "7")
    assert source.labels.tolist() == [1, 0, 1, 0]
    assert np.array_equal(source.read(2).numpy(), IMAGES[2].transpose(2, 0, 1))


def test_reads_grey_images(write_npz: Callable[..., Path]) -> None:
    source = open_source(write_npz(images=IMAGES[..., 0], labels=LABELS))
    assert np.array_equal(source.read(2).numpy(), IMAGES[2, None, :, :, 0])


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"images": IMAGES}, "expected the arrays 'images' and 'labels', got images"),
        (
            {"images": IMAGES / 255, "labels": LABELS},
            r"images: expected .*uint8 .* got float64 \[4, 5, 6, 3\]",
        ),
        ({"images": IMAGES[0, 0], "labels": LABELS}, r"images: .* got uint8 \[6, 3\]"),
        ({"images": IMAGES[:0], "labels": LABELS[:0]}, r"images: expected non-empty .* got uint8 \[0, "),
        ({"images": IMAGES[..., :2], "labels": LABELS}, "images: expected 1 or 3 channels last, got 2"),
        ({"images": IMAGES, "labels": LABELS[:3]}, r"labels: expected integers \[4\], got int64 \[3\]"),
        ({"images": IMAGES, "labels": LABELS / 2}, r"labels: .* got float64"),
        ({"images": IMAGES, "labels": LABELS * 0}, "labels: expected at least 2 classes, got only 0"),
        ({"images": IMAGES, "labels": np.array([{}] * 4)}, "damaged or unsupported array file .*pickle"),
    ],
)
def test_rejects_other_arrays(write_npz: Callable[..., Path], arrays: dict[str, np.ndarray], message: str) -> None:
    path = write_npz(**arrays)
    with pytest.raises(DataError, match=rf"set\.npz: {message}"):
        open_source(path)


def test_rejects_a_damaged_file(tmp_path: Path, write_npz: Callable[..., Path]) -> None:
    path = write_npz(images=IMAGES, labels=LABELS)
    content = bytearray(path.read_bytes())
    content[200] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"set\.npz: damaged"):
        open_source(path)
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("images.npy", b"no array")
        file.writestr("labels.npy", b"no array")
    with pytest.raises(DataError, match=r"set\.npz: images: damaged .* \(it holds no array\)"):
        open_source(path)
    path.write_bytes(b"no zip")
    with pytest.raises(DataError, match=r"set\.npz: not a readable zip file"):
        open_source(path)


def test_other_arrays_are_left_out_and_named(write_npz: Callable[..., Path]) -> None:
    path = write_npz(images=IMAGES, labels=LABELS, test_labels=LABELS, test_images=IMAGES)
    with pytest.warns(DataWarning, match="left out 2 arrays"):
        source = open_source(path)
    assert len(source) == 4
    assert source.notes == ("left out 2 arrays beside 'images' and 'labels': 'test_images', 'test_labels'",)
