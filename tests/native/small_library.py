"""The library that the tests build in a fraction of a second: what it answers, and how it is damaged."""

import ctypes
from pathlib import Path

from kshot_ext._native.find import Found


def answer(found: Found) -> int:
    return ctypes.CDLL(str(found.library.path)).answer()


def flip_byte_of_library(entry: Path) -> None:
    content = bytearray((entry / "libkshot_ext.so").read_bytes())
    content[len(content) // 2] ^= 1
    (entry / "libkshot_ext.so").write_bytes(content)
