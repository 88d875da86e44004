"""Set-up shared by all tests."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from core_tests import is_core
from hypothesis import settings

from kshot_ext import backend
from kshot_ext._native.processor import instruction_sets_to_build

# Tensors of tests are tiny: threads would only wait for each other, which takes most of the time of a test that trains.
# Processes that tests start get the same; where threads matter, a test sets their number.
os.environ.setdefault("OMP_NUM_THREADS", "1")
torch.set_num_threads(1)

# Repeatable: the same examples in every run, if integers come from `repeatable.integers`, and a blob to replay the one
# that fails.
settings.register_profile("repeatable", max_examples=500, deadline=None, derandomize=True, print_blob=True)
settings.load_profile("repeatable")


_FOLDER = Path(__file__).parent
_RAN = ("passed", "failed", "xfailed", "xpassed")
_NOT_RUN = pytest.StashKey[dict[str, int]]()  # how many tests, by why not


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--all",
        action="store_true",
        dest="all_tests",
        help="run all tests but the long ones; by default the core of them (tests/core_tests.py), if no file, mark "
        "or keyword is named",
    )


def pytest_configure(config: pytest.Config) -> None:
    if hasattr(config, "workerinput"):  # a worker of xdist
        config.option.only_core = config.workerinput["only_core"]
    else:
        named = (
            config.args_source is not pytest.Config.ArgsSource.TESTPATHS
            or config.option.markexpr != "not long"
            or bool(config.option.keyword)
        )
        config.option.only_core = not (config.option.all_tests or named)
    # The kernels of every instruction set are tested; by the core those of the best one of this processor.
    os.environ.setdefault("KSHOT_EXT_ISAS", "host" if config.option.only_core else "all")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    long = [item for item in items if item.get_closest_marker("long")]
    left = [item for item in items if not _is_core(item)] if config.option.only_core else []
    config.stash[_NOT_RUN] = {"--all": len(set(left) - set(long)), "-m long": len(long)}
    if left:
        config.hook.pytest_deselected(items=left)
        items[:] = [item for item in items if _is_core(item)]


def _is_core(item: pytest.Item) -> bool:
    if not isinstance(item, pytest.Function) or not item.path.is_relative_to(_FOLDER):
        return False
    chosen = item.callspec.params.get("instruction_set") if hasattr(item, "callspec") else None
    if chosen is not None and chosen not in instruction_sets_to_build():
        return False
    return is_core(item.path.relative_to(_FOLDER).as_posix(), item.originalname)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> Iterator[None]:
    """Says, behind all else, how many tests ran, and how the others are run; of calls that name no files or marks."""
    config = session.config
    if hasattr(config, "workeroutput"):  # which xdist sends at the end of its own part
        config.workeroutput["not_run"] = config.stash.get(_NOT_RUN, {})
    yield
    reporter, not_run = config.pluginmanager.get_plugin("terminalreporter"), config.stash.get(_NOT_RUN, {})
    if reporter is None or not not_run or not (config.option.only_core or config.option.all_tests):
        return
    ran, skipped = (sum(len(reporter.stats.get(name, ())) for name in names) for names in (_RAN, ("skipped",)))
    kind = "core tests, on one instruction set" if config.option.only_core else "tests"
    more = [f"{count} more by `pytest {option}`" for option, count in not_run.items() if count]
    reporter.write_line("; ".join([f"ran {ran} {kind}", f"skipped {skipped}, for the reasons above", *more]))


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    node.workerinput["only_core"] = node.config.option.only_core


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Each of xdist's workers collects all tests, and this process none."""
    if hasattr(node, "workeroutput"):
        node.config.stash[_NOT_RUN] = node.workeroutput.get("not_run", {})


def pytest_collectstart(collector: pytest.Collector) -> None:
    """Layers in lists of cases are made as a file is read: they are the same whatever other files were read before."""
    if isinstance(collector, pytest.Module):
        torch.manual_seed(0)


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
