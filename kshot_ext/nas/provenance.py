"""Where numbers come from: machine, versions, commit."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from pathlib import Path

import torch

import kshot_ext

_ROOT = Path(__file__).resolve().parents[2]


def environment() -> dict[str, str]:
    """What results and times may depend on, for people."""
    found = commit(_ROOT)
    return {
        "kshot_ext": f"{kshot_ext.__version__}, commit {found}" if found else kshot_ext.__version__,
        "torch": torch.__version__,
        "Python": platform.python_version(),
        "system": platform.platform(),
        "CPU": f"{cpu_field('model name') or platform.processor() or platform.machine()}, {os.cpu_count()} cores",
        "CPU instructions": torch.backends.cpu.get_cpu_capability(),
        "threads": str(torch.get_num_threads()),
    }


def cpu_field(name: str) -> str:
    """What the system tells of the first processor; empty where it tells nothing."""
    try:
        text = Path("/proc/cpuinfo").read_text(errors="replace")
    except OSError:
        return ""
    found = re.search(rf"^{name}\s*:\s*(.+)$", text, re.MULTILINE)
    return found[1] if found else ""


def commit(root: Path, *results: str) -> str:
    """Commit of a checkout, "+changes" if files differ from it; empty of a folder that is none.

    Args:
        root: folder of the checkout itself; one inside of a checkout, such as an environment, is none.
        results: folders in it that may differ.
    """
    if not (root / ".git").exists():
        return ""
    git = ["git", "-C", str(root)]
    others = [f":!{folder}" for folder in results]
    try:
        head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
        status = [*git, "status", "--porcelain", "--", ".", *others]
        changes = subprocess.run(status, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return ""
    return head.stdout.strip() + ("+changes" if changes.stdout.strip() else "")
