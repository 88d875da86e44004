"""The C++ source tree: where it is, what it lists, and its digest."""

import hashlib
from pathlib import Path

from kshot_ext._native.errors import BackendError

_LIST = "sources.txt"
_FOLDERS = ("ops/", "cpu/", "ops_cuda/", "cuda/")
_SUFFIXES = (".cpp", ".cu", ".cuh", ".h")
_PACKAGE = Path(__file__).resolve().parent.parent


def source_folder() -> Path:
    """The `csrc` folder: inside an installed package, beside the package in a source checkout."""
    candidates = (_PACKAGE / "csrc", _PACKAGE.parent / "csrc")
    for folder in candidates:
        if (folder / _LIST).is_file():
            return folder
    raise BackendError(
        f"expected the C++ sources in {candidates[0]} or {candidates[1]}, but neither holds {_LIST}; "
        "reinstall kshot_ext"
    )


def listed_sources(folder: Path) -> tuple[str, ...]:
    """Paths, relative to `folder`, of the files to compile, as `sources.txt` lists them.

    Raises:
        BackendError: a listed file is missing, or lies in none of the folders that are compiled.
    """
    lines = (folder / _LIST).read_text(encoding="utf-8").splitlines()
    sources = tuple(line.strip() for line in lines if line.strip() and not line.startswith("#"))
    for source in sources:
        if not source.startswith(_FOLDERS):
            folders = ", ".join(_FOLDERS)
            raise BackendError(f"{folder / _LIST} lists {source!r}; expected a path that starts with one of {folders}")
        if not (folder / source).is_file():
            raise BackendError(f"{folder / _LIST} lists {source!r}, but there is no such file")
    return sources


def sources_digest(folder: Path) -> str:
    """SHA-256, in hexadecimal, of the names and contents of all sources and headers in `folder`."""
    digest = hashlib.sha256()
    files = [path for path in folder.rglob("*") if path.suffix in _SUFFIXES]
    for path in sorted([*files, folder / _LIST], key=lambda path: path.relative_to(folder).as_posix()):
        content = path.read_bytes()
        digest.update(f"{path.relative_to(folder).as_posix()}\0{len(content)}\0".encode())
        digest.update(content)
    return digest.hexdigest()
