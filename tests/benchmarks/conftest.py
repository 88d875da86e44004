"""Shapes this small gain nothing from threads, which on a busy machine wait for each other."""

import pytest


@pytest.fixture(autouse=True)
def _one_thread(one_thread: None) -> None:
    pass
