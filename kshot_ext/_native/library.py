"""A finished library on disk: a folder with the shared object and the JSON file that describes it."""

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path

LIBRARY = "libkshot_ext.so"
_METADATA = "build.json"


@dataclass(frozen=True)
class Metadata:
    """What a library was built from: digest of the sources, torch version, compiler."""

    sources: str
    torch: str
    compiler: str
    seconds: float


@dataclass(frozen=True)
class Library:
    """A library that is complete, with its metadata."""

    path: Path
    metadata: Metadata


def seal(folder: Path, metadata: Metadata) -> Library:
    """Complete the folder of a newly built library with its metadata and the digest of the library."""
    library = folder / LIBRARY
    content = {**asdict(metadata), "sha256": _digest(library)}
    (folder / _METADATA).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    return Library(library, metadata)


def read_library(folder: Path) -> Library | None:
    """The library in `folder`; None if it is absent, half-built or damaged."""
    library = folder / LIBRARY
    try:
        content = json.loads((folder / _METADATA).read_text(encoding="utf-8"))
        expected = content.pop("sha256")
        return Library(library, Metadata(**content)) if _digest(library) == expected else None
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
