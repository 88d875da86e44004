"""What kernels moved, from the counts of the emulator's traffic build (emulator/traffic.cpp)."""

import json
import re
import subprocess
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

from cuda_emulation.build import ROOT

SECTOR = 32


@cache
def _frames(module: Path, address: int) -> tuple[tuple[str, str], ...]:
    """Function and line of an address in a module, the innermost of inlined calls first."""
    command = ["addr2line", "-f", "-i", "-C", "-e", str(module), hex(address)]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    return tuple((lines[i], re.sub(r" \(discriminator \d+\)", "", lines[i + 1])) for i in range(0, len(lines) - 1, 2))


def line_of(module: Path, address: int) -> str:
    """The source line of an instruction; in a helper's code, the calls that lead there come first."""
    lines = [line.removeprefix(f"{ROOT}/") for _, line in _frames(module, address)]
    own = [line for line in lines if not line.startswith(("/usr/", "tests/cuda_emulation/include/", "??"))]
    return " -> ".join(reversed(own)) or lines[0]


# Of the emulator's types the names that CUDA has for them.
_SHORT_NAMES = {
    "emulation::Narrow<emulation::Float16Format>": "__half",
    "emulation::Narrow<emulation::BFloat16Format>": "__nv_bfloat16",
    "kshot::cuda::": "",
    " >": ">",
}


def name_of(module: Path, address: int) -> str:
    """A kernel's name with its template arguments, without its namespaces and parameters."""
    name = _frames(module, address)[-1][0].replace("(anonymous namespace)::", "").removeprefix("void ")
    depth, end = 0, len(name)
    for i, letter in enumerate(name):
        depth += {"<": 1, ">": -1}.get(letter, 0)
        if letter == "(" and depth == 0:
            end = i
            break
    name = name[:end]
    for long, short in _SHORT_NAMES.items():
        name = name.replace(long, short)
    return re.sub(r"^(?:\w+::)+", "", name)


def _ratio(part: int, whole: int) -> float:
    return part / whole if whole else 1.0


def _by_line(module: Path, instructions: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """The counts of instructions, added for every line, memory and direction."""
    lines: dict[tuple[str, bool, bool], dict[str, Any]] = {}
    for one in instructions:
        line = line_of(module, one["address"]) if one["address"] else f"{one['file']}:{one['line']}"
        key = (line, one["shared"], one["write"])
        total = lines.setdefault(
            key,
            {"line": line, "memory": "shared" if one["shared"] else "global", "write": bool(one["write"])}
            | dict.fromkeys(_SUMS, 0)
            | {"worst_bank_conflict": 0},
        )
        for name in _SUMS:
            total[name] += one[name]
        total["worst_bank_conflict"] = max(total["worst_bank_conflict"], one["worst_conflict"])
    for total in lines.values():
        total["sector_ratio"] = _ratio(total["sectors"], total["ideal_sectors"])
        total["bank_conflict"] = _ratio(total["wavefronts"], total["ideal_wavefronts"])
    return list(lines.values())


_SUMS = ("accesses", "bytes", "sectors", "ideal_sectors", "wavefronts", "ideal_wavefronts")


def summary(module: Path, kernel: dict[str, Any]) -> dict[str, Any]:
    """A kernel's counts, over all of its launches:

    bytes_read, bytes_written: what the accesses of its warps moved; lanes of a warp that share a byte move it once
    unique_bytes_read, ..._written: the least possible, every byte once in a launch
    block_bytes_read, ..._written: whole sectors, each once in a block, as if the rest came from the block's cache
    sectors, ideal_sectors: of 32 bytes, that its accesses touched, and that as many bytes side by side would
    worst_sector_ratio, ..._line: the line where the former exceed the latter most
    bank_conflict: passes through shared memory over the least possible
    worst_bank_conflict, ..._line: most passes that one access needed where one could do
    lines: the same for every line of the source
    """
    lines = _by_line(module, kernel["instructions"])
    of_global = [line for line in lines if line["memory"] == "global"]
    of_shared = [line for line in lines if line["memory"] == "shared"]
    worst_sectors = max(of_global, key=lambda line: line["sector_ratio"], default=None)
    worst_banks = max(of_shared, key=lambda line: line["worst_bank_conflict"], default=None)
    return {
        "kernel": name_of(module, kernel["address"]),
        "launches": kernel["launches"],
        "bytes_read": sum(line["bytes"] for line in of_global if not line["write"]),
        "bytes_written": sum(line["bytes"] for line in of_global if line["write"]),
        "unique_bytes_read": kernel["unique_bytes_read"],
        "unique_bytes_written": kernel["unique_bytes_written"],
        "block_bytes_read": SECTOR * kernel["block_sectors_read"],
        "block_bytes_written": SECTOR * kernel["block_sectors_written"],
        "sectors": sum(line["sectors"] for line in of_global),
        "ideal_sectors": sum(line["ideal_sectors"] for line in of_global),
        "worst_sector_ratio": worst_sectors["sector_ratio"] if worst_sectors else 1.0,
        "worst_sector_line": worst_sectors["line"] if worst_sectors else None,
        "bank_conflict": _ratio(
            sum(line["wavefronts"] for line in of_shared), sum(line["ideal_wavefronts"] for line in of_shared)
        ),
        "worst_bank_conflict": worst_banks["worst_bank_conflict"] if worst_banks else 0,
        "worst_bank_conflict_line": worst_banks["line"] if worst_banks else None,
        "lines": lines,
    }


def summaries(module: Path, counts: str) -> list[dict[str, Any]]:
    """The summary of every kernel in the module's JSON."""
    return [summary(module, kernel) for kernel in json.loads(counts)]


_NAME_WIDTH = 60


def table(kernels: Iterable[dict[str, Any]]) -> str:
    """One row a kernel, for a report."""
    rows = [("kernel", "moved/least", "by blocks/least", "sectors/ideal", "worst bank conflict")]
    for one in kernels:
        least = one["unique_bytes_read"] + one["unique_bytes_written"]
        moved = one["bytes_read"] + one["bytes_written"]
        blocks = one["block_bytes_read"] + one["block_bytes_written"]
        sectors = _ratio(one["sectors"], one["ideal_sectors"])
        conflict = f"{one['worst_bank_conflict']} at {one['worst_bank_conflict_line']}"
        cells = (f"{_ratio(moved, least):.2f}", f"{_ratio(blocks, least):.2f}", f"{sectors:.2f}")
        name = one["kernel"] if len(one["kernel"]) <= _NAME_WIDTH else one["kernel"][: _NAME_WIDTH - 3] + "..."
        rows.append((name, *cells, conflict if one["worst_bank_conflict"] else "-"))
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows)
