"""Where a run computes."""

from __future__ import annotations

import re

import torch

_FORM = re.compile(r"cpu|cuda(:\d+)?", re.ASCII)


def check_device_name(name: str) -> None:
    """Checks the form of a device's name; whether this machine has it, is another question.

    Raises:
        ValueError: if it is neither ``cpu`` nor ``cuda`` nor ``cuda:N``.
    """
    if _FORM.fullmatch(name) is None:
        raise ValueError(f"device: expected cpu, cuda or cuda:N, got {name!r}")


def find_device(name: str) -> torch.device:
    """The device of a name.

    Raises:
        ValueError: if this machine does not have it.

    Example:
        >>> find_device("cpu")
        device(type='cpu')
    """
    check_device_name(name)
    device = torch.device(name)
    if device.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if (device.index or 0) >= count:
            found = f"{count} GPUs" if count else "no GPU that it can use"
            raise ValueError(f"device: expected one of this machine, got {name!r}: torch finds {found}; try cpu")
    return device
