"""Single paths whose layers choose bits: training, resuming, search within budgets, retraining and what is exported."""

from __future__ import annotations

import copy
import io
import json
import re
import subprocess
import sys

import pytest
import torch

from kshot_ext.nas.commands.frame import EXIT_DONE, EXIT_ERROR
from kshot_ext.nas.commands.search import search_command
from kshot_ext.nas.methods import begin_training
from kshot_ext.nas.methods.spos import SinglePathSettings
from kshot_ext.nas.networks.code_settings import CodeSettings
from kshot_ext.nas.networks.evaluation import InheritedEvaluation
from kshot_ext.nas.runs.settings import RankSettings, RunSettings
from kshot_ext.nas.searchers.archive import Archive
from kshot_ext.nas.searchers.generations import Generations, SearchSettings
from kshot_ext.nas.spaces import create_space
from kshot_ext.nas.spaces.bit_widths import parse_bits
from kshot_ext.nas.spaces.budget import Budget
from kshot_ext.nas.spaces.limits import SearchLimits
from kshot_ext.nas.training.settings import TrainingSettings

TRAINING = TrainingSettings(epochs=2, batch_size=8, warmup_epochs=1, held_out_share=0.25)
pytestmark = pytest.mark.usefixtures("one_thread")
MINIATURE = """
rivals = 1
retrain_seeds = 1
shots = 1
channels = 2
max_images = 120
epochs = 1
retrain_epochs = 1
[training]
batch_size = 32
[retrain]
batch_size = 32
[search]
method = "evolution"
population = 3
generations = 2
"""


@pytest.fixture(params=[(1, None), (2, (0.5, 1.0))], ids=["one copy", "two copies and widths"])
def begin(request, tiny_splits):
    """Makes trainings."""
    shots, widths = request.param
    shape = {"image_shape": (1, 8, 8), "num_classes": 3, "channels": 2}
    space = create_space("nas-bench-macro", **shape, widths=widths, bits=parse_bits("2,8"))
    codes = CodeSettings(start="count", free_share_at_start=0.0)

    def make(seed=0):
        return begin_training(SinglePathSettings(), space, tiny_splits, TRAINING, shots=shots, codes=codes, seed=seed)

    return make


def test_it_goes_on_from_a_checkpoint_to_the_same_bits(begin):
    whole, resumed = begin(), begin(seed=9)
    untrained = copy.deepcopy(whole.method.supernet.state_dict())
    whole.train_epoch()
    file = io.BytesIO()
    torch.save(whole.state_dict(), file)
    file.seek(0)
    resumed.load_state_dict(torch.load(file, weights_only=True))
    assert resumed.train_epoch() == whole.train_epoch()
    theirs = whole.method.supernet.state_dict()
    for name, tensor in resumed.method.supernet.state_dict().items():
        assert torch.equal(tensor, theirs[name])
    assert any(not torch.equal(theirs[name], tensor) for name, tensor in untrained.items())


@pytest.mark.parametrize("method", ["nsga2", "evolution", "random"])
def test_search_keeps_to_the_budget_of_bit_operations(begin, method, tiny_splits, seeded):
    loop = begin()
    space = loop.method.space
    most = Budget.parse("30%").max_bit_operations(space)
    assert most == space.cost(space.largest()).bit_operations * 3 // 10
    images = (tiny_splits.train, tiny_splits.validation, tiny_splits.mean, tiny_splits.std)
    evaluation = InheritedEvaluation(loop.method.networks, *images)
    settings = SearchSettings(population=4, generations=2, method=method, objectives="bit_operations")
    limits = SearchLimits(max_bit_operations=most)
    search = Generations(Archive(evaluation, space, limits, seeded(0)), settings)
    while not search.finished:
        search.step()
    assert all(0 < item.bit_operations <= most for item in search.archive.history)
    largest = space.count_macs(space.largest())
    assert any(item.macs > 0.3 * largest for item in search.archive.history)  # which bits make possible
    costs = [item.bit_operations for item in search.archive.front(settings.costs)]
    assert costs == sorted(set(costs))
    resumed = Generations(Archive(evaluation, space, limits, seeded(5)), settings)
    resumed.load_state_dict(search.state_dict())
    assert resumed.archive.history == search.archive.history


def test_the_command_searches_bits_and_says_what_it_leaves(tmp_path):
    (tmp_path / "settings.toml").write_text(MINIATURE)
    options = {"method": "spos", "bits": "2,8", "bit_budget": "40%", "out": str(tmp_path / "run")}
    assert search_command(options, tmp_path / "settings.toml", None) == EXIT_DONE
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    winner, rival = results["winner"], results["rivals"][0]
    assert 0 < winner["bit_operations"] <= results["max_bit_operations"]
    assert rival["bit_operations"] == pytest.approx(winner["bit_operations"], rel=0.1)
    card = json.loads((tmp_path / "run" / "architecture.json").read_text())
    assert card["bit_operations"] == winner["bit_operations"]
    assert card["bits"] == [name.partition("@")[2] or None for name in card["operation_names"]]
    assert card["bits_of_stem_and_head"] == "w8a8"
    assert card["quantisation"].startswith("simulated: weights are saved in float32 before they are rounded")
    page = (tmp_path / "run" / "report.html").read_text()
    assert "bit operations" in page
    assert "bit budget 40%" in page
    script = (
        "import sys, torch; sys.modules['kshot_ext'] = None\n"
        "network = torch.load(sys.argv[1], weights_only=False)\n"
        "print(network(torch.zeros(2, 1, 8, 8)).shape)"
    )
    run = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "run" / "model.pt")], capture_output=True, text=True, cwd=tmp_path
    )
    assert run.stdout.strip() == "torch.Size([2, 10])", run.stderr
    assert search_command({}, None, tmp_path / "run") == EXIT_DONE  # again, from what is there


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"bits": "1,2"}, "bits: expected a whole number of bits from 2 to 8, got 1"),
        ({"bit_budget": "20%"}, "bits: expected some, such as 2,4,8, as bit operations are to be limited"),
        ({"bits": "2,8", "bit_budget": "-3"}, "bit_budget: expected bit operations such as 1.5e6"),
        ({"bits": "2,8", "bit_budget": "1000"}, r"limits: found no architecture .* at most 1,000 bit operations"),
        ({"search": {"objectives": "bit_operations"}}, "bits: expected some"),
    ],
)
def test_what_does_not_fit_is_refused_before_training(tmp_path, options, message, capsys):
    (tmp_path / "settings.toml").write_text(MINIATURE)
    given = {"method": "spos", "out": str(tmp_path / "run"), **options}
    assert search_command(given, tmp_path / "settings.toml", None) == EXIT_ERROR
    error = " ".join(capsys.readouterr().err.split())
    assert re.search(message, error), error
    assert not (tmp_path / "run").exists()


def test_a_table_of_results_knows_no_bits():
    with pytest.raises(ValueError, match="bits: a table of results has none, so expected none here, got '2,4'"):
        RankSettings(bits="2,4")
    assert RunSettings(bits="w2a4").bit_choices == parse_bits("w2a4")
