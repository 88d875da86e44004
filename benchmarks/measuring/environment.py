"""Where figures come from: machine, library versions, flags, commit."""

from __future__ import annotations

import platform
import re
import subprocess
import sys
from datetime import datetime, timezone
from pathlib import Path

import torch

import kshot_ext
from benchmarks.measuring import gpu
from benchmarks.place import Place
from kshot_ext import backend

_FLAGS = re.compile(r"^(avx|fma|amx|f16c|sse4|sve|neon|asimd)")
_ROOT = Path(__file__).resolve().parents[2]


def environment(place: Place) -> dict[str, object]:
    """What a reader needs to repeat or to doubt a figure taken in a place; all values are JSON."""
    found = {
        "time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "command": " ".join(["python", "-m", _module(), *sys.argv[1:]]),
        "commit": commit(),
        "device": place.device,
        "precision": place.precision,
        "cpu": _cpu_field("model name") or platform.processor() or platform.machine(),
        "cpu_flags": [flag for flag in _cpu_field("flags").split() if _FLAGS.match(flag)],
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "torch_cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "python": platform.python_version(),
        "kshot_ext": {"version": kshot_ext.__version__, **dict(backend.rows())},
    }
    if place.device == "cuda":
        found["gpu"] = gpu.description()
    return found


def _module() -> str:
    return f"benchmarks.{Path(sys.argv[0]).stem}"


def _cpu_field(name: str) -> str:
    info = Path("/proc/cpuinfo")
    text = info.read_text() if info.exists() else ""
    found = re.search(rf"^{name}\s*:\s*(.+)$", text, re.MULTILINE)
    return found[1] if found else ""


def commit(root: Path = _ROOT) -> str:
    """Commit of a checkout, "+changes" if files but results differ from it; empty outside of a checkout."""
    git = ["git", "-C", str(root)]
    try:
        head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
        changes = subprocess.run(
            [*git, "status", "--porcelain", "--", ".", ":!benchmarks/results"],
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return ""
    return head.stdout.strip() + ("+changes" if changes.stdout.strip() else "")
