"""Image folders and zips of them: the same files must give the same images and the same errors."""

from __future__ import annotations

import io
import os
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image

from kshot_ext.nas.datasets import DataError, DataWarning, archive, decode, open_source
from kshot_ext.nas.datasets.source import Part

WriteTree = Callable[[dict[str, bytes]], Path]


def png(value: int = 0, size: tuple[int, int] = (8, 8), mode: str = "RGB") -> bytes:
    """Encode an image of one grey value; ``size`` is (width, height)."""
    buffer = io.BytesIO()
    Image.new("RGB", size, (value,) * 3).convert(mode).save(buffer, format="PNG")
    return buffer.getvalue()


def tree(classes: tuple[str, ...] = ("cat", "dog"), per_class: int = 5, top: str = "") -> dict[str, bytes]:
    """File contents by relative path; the grey value tells class and number of an image apart."""
    return {
        f"{top}{name}/{number:02}.png": png(50 * label + number)
        for label, name in enumerate(classes)
        for number in range(per_class)
    }


def _write_folder(path: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        if not name.endswith("/"):
            (path / name).write_bytes(content)
        else:
            (path / name).mkdir(exist_ok=True)
    return path


def _write_zip(path: Path, files: dict[str, bytes]) -> Path:
    path.parent.mkdir(exist_ok=True)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


@pytest.fixture(params=["folder", "zip"])
def write_tree(request: pytest.FixtureRequest, tmp_path: Path) -> WriteTree:
    """Write files as a folder, and in a second run of the test as a zip; names ending in / are folders."""
    if request.param == "folder":
        return lambda files: _write_folder(tmp_path / "pets", files)
    return lambda files: _write_zip(tmp_path / "pets.zip", files)


@pytest.fixture
def write_zip(tmp_path: Path) -> WriteTree:
    return lambda files: _write_zip(tmp_path / "pets.zip", files)


def test_classes_are_the_sorted_folder_names(write_tree: WriteTree) -> None:
    source = open_source(write_tree(tree(("dog", "cat"))))
    assert source.name == "pets"
    assert source.class_names == ("cat", "dog")
    assert source.labels.tolist() == [0] * 5 + [1] * 5
    assert [int(source.read(i)[0, 0, 0]) for i in range(10)] == [50, 51, 52, 53, 54, 0, 1, 2, 3, 4]
    assert set(source.parts) == {Part.TRAIN}


@pytest.mark.parametrize(("folder", "part"), [("val", Part.VALIDATION), ("Test", Part.TEST)])
def test_part_folders_give_the_parts(write_tree: WriteTree, folder: str, part: Part) -> None:
    source = open_source(write_tree(tree(top="train/") | tree(top=f"{folder}/", per_class=2)))
    assert source.class_names == ("cat", "dog")
    assert source.parts.count(Part.TRAIN) == 10
    assert source.parts.count(part) == 4


def test_a_wrapping_folder_and_clutter_are_passed_over(write_tree: WriteTree) -> None:
    clutter = {
        "pets-1.0/README.txt": b"",
        "__MACOSX/pets-1.0/cat/._00.png": b"",
        "pets-1.0/train/.cache/00.png": png(),
    }
    with pytest.warns(DataWarning):
        source = open_source(write_tree(tree(top="pets-1.0/train/") | clutter))
    assert source.class_names == ("cat", "dog")
    assert len(source) == 10


def test_a_class_may_have_subfolders(write_tree: WriteTree) -> None:
    source = open_source(write_tree(tree() | {"cat/black/00.png": png()}))
    assert source.labels.tolist().count(0) == 6


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"notes.txt": b""}, r"pets.*: no images found \(left out 1 file .*'notes\.txt'\)"),
        ({"a.png": png()}, r"pets.*: expected one folder of images per class, .* got none"),
        (tree(("cat",)), r"pets.*: .* at least 2 classes, got only 'cat'"),
        (tree() | {"fox/": b""}, r"pets.*/fox: this class has no images"),
        (tree() | {"fox/a.heic": b""}, r"/fox: this class has no images \(left out 1 file .*'fox/a\.heic'\)"),
        (tree(top="train/") | tree(("cat",), top="test/"), r"pets.*/test: class 'dog' is not in every part"),
        (tree(top="test/"), r"pets.*: expected a folder 'train' among the parts, got test"),
    ],
)
def test_rejects_trees_without_a_known_layout(write_tree: WriteTree, files: dict[str, bytes], message: str) -> None:
    path = write_tree(files)
    with pytest.raises(DataError, match=message):
        open_source(path)


@pytest.mark.parametrize(
    ("content", "reason"),
    [(b"no image at all", "not an image file"), (png()[:45], "damaged image"), (b"", "not an image file")],
)
def test_a_damaged_image_is_named(write_tree: WriteTree, content: bytes, reason: str) -> None:
    source = open_source(write_tree(tree() | {"dog/03.png": content}))
    with pytest.raises(DataError, match=rf"pets.*dog/03\.png: .*{reason}"):
        source.read(8)


def test_grey_colour_and_transparent_images(write_tree: WriteTree) -> None:
    files = {f"{name}/a.png": png(9, mode=mode) for name, mode in zip("abcd", ("L", "RGBA", "P", "1"))}
    source = open_source(write_tree(files))
    assert [len(source.read(i)) for i in range(4)] == [1, 3, 3, 1]
    assert source.read(1).unique().tolist() == [9]


@pytest.mark.parametrize(
    ("name", "file_format"),
    [
        ("x.gif", "GIF"), ("x.JFIF", "JPEG"), ("x.jpe", "JPEG"), ("x.JPG", "JPEG"), ("x.Tiff", "TIFF"), ("x", "PNG"),
        ("x.pbm", "PPM"), ("x.jp2", "JPEG2000"), ("x.ico", "ICO"), ("x.dib", "BMP"), ("x.apng", "PNG"), ("x.1", "WEBP"),
        ("x.qoi", "QOI"),
    ],
)  # fmt: skip
def test_images_count_whatever_their_suffix(write_tree: WriteTree, name: str, file_format: str) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (16, 16), (200, 200, 200)).save(buffer, format=file_format)
    source = open_source(write_tree(tree() | {f"cat/{name}": buffer.getvalue()}))
    assert source.labels.tolist().count(0) == 6
    assert source.notes == ()
    assert abs(int(source.read(5)[0, 0, 0]) - 200) < 2


def test_what_is_left_out_is_told(write_tree: WriteTree) -> None:
    path = write_tree(tree() | {"cat/a.heic": b"?", "cat/notes": b"text", "labels.csv": b"a,b", "top.png": png()})
    with pytest.warns(DataWarning) as warned:
        source = open_source(path)
    assert len(source) == 10
    assert source.notes == (
        "left out 3 files that Pillow reads no image from: 'cat/a.heic', 'cat/notes', 'labels.csv'",
        "left out 1 file outside of the folders of classes: 'top.png'",
    )
    assert [str(warning.message) for warning in warned] == [f"{path}: {note}" for note in source.notes]


def test_pipes_links_and_huge_files_of_a_folder_do_no_harm(tmp_path: Path) -> None:
    _write_folder(tmp_path / "pets", tree())
    os.mkfifo(tmp_path / "pets" / "cat" / "pipe")
    with (tmp_path / "pets" / "dog" / "raw.dat").open("wb") as file:
        file.write(png())
        file.truncate(decode.MAX_FILE_BYTES + 1)
    (tmp_path / "pets" / "cat" / "up").symlink_to(tmp_path)
    with pytest.warns(DataWarning):
        source = open_source(tmp_path / "pets")
    assert len(source) == 10
    assert source.notes == (
        "left out 2 files that Pillow reads no image from: 'cat/pipe', 'dog/raw.dat'",
        "links to folders are not followed: 'cat/up'",
    )


def test_members_of_a_zip_never_leave_it(tmp_path: Path) -> None:
    link = zipfile.ZipInfo("dog/link.png")
    link.external_attr = 0o120777 << 16
    outside = {"../../evil.png": png(), "/cat/absolute.png": png()}
    path = _write_zip(tmp_path / "deep" / "pets.zip", tree() | outside)
    with zipfile.ZipFile(path, "a") as archive_file:
        archive_file.writestr(link, "/etc/passwd")
    with pytest.warns(DataWarning) as warned:
        source = open_source(path)
    assert [str(warning.message).rpartition(": ")[2] for warning in warned] == [
        "'../../evil.png'",
        "'/cat/absolute.png'",
    ]
    with pytest.raises(DataError, match=r"dog/link\.png: damaged image \(not an image file\)"):
        source.read(source.parts.index(Part.TRAIN) + len(source) - 1)
    assert [file.name for file in tmp_path.rglob("*") if file.is_file()] == ["pets.zip"]


def test_huge_images_are_rejected_before_decoding(write_tree: WriteTree, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decode, "_MAX_PIXELS", 100)
    source = open_source(write_tree(tree() | {"cat/00.png": png(size=(11, 10))}))
    with pytest.raises(DataError, match=r"cat/00\.png: expected at most 100 pixels, got 11x10"):
        source.read(0)


def test_huge_files_of_a_folder_are_rejected_unread(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        with (tmp_path / name / "a.png").open("wb") as file:
            file.truncate(decode.MAX_FILE_BYTES + 1)
    with pytest.raises(DataError, match=r"cat/a\.png: expected at most \d+ bytes, got \d+"):
        open_source(tmp_path).read(0)


def test_zip_bombs_are_rejected_unpacked(write_zip: WriteTree, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_zip(tree() | {"cat/bomb.png": b"\0" * (decode.MAX_FILE_BYTES + 1)})
    assert path.stat().st_size < 2**20
    with pytest.raises(DataError, match=r"pets\.zip/cat/bomb\.png: expected at most \d+ bytes unpacked"):
        open_source(path)
    monkeypatch.setattr(archive, "MAX_ARCHIVE_BYTES", 100)
    with pytest.raises(DataError, match=r"pets\.zip: expected at most 100 bytes unpacked, got \d+"):
        open_source(write_zip(tree()))


def test_a_zip_that_lies_about_its_content_is_rejected(write_zip: WriteTree) -> None:
    path = write_zip(tree())
    with zipfile.ZipFile(path) as archive_file:
        offset = archive_file.getinfo("cat/00.png").header_offset
    content = bytearray(path.read_bytes())
    content[offset + 60] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"pets\.zip/cat/00\.png: damaged file in the archive"):
        open_source(path).read(0)


def test_encrypted_and_broken_zips_are_rejected(write_zip: WriteTree, tmp_path: Path) -> None:
    path = write_zip(tree())
    content = path.read_bytes()
    central = content.index(b"PK\x01\x02")
    path.write_bytes(content[: central + 8] + b"\x01" + content[central + 9 :])
    with pytest.raises(DataError, match=r"cat/00\.png: encrypted"):
        open_source(path)
    nameless = bytearray(content)
    nameless[central + 28 : central + 30] = b"\0\0"  # the length of the name
    nameless[central + 30] = len("cat/00.png")  # the name is now an extra field
    future = bytearray(content)
    future[central + 6] = 99  # the version of zip that is needed to unpack
    for damaged in (content[: len(content) // 2], nameless, future):
        path.write_bytes(damaged)
        with pytest.raises(DataError, match=r"pets\.zip: not a readable zip file"):
            open_source(path)


def test_rejects_paths_that_are_no_data(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"missing: no such file or folder"):
        open_source(tmp_path / "missing")
    (tmp_path / "data.tar").touch()
    with pytest.raises(DataError, match=r"data\.tar: expected a folder, a \.zip or an \.npz, got suffix '\.tar'"):
        open_source(tmp_path / "data.tar")


def test_scaling_keeps_the_middle_square() -> None:
    image = torch.zeros(1, 8, 24, dtype=torch.uint8)
    image[:, :, 8:16] = 200
    assert decode.fit_square(image, 8).unique().tolist() == [200]
    assert decode.fit_square(image, 4).shape == (1, 4, 4)
    assert decode.fit_square(image.mT, 16).shape == (1, 16, 16)


def test_links_to_folders_are_named_where_nothing_else_is_found(tmp_path: Path) -> None:
    real = _write_folder(tmp_path / "real", tree())
    links = tmp_path / "links"
    links.mkdir()
    for name in ("cat", "dog"):
        (links / name).symlink_to(real / name)
    with pytest.raises(DataError, match=r"no images found \(links to folders are not followed: 'cat', 'dog'\)"):
        open_source(links)
