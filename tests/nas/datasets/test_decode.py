from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from torch.nn import functional as F

from kshot_ext.nas.datasets import DataError, decode, memory
from kshot_ext.nas.datasets.decode import decode_image, fit_square


def _encoded(image: Image.Image, file_format: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format=file_format, **options)
    return buffer.getvalue()


def _decoded(image: Image.Image, file_format: str = "PNG", **options: object) -> torch.Tensor:
    return decode_image(_encoded(image, file_format, **options), "a.png")


def _stripe(colour: int, opacity: int = 255) -> Image.Image:
    """4x4, transparent but for its second row; hidden pixels have the same colour."""
    pixels = np.full((4, 4, 4), colour, np.uint8)
    pixels[..., 3] = 0
    pixels[1, :, 3] = opacity
    return Image.fromarray(pixels)


def _rows(image: torch.Tensor) -> list[int]:
    """The value of each row, which must be grey and the same all along."""
    assert torch.equal(image, image[:1, :, :1].expand_as(image))
    return image[0, :, 0].tolist()


@pytest.mark.parametrize(("mode", "channels"), [("RGBA", 3), ("LA", 1), ("PA", 3)])
@pytest.mark.parametrize(
    ("colour", "opacity", "expected"),
    [
        (0, 255, [255, 0, 255, 255]),
        (90, 255, [255, 90, 255, 255]),
        (255, 255, [0, 255, 0, 0]),  # white on white would not be seen
        (0, 51, [255, 204, 255, 255]),
    ],
)
def test_content_in_the_opacity_is_seen(
    mode: str, channels: int, colour: int, opacity: int, expected: list[int]
) -> None:
    image = _stripe(colour, opacity)
    if mode == "LA":
        image = image.convert("LA")
    elif mode == "PA":
        image = image.quantize(4)
    decoded = _decoded(image)
    assert len(decoded) == channels
    assert _rows(decoded) == expected


def test_a_transparent_colour_of_a_palette_or_of_grey() -> None:
    indices = Image.fromarray(np.array([[0] * 4, [1] * 4, [2] * 4], np.uint8), "P")
    indices.putpalette([10, 10, 10, 20, 20, 20, 30, 30, 30])
    assert _rows(_decoded(indices, transparency=0)) == [255, 20, 30]
    assert _rows(_decoded(indices, transparency=bytes([255, 0, 51]))) == [10, 255, 210]
    assert _rows(_decoded(indices, "GIF", transparency=1)) == [10, 255, 30]
    grey = Image.fromarray(np.array([[10] * 4, [20] * 4], np.uint8))
    decoded = _decoded(grey, transparency=10)
    assert len(decoded) == 1
    assert _rows(decoded) == [255, 20]
    assert _rows(_decoded(grey.convert("RGB"), transparency=(10, 10, 10))) == [255, 20]


def test_an_image_without_content_is_white_and_an_opaque_one_is_itself() -> None:
    assert _rows(_decoded(Image.new("RGBA", (4, 2), (0, 0, 0, 0)))) == [255, 255]
    pixels = np.random.default_rng(0).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    opaque = Image.fromarray(pixels).convert("RGBA")
    assert np.array_equal(_decoded(opaque).permute(1, 2, 0).numpy(), pixels)


def test_light_and_dark_content_of_one_image_is_judged_by_its_mean() -> None:
    pixels = np.zeros((2, 4, 4), np.uint8)
    pixels[0, :2] = 255  # two white pixels and one black one: two thirds of white
    pixels[0, 2] = (0, 0, 0, 255)
    assert _decoded(Image.fromarray(pixels))[0].tolist() == [[255, 255, 0, 255], [255] * 4]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_images_are_turned_as_viewers_turn_them(orientation: int, file_format: str) -> None:
    """Four grey patches of a 16x32 picture, dealt out as each orientation stores them (EXIF 2.32, tag 274)."""
    upright = np.kron(np.array([[0, 80], [160, 240]], np.uint8), np.ones((16, 8), np.uint8))
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.T,
        6: np.rot90(upright),
        7: upright[::-1, ::-1].T,
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"JPEG": {"quality": 100}, "WEBP": {"lossless": True}}.get(file_format, {})
    decoded = _decoded(Image.fromarray(np.ascontiguousarray(stored)), file_format, exif=exif, **options)
    assert decoded.shape[1:] == (32, 16)
    assert (decoded[0].int() - torch.from_numpy(upright.astype(np.int32))).abs().max() <= 3


def test_metadata_that_nobody_can_read_turns_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    image = Image.fromarray(np.array([[0, 255]], np.uint8))
    assert _decoded(image, "PNG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff")[0].tolist() == [[0, 255]]
    monkeypatch.setattr(ImageOps, "exif_transpose", lambda image: 1 / 0)
    assert _decoded(image)[0].tolist() == [[0, 255]]


def test_grey_of_16_bits_is_rounded_to_8() -> None:
    values = np.array([[0, 128, 129, 257, 32896, 65535]], np.uint16)
    for file_format in ("PNG", "TIFF", "PPM"):
        assert _decoded(Image.fromarray(values), file_format)[0].tolist() == [[0, 0, 1, 1, 128, 255]]
    assert _decoded(Image.fromarray(np.zeros((1, 2), np.uint16)))[0].tolist() == [[0, 0]]


@pytest.mark.parametrize(
    ("image", "file_format", "found"),
    [
        (Image.new("I;16", (8, 8), 4095), "PNG", r"mode 'I;16' with values up to 4095"),  # 12 bits in a file of 16
        (Image.new("F", (8, 8), 0.5), "TIFF", r"mode 'F'"),
        (Image.new("I", (8, 8), 2**20), "TIFF", r"mode 'I'"),
    ],
)
def test_deep_images_are_rejected_rather_than_cut(image: Image.Image, file_format: str, found: str) -> None:
    with pytest.raises(DataError, match=rf"a\.png: expected 8 bits per channel, or 16 .* got an image of {found}"):
        _decoded(image, file_format)


def test_inks_become_colours() -> None:
    decoded = _decoded(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG", quality=100)
    assert decoded.shape == (3, 8, 8)
    assert decoded[0].min() > 250
    assert decoded[1:].max() < 5


def test_of_several_frames_the_first_counts() -> None:
    frames = [Image.new("L", (4, 1), value) for value in (40, 200)]
    for file_format in ("GIF", "TIFF", "PNG"):
        assert _rows(_decoded(frames[0], file_format, save_all=True, append_images=frames[1:])) == [40]


def test_an_image_that_would_not_fit_into_memory_is_rejected_before_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    data = _encoded(Image.new("1", (2000, 1000)))
    monkeypatch.setattr(memory, "available_memory", lambda: 2000 * 1000 * 24)
    assert decode_image(data, "a.png").shape == (1, 1000, 2000)
    monkeypatch.setattr(memory, "available_memory", lambda: 2000 * 1000 * 24 - 1)
    with pytest.raises(DataError, match=r"a\.png \(2000x1000\): too large for memory"):
        decode_image(data, "a.png")


@pytest.mark.parametrize("shape", [(1, 100_000), (100_000, 1), (3, 30), (8, 24)])
def test_scaling_makes_no_more_than_a_few_squares(shape: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    made, interpolate = [], F.interpolate

    def counted(*arguments: object, **options: object) -> torch.Tensor:
        made.append(interpolate(*arguments, **options))
        return made[-1]

    monkeypatch.setattr(decode.F, "interpolate", counted)
    image = torch.zeros(1, *shape, dtype=torch.uint8)
    image[:, shape[0] // 2, shape[1] // 2] = 250
    scaled = fit_square(image, 224)
    assert scaled.shape == (1, 224, 224)
    assert scaled.max() > 100  # the middle is what is kept
    assert made[0].numel() <= 4 * 224**2


def test_images_of_usual_shapes_are_scaled_whole() -> None:
    image = torch.randint(256, (3, 20, 80), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    whole = F.interpolate(image[None], (16, 64), mode="bilinear", antialias=True)[0]
    assert torch.equal(fit_square(image, 16), whole[:, :, 24:40])


def test_transparent_grey_of_16_bits_shows_the_background() -> None:
    values = np.array([[0, 257 * 90, 257 * 180]], np.uint16)
    assert _decoded(Image.fromarray(values), transparency=0)[0].tolist() == [[255, 90, 180]]
    light = np.array([[300, 257 * 250, 65535]], np.uint16)  # white would hide it; 300 and 257 are both 1 of 255
    assert _decoded(Image.fromarray(light), transparency=300)[0].tolist() == [[0, 250, 255]]
    dark = Image.fromarray(np.array([[65535, 4095]], np.uint16))
    with pytest.raises(DataError, match="with values up to 4095"):
        _decoded(dark, transparency=65535)


@pytest.mark.parametrize(
    ("depth", "colour_type", "row", "transparent", "expected"),
    [
        (2, 0, [0b00_01_10_11], [1], [0, 255, 170, 255]),
        (4, 0, [0x01, 0x2F], [2], [0, 17, 255, 255]),
        (16, 2, [1, 0, 1, 0, 1, 0] + [90, 0] * 3, [256] * 3, [255, 90]),
    ],
)
def test_a_transparent_value_of_png_in_other_depths(
    depth: int, colour_type: int, row: list[int], transparent: list[int], expected: list[int]
) -> None:
    """PNG specification, 11.3.2.1: the value is one of the samples as they are stored, before any scaling."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = struct.pack(">IIBBBBB", len(expected), 1, depth, colour_type, 0, 0, 0)
    chunks = [
        chunk(b"IHDR", header),
        chunk(b"tRNS", struct.pack(f">{len(transparent)}H", *transparent)),
        chunk(b"IDAT", zlib.compress(bytes([0, *row]))),
        chunk(b"IEND", b""),
    ]
    decoded = decode_image(b"\x89PNG\r\n\x1a\n" + b"".join(chunks), "x.png")
    assert decoded[0].tolist() == [expected]
