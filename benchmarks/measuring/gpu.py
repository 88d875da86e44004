"""What the current CUDA device is."""

from __future__ import annotations

import subprocess

import torch


def available() -> bool:
    """Whether torch can use a CUDA device."""
    return torch.cuda.is_available()


def description() -> dict[str, object]:
    """Device, driver, libraries and clocks; all values are JSON, None where they cannot be read."""
    device = torch.cuda.current_device()
    properties = torch.cuda.get_device_properties(device)
    return {
        "name": properties.name,
        "capability": f"{properties.major}.{properties.minor}",
        "memory_bytes": properties.total_memory,
        "l2_cache_bytes": properties.L2_cache_size,
        "multiprocessors": properties.multi_processor_count,
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
        "highest_clock_khz": getattr(properties, "clock_rate", None),
        "memory_clock_khz": getattr(properties, "memory_clock_rate", None),
        "memory_bus_bits": getattr(properties, "memory_bus_width", None),
        **_asked_of_the_driver(str(properties.uuid)),
    }


def _asked_of_the_driver(uuid: str) -> dict[str, str | None]:
    fields = {"driver": "driver_version", "clock_now": "clocks.sm", "power_limit": "power.limit"}
    command = ["nvidia-smi", f"--id=GPU-{uuid}", f"--query-gpu={','.join(fields.values())}", "--format=csv,noheader"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout.split(",")
    except (OSError, subprocess.SubprocessError):
        return dict.fromkeys(fields)
    return dict(zip(fields, (value.strip() for value in answer)))
