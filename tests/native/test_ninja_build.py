"""How many compilers run at once."""

import os

import pytest

from kshot_ext._native import ninja_build

GIBIBYTE = 1 << 30


@pytest.mark.parametrize(
    ("cpus", "free_bytes", "max_jobs", "expected"),
    [
        (8, 64 * GIBIBYTE, None, 8),
        (8, 3 * GIBIBYTE, None, 6),
        (8, 0, None, 1),
        (8, 64 * GIBIBYTE, "2", 2),
        (2, 64 * GIBIBYTE, "16", 2),
        (2, 64 * GIBIBYTE, "many", 2),
    ],
)
def test_jobs(cpus: int, free_bytes: int, max_jobs: str | None, expected: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cpus)))
    monkeypatch.setattr(ninja_build, "_free_memory", lambda: free_bytes)
    if max_jobs is None:
        monkeypatch.delenv("MAX_JOBS", raising=False)
    else:
        monkeypatch.setenv("MAX_JOBS", max_jobs)
    assert ninja_build.jobs() == expected
