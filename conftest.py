"""For tests and benchmarks: where `benchmarks` is imported from, and what becomes of those that need a GPU."""

import sys
from pathlib import Path

import pytest

# Behind the installed packages, so that those are what is tested.
sys.path.append(str(Path(__file__).parent))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what is marked `gpu` where there is none; only then is torch asked, as it takes long to import."""
    in_need = [item for item in items if item.get_closest_marker("gpu")]
    if not in_need:
        return
    import torch

    if not torch.cuda.is_available():
        for item in in_need:
            item.add_marker(pytest.mark.skip(reason="torch sees no GPU"))
