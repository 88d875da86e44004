"""Which instruction sets a build on first use serves: by default just the best one that this processor has."""

from __future__ import annotations

import os
from pathlib import Path

from kshot_ext._native import flags
from kshot_ext._native.errors import BackendError

# What an instruction set of `flags` asks of the processor, in the words of /proc/cpuinfo.
_REQUIRED = {
    "avx2": {"avx2", "fma", "f16c"},
    "avx512": {"avx2", "fma", "f16c", "avx512f", "avx512bw", "avx512dq", "avx512vl"},
}


def instruction_sets_to_build() -> tuple[str, ...]:
    """Instruction sets for a build on first use.

    The best one of this processor, so that the first use is quick; with `KSHOT_EXT_ISAS=all` every one of the
    architecture, as a library built ahead of time has them, to be chosen from when it runs.

    Raises:
        BackendError: `KSHOT_EXT_ISAS` is neither `host` nor `all`.
    """
    wish = os.environ.get("KSHOT_EXT_ISAS", "host")
    if wish not in ("host", "all"):
        raise BackendError(f"KSHOT_EXT_ISAS must be 'host' or 'all', got {wish!r}")
    every = flags.instruction_sets()
    features = processor_features()
    supported = [name for name in every if _REQUIRED.get(name, set()) <= features]
    return every if wish == "all" else (supported[-1],)


def processor_features() -> set[str]:
    """Feature flags of this processor; empty where the system does not tell, which means portable code."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return set()
    return next((set(line.split(":", 1)[1].split()) for line in lines if line.startswith("flags")), set())
