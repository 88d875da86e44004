"""Memory that is left for this process.

A container's limit is its control group's, not the machine's memory; the kernel kills what goes beyond it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

_NO_LIMIT = 2**60  # version 1 writes nearly 2^63 for "no limit"

# Version of control groups: where they are mounted, their files of limit and use, and the prefix of the fields that
# say how much of the use is cached files, which the kernel gives up when memory is short.
_VERSIONS = {
    1: ("sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_"),
    2: ("sys/fs/cgroup", "memory.max", "memory.current", ""),
}


def lack_of_memory(needed: int, available: int) -> str | None:
    """What to say where more bytes are needed than available; None where they suffice."""
    if needed <= available:
        return None
    sizes = f"{needed / 2**30:.2f} GiB are needed, {available / 2**30:.2f} GiB are available to this process"
    return f"too large for memory ({sizes})"


def available_memory(root: Path = Path("/")) -> int:
    """Bytes that this process can still use: the least of what the machine and each enclosing control group leave.

    Args:
        root: folder that holds ``proc`` and ``sys``.
    """
    return min([_free_on_machine(root), *_left_by_groups(root)])


def _free_on_machine(root: Path) -> int:
    for line in _text(root / "proc/meminfo").splitlines():
        name, _, value = line.partition(":")
        if name == "MemAvailable":
            return int(value.split()[0]) * 1024
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _left_by_groups(root: Path) -> Iterator[int]:
    for line in _text(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        mount, *files = _VERSIONS[1 if controllers else 2]
        group = PurePosixPath(path.lstrip("/"))
        # In a container the group's own files lie at the mount's top, whatever the path says; else all parents count.
        for folder in (group, *group.parents) if ".." not in group.parts else (PurePosixPath(),):
            left = _left_by(root / mount / folder, *files)
            if left is not None:
                yield left


def _left_by(group: Path, limit_file: str, usage_file: str, prefix: str) -> int | None:
    """Bytes that a control group leaves; None without a limit."""
    limit = _text(group / limit_file).strip()
    if not limit.isdecimal() or int(limit) >= _NO_LIMIT:  # "max" is none
        return None
    fields = dict(line.split(maxsplit=1) for line in _text(group / "memory.stat").splitlines())
    cached = sum(int(fields.get(f"{prefix}{kind}_file", 0)) for kind in ("active", "inactive"))
    used = int(_text(group / usage_file).strip() or 0) - cached
    return max(int(limit) - max(used, 0), 0)


def _text(file: Path) -> str:
    """The content of a file of the kernel; nothing if this system has none."""
    try:
        return file.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
