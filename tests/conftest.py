"""Set-up shared by all tests."""

from collections.abc import Iterator

import pytest
import torch
from hypothesis import settings

from kshot_ext import backend

# Repeatable: the same examples in every run, and a blob to replay the one that fails.
settings.register_profile("repeatable", max_examples=500, deadline=None, derandomize=True, print_blob=True)
settings.load_profile("repeatable")


@pytest.fixture(autouse=True)
def _fixed_seed() -> None:
    """Module constructors draw from the global generator."""
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def native_backend() -> None:
    """The compiled library is in use: a test against the reference must not compare it with itself."""
    assert backend.native(), f"these tests need the native kernels: {backend.info()}"


@pytest.fixture(params=["portable", "avx2", "avx512"])
def instruction_set(request: pytest.FixtureRequest, native_backend: None) -> Iterator[str]:
    """Each instruction set of the kernels that this processor has."""
    if not torch.ops.kshot_ext.force_cpu_isa(request.param):
        pytest.skip(f"this processor has no {request.param}")
    yield request.param
    torch.ops.kshot_ext.force_cpu_isa("auto")


@pytest.fixture
def one_thread() -> Iterator[None]:
    """For tests on tiny tensors, where threads would only wait for each other; may be changed by the test."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
