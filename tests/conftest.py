"""Set-up shared by all tests."""

import os
from collections.abc import Iterator

import pytest
import torch
from hypothesis import settings

from kshot_ext import backend

# The kernels of every instruction set are tested, not just the best one of this processor.
os.environ.setdefault("KSHOT_EXT_ISAS", "all")

# Tensors of tests are tiny: threads would only wait for each other, which takes most of the time of a test that trains.
# Processes that tests start get the same; where threads matter, a test sets their number.
os.environ.setdefault("OMP_NUM_THREADS", "1")
torch.set_num_threads(1)

# Repeatable: the same examples in every run, if integers come from `repeatable.integers`, and a blob to replay the one
# that fails.
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


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """A test may set another number of threads, for itself."""
    yield
    torch.set_num_threads(1)
