"""What a job hands on to the networks and the training that it makes."""

from __future__ import annotations

import torch

from kshot_ext.nas.datasets.splits import DataSplits
from kshot_ext.nas.networks.code_settings import CodeSettings
from kshot_ext.nas.runs.settings import SupernetSettings
from kshot_ext.nas.runs.supernet_job import SupernetJob, build_networks
from kshot_ext.nas.spaces.space import SearchSpace
from kshot_ext.nas.training.data_parallel import DataParallel


def test_networks_are_made_as_the_settings_say(tiny_space: SearchSpace) -> None:
    codes = CodeSettings(per_layer=True, perturbation=0.0, mixed_batch_norm=False)
    supernet, simplex_net = build_networks(SupernetSettings(shots=3, codes=codes), tiny_space)
    weight = supernet.get_parameter("stem.0.weight")
    assert len(weight) == 3
    assert torch.equal(weight[1:], weight[:-1])
    assert not supernet.mixed_batch_norm
    assert simplex_net.settings == codes


def test_a_job_trains_with_its_processes(tiny_splits: DataSplits) -> None:
    processes = DataParallel()
    job = SupernetJob(SupernetSettings(channels=2, shots=1), tiny_splits, processes)
    assert job.trainer.processes is job.processes is processes
