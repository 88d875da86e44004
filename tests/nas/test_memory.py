"""Limits of control groups, in files as the kernel shows them to a process in and outside of a container."""

from __future__ import annotations

from pathlib import Path

import pytest

from kshot_ext.nas.memory import available_memory

GIB = 2**30


def _write(root: Path, files: dict[str, object]) -> Path:
    machine = {"proc/meminfo": f"MemTotal: {64 * 2**20} kB\nMemAvailable: {32 * 2**20} kB\n"}
    for name, content in (machine | files).items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(f"{content}\n")
    return root


def _version_2(limit: object, used: int = 0, cache: int = 0, folder: str = "") -> dict[str, object]:
    top = f"sys/fs/cgroup/{folder}"
    return {
        f"{top}memory.max": limit,
        f"{top}memory.current": used,
        f"{top}memory.stat": f"anon 1\ninactive_file {cache}\nactive_file 5\nfile 99",
    }


def _version_1(limit: object, used: int = 0, cache: int = 0, folder: str = "") -> dict[str, object]:
    top = f"sys/fs/cgroup/memory/{folder}"
    return {
        f"{top}memory.limit_in_bytes": limit,
        f"{top}memory.usage_in_bytes": used,
        f"{top}memory.stat": f"cache 7\ninactive_file 0\ntotal_inactive_file {cache}\ntotal_active_file 5",
    }


V1_CONTAINER = {"proc/self/cgroup": "5:cpu:/docker/other\n4:hugetlb,memory:/docker/ab\n0::/docker/ab"}


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, 32 * GIB),
        ({"proc/self/cgroup": "0::/", **_version_2("max")}, 32 * GIB),
        ({"proc/self/cgroup": "0::/", **_version_2(2 * GIB, used=GIB, cache=GIB // 4)}, 2 * GIB - GIB * 3 // 4 + 5),
        ({"proc/self/cgroup": "0::/", **_version_2(GIB, used=2 * GIB)}, 0),
        ({"proc/self/cgroup": "0::/../../x", **_version_2(GIB)}, GIB),
        ({"proc/self/cgroup": "0::/a/b", **_version_2("max", folder="a/b/"), **_version_2(GIB, folder="a/")}, GIB),
        ({**V1_CONTAINER, **_version_1(2 * GIB, used=GIB, cache=GIB // 4)}, 2 * GIB - GIB * 3 // 4 + 5),
        ({**V1_CONTAINER, **_version_1(2**63 - 4096), **_version_1(GIB, folder="docker/ab/")}, GIB),
        ({**V1_CONTAINER, **_version_1(2**63 - 4096), **_version_1(GIB, folder="docker/other/")}, 32 * GIB),
        ({"proc/self/cgroup": "0::/", **_version_2(100 * GIB)}, 32 * GIB),
    ],
)
def test_the_least_of_machine_and_groups_counts(tmp_path: Path, files: dict[str, object], expected: int) -> None:
    assert available_memory(_write(tmp_path, files)) == expected


def test_this_machine_has_memory() -> None:
    assert 2**20 < available_memory() < 2**50
