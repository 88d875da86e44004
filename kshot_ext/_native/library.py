"""A finished library on disk: a folder with the shared object and the JSON file that describes it."""

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from kshot_ext._native.cache import ELSEWHERE
from kshot_ext._native.errors import BackendError

LIBRARY = "libkshot_ext.so"
METADATA = "build.json"


@dataclass(frozen=True)
class Metadata:
    """What a library was built from and for: digest of the sources, stable ABI, CUDA, compiler.

    `torch_target` is the oldest torch that can load it; `cuda` the major version of CUDA, empty for the CPU.
    `contents` is the digest of all but the compiler, empty where that is not known.
    """

    sources: str
    torch_target: str
    cuda: str
    compiler: str
    seconds: float
    contents: str = ""


@dataclass(frozen=True)
class Library:
    """A library that is complete, with its metadata."""

    path: Path
    metadata: Metadata

    def load(self) -> None:
        """Load it into this process; its operators then stand in `torch.ops.kshot_ext`.

        Raises:
            BackendError: the system does not load it.
        """
        try:
            torch.ops.load_library(self.path)
        except OSError as error:
            cause = error.__cause__ or error  # torch's own error does not say why
            raise BackendError(
                f"the library {self.path} does not load ({cause}); if its disk is mounted so that no code may run from "
                f"it (noexec), {ELSEWHERE}, else remove {self.path.parent} to have it built anew"
            ) from error


def seal(folder: Path, metadata: Metadata) -> Library:
    """Complete the folder of a newly built library with its metadata and the digest of the library."""
    library = folder / LIBRARY
    content = {**asdict(metadata), "sha256": _digest(library)}
    (folder / METADATA).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    return Library(library, metadata)


def read_library(folder: Path) -> Library | None:
    """The library in `folder`; None if it is absent, half-built or damaged."""
    library = folder / LIBRARY
    try:
        content = json.loads((folder / METADATA).read_text(encoding="utf-8"))
        expected = content.pop("sha256")
        return Library(library, Metadata(**content)) if _digest(library) == expected else None
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
