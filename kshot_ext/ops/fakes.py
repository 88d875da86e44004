"""Fake kernels of the native operators: sizes and layouts of results, for `torch.compile` and meta tensors."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves


def register_fake(name: str, fake: Callable[..., Any]) -> None:
    """Register the fake kernel of `kshot_ext::NAME`; like the kernels it refuses operands on several devices.

    A single operand on the meta device would otherwise make a result without values of a call that has some.

    Args:
        name: name of the operator.
        fake: takes the operator's arguments, returns tensors like its results.
    """

    @functools.wraps(fake)
    def checked(*inputs: Any) -> Any:
        devices = {x.device for x in tree_leaves(inputs) if isinstance(x, Tensor)}
        if len(devices) > 1:
            found = ", ".join(sorted(map(str, devices)))
            raise RuntimeError(f"the operands of kshot_ext::{name} must be on one device, got {found}")
        return fake(*inputs)

    torch.library.register_fake(f"kshot_ext::{name}", checked)
