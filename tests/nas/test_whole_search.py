"""The whole method in miniature: train the supernet, search it, extract and retrain what it found."""

from kshot_ext.nas.datasets.batches import batches
from kshot_ext.nas.networks.evaluation import evaluate_architecture
from kshot_ext.nas.networks.export import extract
from kshot_ext.nas.searchers.archive import Archive
from kshot_ext.nas.searchers.generations import Generations, SearchSettings
from kshot_ext.nas.spaces.limits import SearchLimits
from kshot_ext.nas.spaces.sampling import random_architecture_of_equal_budget
from kshot_ext.nas.training.retrain import NetworkTrainer, RetrainSettings
from kshot_ext.nas.training.settings import TrainingSettings


def test_finds_a_network_that_learns(tiny_space, tiny_splits, make_loop, seeded):
    loop = make_loop(TrainingSettings(epochs=3, batch_size=8, warmup_epochs=1))
    while not loop.finished:
        loop.train_epoch()
    coded = loop.method.coded

    normalisation = {"mean": tiny_splits.mean, "std": tiny_splits.std}
    calibration = list(batches(tiny_splits.train, 16, **normalisation))
    validation = list(batches(tiny_splits.validation, 16, **normalisation))

    def evaluate(architecture):
        return evaluate_architecture(coded, architecture, calibration, validation)

    limits = SearchLimits(tiny_space.count_macs(tiny_space.largest()) * 7 // 10)
    archive = Archive(evaluate, tiny_space, limits, seeded(3))
    search = Generations(archive, SearchSettings(population=4, generations=2))
    while not search.finished:
        search.step()
    winner = archive.best.architecture
    inherited = extract(coded.supernet, winner, coded.code(winner), calibration)
    assert inherited(validation[0][0]).shape == (15, 3)

    rival = random_architecture_of_equal_budget(tiny_space, archive.best.macs, 0.2, seeded(4), exclude=[winner])
    for architecture in (winner, rival):
        network = tiny_space.build(architecture, seeded(5))
        retraining = NetworkTrainer(network, tiny_splits, RetrainSettings(epochs=8, batch_size=8), seeded(6))
        while not retraining.finished:
            retraining.train_epoch()
        # Of 15 images in three classes, guesses get 13 right once in 30,000 times.
        assert retraining.test_accuracy() > 0.8
    assert tiny_space.count_macs(winner) <= limits.max_macs
