"""Operators are tested on the native kernels, and on tiny tensors."""

import pytest


@pytest.fixture(scope="session", autouse=True)
def _native(native_backend: None) -> None:
    pass


@pytest.fixture(autouse=True)
def _one_thread(one_thread: None) -> None:
    pass
