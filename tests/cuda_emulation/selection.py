"""Which tests run on the emulator, and how many cases of each."""

import os
from collections.abc import Callable, Iterable

import pytest
from cuda_emulation import build
from cuda_emulation.emulation import ORDERS

# Kernels run under sanitizers, in every order each time, and with their traffic counted, only where this asks for it.
FULL = os.environ.get("KSHOT_EMULATION") == "full"
needs_full = pytest.mark.skipif(not FULL, reason="takes long; KSHOT_EMULATION=full runs it")
needs_emulator = pytest.mark.skipif(not build.available(), reason="the emulator needs GCC on Linux")


def under_sanitizers(test: Callable[..., None]) -> Callable[..., None]:
    """A test of a kernel, `test(variant, order, ...)`: its memory in two orders, its races in random order."""
    runs = [("asan", "forward"), ("asan", "reverse"), ("tsan", "random")]
    return needs_full(pytest.mark.parametrize(("variant", "order"), runs)(test))


def share(seeds: Iterable[int], order: str) -> list[int]:
    """The seeds that a test runs in this order: a third of them, as orders take turns; all of them in a full run."""
    return [seed for seed in seeds if FULL or ORDERS[seed % len(ORDERS)] == order]
