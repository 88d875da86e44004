"""Where figures come from: machine, library versions, flags, commit."""

from __future__ import annotations

import platform
import re
import sys
from datetime import datetime, timezone
from pathlib import Path

import torch

import kshot_ext
from benchmarks.measuring import gpu
from benchmarks.place import Place
from kshot_ext import backend
from kshot_ext.nas import provenance
from kshot_ext.nas.provenance import cpu_field

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
        "cpu": cpu_field("model name") or platform.processor() or platform.machine(),
        "cpu_flags": [flag for flag in cpu_field("flags").split() if _FLAGS.match(flag)],
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


def commit(root: Path = _ROOT) -> str:
    """Commit of a checkout, "+changes" if files but results differ from it; empty outside of a checkout."""
    return provenance.commit(root, "benchmarks/results")
