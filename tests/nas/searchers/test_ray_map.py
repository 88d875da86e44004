"""Real processes of Ray evaluate; every function is local, so that it travels with its values."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from kshot_ext.distributed import LostProcessError
from kshot_ext.nas.api.start import Resources
from kshot_ext.nas.commands.frame import EXIT_ERROR
from kshot_ext.nas.commands.search import search_command
from kshot_ext.nas.extras import MissingExtraError
from kshot_ext.nas.networks.coded_supernet import CodedSupernet
from kshot_ext.nas.networks.evaluation import InheritedEvaluation
from kshot_ext.nas.networks.simplex_net import SimplexNet
from kshot_ext.nas.networks.supernet import Supernet
from kshot_ext.nas.searchers import ray_map as ray_map_module
from kshot_ext.nas.searchers.archive import Archive
from kshot_ext.nas.searchers.generations import Generations, SearchSettings
from kshot_ext.nas.searchers.ray_map import RayMap
from kshot_ext.nas.spaces import create_space
from kshot_ext.nas.spaces.limits import SearchLimits

OWN_SPACE = """
from kshot_ext.nas.spaces.nas_bench_macro import NASBenchMacro

class Renamed(NASBenchMacro):
    def sample(self, generator):
        return super().sample(generator)
"""


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """Address of a cluster with two machines of one CPU each, both played by this one."""
    pytest.importorskip("ray", reason="Ray is not installed")
    from ray.cluster_utils import Cluster

    nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    nodes.add_node(num_cpus=1)
    yield nodes.address
    nodes.shutdown()


@pytest.fixture(scope="module")
def ray_map(cluster: str) -> Iterator[RayMap]:
    with RayMap(2, cluster) as two_workers:
        yield two_workers


def test_without_an_address_it_starts_a_ray_of_its_own(cluster: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", cluster)
    with RayMap(3) as own:  # the cluster has two CPUs
        assert list(own(abs, [-1, 2])) == [1, 2]


def test_a_search_by_two_processes_finds_what_one_finds(ray_map, tiny_space, tiny_splits, seeded, one_thread) -> None:
    evaluation = InheritedEvaluation(
        CodedSupernet(Supernet(tiny_space, 2, seeded(0)), SimplexNet(tiny_space, 2, seeded(1))),
        tiny_splits.train,
        tiny_splits.validation,
        tiny_splits.mean,
        tiny_splits.std,
    )
    limits, settings = SearchLimits(tiny_space.count_macs(tiny_space.largest())), SearchSettings(4, 3)
    histories, moves = [], []
    for apply_to_all in (map, ray_map):
        archive = Archive(evaluation, tiny_space, limits, seeded(2), apply_to_all)
        search = Generations(archive, settings)
        with archive.listening(lambda _, archive=archive: moves.append(len(archive))):
            while not search.finished:
                search.step()
        histories.append(archive.history)
    assert histories[0] == histories[1]
    assert len({result.scores for result in histories[0]}) > 1
    assert moves == [*range(1, len(histories[0]) + 1)] * 2


def test_all_workers_work_and_keep_the_function(ray_map: RayMap, tmp_path: Path) -> None:
    def count(place: int) -> int:
        """Waits until both arguments have a worker."""
        (tmp_path / str(place)).touch()
        while len(list(tmp_path.iterdir())) < 2:
            pass
        return os.getpid()

    first, second = set(ray_map(count, [0, 1])), set(ray_map(count, [0, 1]))
    assert len(first) == 2
    assert os.getpid() not in first
    assert first == second


def test_a_killed_worker_loses_nothing(ray_map: RayMap, tmp_path: Path) -> None:
    def square(number: int) -> int:
        if number == 3 and not (tmp_path / "killed").exists():
            (tmp_path / "killed").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return number * number

    assert list(ray_map(square, range(8))) == [number * number for number in range(8)]
    assert (tmp_path / "killed").exists()


def test_an_error_comes_back(ray_map: RayMap) -> None:
    def fail(number: int) -> int:
        raise ValueError(f"no {number} here")

    with pytest.raises(ValueError, match="no 5 here"):
        list(ray_map(fail, [5]))


def test_a_space_of_ones_own_travels(ray_map: RayMap, tmp_path: Path, seeded) -> None:
    (tmp_path / "travelling.py").write_text(OWN_SPACE)
    space = create_space(f"{tmp_path / 'travelling.py'}:Renamed", image_shape=(1, 8, 8), num_classes=3, channels=2)
    architectures = [space.sample(seeded(seed)) for seed in range(2)]
    assert list(ray_map(space.count_macs, architectures)) == list(map(space.count_macs, architectures))


def test_workers_have_as_many_threads_as_the_caller(ray_map: RayMap, one_thread: None) -> None:
    torch.set_num_threads(2)
    assert list(ray_map(lambda _: torch.get_num_threads(), [0])) == [2]


def test_a_cluster_that_is_too_small_is_refused(ray_map: RayMap, cluster: str) -> None:
    with pytest.raises(ValueError, match="workers: expected at most the 2 CPUs that Ray has, got 3"):
        RayMap(3, cluster)


def test_ray_that_has_ended_is_a_lost_process(ray_map: RayMap) -> None:
    """The last test of these workers."""
    assert next(ray_map(abs, [-1, 2])) == 1
    assert list(ray_map(abs, [-3])) == [3]  # not what is left of the call before
    ray_map._process.kill()  # as Ray itself does when it loses its node
    with pytest.raises(LostProcessError, match="Ray has ended"):
        list(ray_map(abs, [1]))


def test_an_address_that_does_not_answer_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ray", reason="Ray is not installed")
    monkeypatch.setattr(ray_map_module, "_CONNECT_SECONDS", 0.1)
    with pytest.raises(ConnectionError, match=r"ray_address: no cluster answers at 192\.0\.2\.77:6379"):
        RayMap(1, "192.0.2.77:6379")


def test_missing_ray_names_the_cure(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtraError, match=r"ray is needed here .* pip install 'kshot_ext\[ray\]'"):
        RayMap(2)
    assert search_command({"out": str(tmp_path / "run")}, None, None, Resources(workers=2)) == EXIT_ERROR
    assert "kshot_ext[ray]" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_misuse_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match="workers: expected at least 1, got 0"):
        RayMap(0)
    assert search_command({}, None, None, Resources(ray_address="127.0.0.1:1")) == EXIT_ERROR
    assert "expected workers too" in capsys.readouterr().err
