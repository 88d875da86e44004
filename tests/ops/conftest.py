"""Operators are tested on the native kernels."""

import pytest


@pytest.fixture(scope="session", autouse=True)
def _native(native_backend: None) -> None:
    pass
