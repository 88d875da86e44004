"""What every method must do, in two spaces; a new one is tested by being listed."""

from __future__ import annotations

import ast
import copy
import io
import itertools
import json
import re
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from kshot_ext.cli import app
from kshot_ext.nas import methods
from kshot_ext.nas.api.session import Session
from kshot_ext.nas.commands.analyse import analyse_command
from kshot_ext.nas.commands.compare import compare_command
from kshot_ext.nas.commands.frame import EXIT_DONE, EXIT_ERROR
from kshot_ext.nas.commands.rank import rank_command
from kshot_ext.nas.commands.search import search_command
from kshot_ext.nas.datasets.splits import DataSplits
from kshot_ext.nas.findings import Curve
from kshot_ext.nas.methods import METHODS, allow_own_method, begin_training, method_class
from kshot_ext.nas.methods.kshot import KShotSettings
from kshot_ext.nas.methods.method import Method
from kshot_ext.nas.methods.selection import SelectionTools
from kshot_ext.nas.networks.code_settings import CodeSettings
from kshot_ext.nas.networks.evaluation import InheritedEvaluation
from kshot_ext.nas.networks.export import plain_copy
from kshot_ext.nas.own_classes import load_own
from kshot_ext.nas.runs.gather_settings import gather_settings
from kshot_ext.nas.runs.settings import RankSettings, RunSettings
from kshot_ext.nas.searchers.archive import Archive
from kshot_ext.nas.searchers.generations import SearchSettings
from kshot_ext.nas.spaces import create_space
from kshot_ext.nas.spaces.limits import SearchLimits
from kshot_ext.nas.tables import SettingsError
from kshot_ext.nas.training.retrain import NetworkTrainer, RetrainSettings
from kshot_ext.nas.training.settings import TrainingSettings

TRAINING = TrainingSettings(epochs=2, batch_size=8, warmup_epochs=1, held_out_share=0.25, average_decay=0.9)
SPACES = {"nas-bench-macro": {}, "nas-bench-201": {"cells": 1}}
OWN_SPACES = {"dgconv": "groupable"}  # of methods that search no other; they train one copy
DOCS = Path(__file__).parents[3] / "docs"
PAGE = (DOCS / "methods.md").read_text()
OWN, IN_PYTHON = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
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
population = 2
generations = 2
"""
RANKING = """
shots = 1
channels = 2
max_images = 60
epochs = 1
architectures = 4
[training]
batch_size = 16
"""


REFUSED = {("neas", "nas-bench-201"): "a space whose networks are a chain of layers; got nas-bench-201"}
"""The spaces that a method cannot use, with what it says of them."""
LIBRARIES = {"csnas": "optuna"}
"""What the selection of a method needs, of an extra of its own."""
PAIRS = [(name, space) for name in METHODS for space in ([OWN_SPACES[name]] if name in OWN_SPACES else SPACES)]


@pytest.fixture(params=[pair for pair in PAIRS if pair not in REFUSED], ids="-".join)
def begin(request, tiny_splits):
    """Makes trainings of a method in a space; with two copies, if it can have them."""
    return beginner(*request.param, tiny_splits)


def beginner(name, space, splits):
    space = create_space(space, image_shape=(1, 8, 8), num_classes=3, channels=2, **SPACES.get(space, {}))
    codes = CodeSettings(start="count", free_share_at_start=0.0)
    shots = 2 if METHODS[name].takes_copies else 1

    def make(seed=0):
        settings = METHODS[name].Settings()
        return begin_training(settings, space, splits, TRAINING, shots=shots, codes=codes, seed=seed)

    return make


def require_library(name):
    if name in LIBRARIES:
        pytest.importorskip(LIBRARIES[name], reason=f"{LIBRARIES[name]} is not installed")


@pytest.mark.parametrize(("name", "space"), REFUSED, ids="-".join)
def test_a_space_that_it_cannot_use_is_refused_before_training(name, space, tiny_splits):
    with pytest.raises(ValueError, match=REFUSED[name, space]):
        beginner(name, space, tiny_splits)()


def state_of(loop):
    return {name: module.state_dict() for name, module in loop.method.modules.items()}


def assert_equal(ours, theirs):
    for name, module in theirs.items():
        assert all(torch.equal(ours[name][key], value) for key, value in module.items()), name


def test_a_method_trains_and_goes_on_from_a_checkpoint_to_the_same_bits(begin):
    whole, resumed = begin(), begin(seed=9)
    untrained = copy.deepcopy(state_of(whole))
    first = whole.train_epoch()
    assert first.loss > 0
    assert 0 <= first.accuracy <= 1
    file = io.BytesIO()
    torch.save(whole.state_dict(), file)
    file.seek(0)
    resumed.load_state_dict(torch.load(file, weights_only=True))
    assert resumed.train_epoch() == whole.train_epoch()
    assert resumed.finished
    assert_equal(state_of(resumed), state_of(whole))
    with pytest.raises(AssertionError):
        assert_equal(state_of(whole), untrained)


def test_its_networks_are_scored_selected_exported_and_retrained(begin, tiny_splits, seeded):
    loop = begin()
    method = loop.method
    require_library(method.settings.name)
    while not loop.finished:
        loop.train_epoch()
    space, kept = method.result_space, copy.deepcopy(state_of(loop))
    seen = tiny_splits if method.needs_labels else tiny_splits.unlabelled()
    images = (seen.train, seen.validation, seen.mean, seen.std)
    evaluation = InheritedEvaluation(method.networks, *images, score_network=method.score_network)
    limits = SearchLimits(space.count_macs(space.largest()))
    archive = Archive(evaluation, space, limits, seeded(0))
    settings = SearchSettings(population=3, generations=1)
    stage = method.selection(SelectionTools(archive=archive, settings=settings, loop=loop))
    while stage.done < stage.total:
        stage.step(lambda position: None)
    best, *_ = method.selected(stage).architectures
    assert archive.best.scores == evaluation(archive.best.architecture)
    assert evaluation(space.cheapest()).loss != evaluation(space.largest()).loss
    assert_equal(state_of(loop), kept)  # to score a network changes none
    with method.networks.network(best) as lent:
        plain, pixels = plain_copy(lent), torch.rand(3, 1, 8, 8, generator=seeded(3))
        torch.testing.assert_close(plain.eval()(pixels), lent.eval()(pixels), rtol=1e-4, atol=1e-5)
    network = space.build(best, seeded(1))
    trainer = NetworkTrainer(network, tiny_splits, RetrainSettings(epochs=1, batch_size=8), seeded(2))
    trainer.train_epoch()
    assert 0 <= trainer.test_accuracy() <= 1


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.usefixtures("one_thread")
def test_the_command_searches_with_it(name, tmp_path):
    require_library(name)
    (tmp_path / "settings.toml").write_text(MINIATURE)
    options = {"method": name, "out": str(tmp_path / "run")}
    options |= {"space": OWN_SPACES[name], "channels": 4} if name in OWN_SPACES else {}
    assert search_command(options, tmp_path / "settings.toml", None) == EXIT_DONE
    page = (tmp_path / "run" / "report.html").read_text()
    assert f"method {name}" in page
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert 0 <= results["winner"]["test_accuracy"] <= 1


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.usefixtures("one_thread")
def test_the_commands_rank_with_it_and_compare_its_runs(name, tmp_path, monkeypatch, capsys):
    layers = 6 if name in OWN_SPACES else 8
    truth = {key[:layers]: accuracy for key, accuracy in (("0" * 8, 9), ("12120000", 7), ("2" * 8, 8), ("11112222", 6))}
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    (tmp_path / "settings.toml").write_text(RANKING)
    runs = [tmp_path / f"seed {seed}" for seed in range(2)]
    for seed, run in enumerate(runs):
        options = {"method": name, "truth": str(tmp_path / "truth.json"), "seed": seed, "out": str(run)}
        options |= {"space": OWN_SPACES[name], "channels": 4} if name in OWN_SPACES else {}
        assert rank_command(options, tmp_path / "settings.toml", None) == EXIT_DONE
        assert f"ranking by {name}, K = 1, seed {seed}" in capsys.readouterr().out
    [entry] = json.loads((runs[1] / "ranking.json").read_text())["runs"]
    evaluated = json.loads((runs[1] / "evaluated.json").read_text())
    assert {one["architecture"]: one["truth"] for one in evaluated} == truth
    pairs = [(a["truth"] - b["truth"]) * (b["loss"] - a["loss"]) for a, b in itertools.combinations(evaluated, 2)]
    assert len(pairs) == 6
    assert 0 not in pairs
    assert entry["kendall_tau_by_loss"] == pytest.approx(sum(1 if pair > 0 else -1 for pair in pairs) / 6)
    page = tmp_path / "compared.html"
    assert compare_command(*runs, page) == EXIT_DONE
    found, (others,) = page.read_text(), json.loads((runs[0] / "ranking.json").read_text())["runs"]
    for tau in (entry["kendall_tau_by_loss"], others["kendall_tau_by_loss"]):
        assert f"{tau:.6g}" in found


def test_methods_are_listed():
    shown = CliRunner().invoke(app, ["methods"], env={"COLUMNS": "300"})
    assert shown.exit_code == 0
    for name, kind in METHODS.items():
        assert name in shown.output
        assert kind.summary in shown.output
        assert kind.paper in shown.output
        assert f"| `{name}`" in PAGE
        assert kind.Settings().name == name


@pytest.mark.parametrize("name", METHODS)
def test_the_commands_of_its_page_are_not_refused(name, monkeypatch):
    given = []
    for command in ("search", "rank"):
        module = f"kshot_ext.nas.commands.{command}.{command}_command"
        monkeypatch.setattr(module, lambda options, *others: given.append(options) or 0)
    commands = re.findall(r"^kshot-ext (.*)$", (DOCS / "methods" / f"{name}.md").read_text(), flags=re.MULTILINE)
    for command in commands:
        assert CliRunner().invoke(app, command.split()).exit_code == 0, command
    assert len(given) == len(commands) > 0
    for options in given:
        kind = RankSettings if "truth" in options and "retrain_epochs" not in options else RunSettings
        settings = gather_settings(kind(), None, options)
        assert settings.method.name == name
        assert METHODS[name].refusal(settings.method, settings.training, settings.shots, settings.codes) is None


def test_single_paths_train_no_simplex_net(tiny_space, tiny_splits):
    codes = CodeSettings(start="cost", free_share_at_start=0.0)
    losses = {}
    for settings in (METHODS["spos"].Settings(), KShotSettings(simplex_every=1)):
        loop = begin_training(settings, tiny_space, tiny_splits, TRAINING, shots=2, codes=codes)
        net = copy.deepcopy(loop.method.simplex_net)
        losses[settings.name] = [loop.train_epoch().loss for _ in range(2)]
        moved = not torch.equal(net.output.bias, loop.method.simplex_net.output.bias)
        assert moved == (settings.name == "kshot")
    assert losses["spos"][0] == losses["kshot"][0]  # warm-up is the same
    with pytest.warns(UserWarning, match=r"codes\.start: expected another than equal"):
        begin_training(METHODS["spos"].Settings(), tiny_space, tiny_splits, TRAINING, shots=2)


@pytest.mark.parametrize("name", [name for name, kind in METHODS.items() if not kind.takes_copies])
def test_a_method_of_one_copy_refuses_more(name, tiny_space, tiny_splits):
    with pytest.raises(ValueError, match=f"shots: {name} has one weight for each operation, expected --shots 1, got 2"):
        begin_training(METHODS[name].Settings(), tiny_space, tiny_splits, TRAINING, shots=2)


@pytest.mark.parametrize("name", METHODS)
def test_a_method_searches_widths_or_refuses_them(name, tiny_splits):
    space = create_space("nas-bench-macro", image_shape=(1, 8, 8), num_classes=3, channels=2, widths=(0.5, 1.0))
    begin = partial(begin_training, METHODS[name].Settings(), space, tiny_splits, TRAINING)
    if METHODS[name].searches_widths:
        assert begin().train_epoch().loss > 0
        return
    with pytest.raises(ValueError, match=rf"widths: {name} chooses operations only, expected none, got \(0.5, 1.0\)"):
        begin()


@pytest.mark.parametrize("name", METHODS)
def test_a_method_imports_no_other(name):
    """What two need is in parts, once."""
    files = {kind.__module__ for kind in METHODS.values()}
    source = Path(sys.modules[METHODS[name].__module__].__file__).read_text()
    imported = [node.module for node in ast.walk(ast.parse(source)) if isinstance(node, ast.ImportFrom)]
    assert len(imported) > 1
    assert files.isdisjoint(imported)


def test_an_unknown_method_lists_the_known_ones(tmp_path, capsys):
    with pytest.raises(ValueError, match=r"method: expected one of kshot, spos.*, or FILE.py:CLASS, got 'luck'"):
        method_class("luck")
    assert search_command({"method": "luck", "out": str(tmp_path / "run")}, None, None) == EXIT_ERROR
    assert "command line: method: expected one of kshot" in capsys.readouterr().err
    (tmp_path / "settings.toml").write_text('[method]\nname = "spos"\nsimplex_every = 2')
    with pytest.raises(SettingsError, match=r"unknown setting method\.simplex_every; expected name"):
        gather_settings(RunSettings(), tmp_path / "settings.toml", {})


def test_settings_count_where_they_were_before_there_were_methods(tmp_path):
    file = tmp_path / "settings.toml"
    file.write_text("[training]\nepochs = 7\nsimplex_every = 3\n[method]\npaths_per_simplex_step = 5")
    settings = gather_settings(RunSettings(), file, {})
    assert settings.training.epochs == 7
    assert settings.method == KShotSettings(simplex_every=3, paths_per_simplex_step=5)
    file.write_text("[training]\nsimplex_every = 3\n[method]\nsimplex_every = 3")
    with pytest.raises(SettingsError, match=r"simplex_every: expected in \[method\] only, got in \[training\] too"):
        gather_settings(RunSettings(), file, {})


def test_another_method_comes_with_its_own_options(tmp_path):
    file = tmp_path / "settings.toml"
    file.write_text('[method]\nname = "kshot"\nsimplex_every = 3')
    assert gather_settings(RunSettings(), file, {"method": "spos"}).method == METHODS["spos"].Settings()
    assert gather_settings(RunSettings(), file, {"method": "kshot"}).method == KShotSettings(simplex_every=3)


@pytest.fixture
def own(tmp_path, monkeypatch):
    (tmp_path / "greedy.py").write_text(OWN)
    (tmp_path / "miniature.toml").write_text(MINIATURE + "[method]\ncandidates = 2\n")
    monkeypatch.chdir(tmp_path)
    return "greedy.py:GreedyPaths"


def test_a_method_of_ones_own_takes_less_than_60_lines():
    assert len(OWN.splitlines()) < 60


@pytest.mark.usefixtures("one_thread")
def test_the_commands_search_and_compare_with_a_method_of_ones_own(own, tmp_path, monkeypatch, capsys):
    assert f"--method {own}" in PAGE
    assert search_command({"method": own, "out": "run"}, tmp_path / "miniature.toml", None) == EXIT_DONE
    assert search_command({"method": own}, None, tmp_path / "run") == EXIT_DONE
    monkeypatch.setattr(methods, "_own", {})  # as in another process
    assert compare_command(tmp_path / "run", tmp_path / "run") == EXIT_ERROR
    assert f"expected --method {tmp_path}/{own} on the command line" in capsys.readouterr().err
    kind = load_own(f"{tmp_path}/{own}", "method", Method)
    kind.curves = (Curve("supernet", "accuracy", "How often it is right", "share"),)
    monkeypatch.setattr(methods, "load_own", lambda *named: kind)
    command = ["compare", str(tmp_path / "run"), str(tmp_path / "run"), "--out", "page.html", "--method", own]
    assert CliRunner().invoke(app, command).exit_code == EXIT_DONE
    assert "How often it is right" in Path("page.html").read_text()


def test_a_method_of_ones_own_draws_the_best_path(own, tiny_space, tiny_splits):
    allow_own_method(own)
    kind = method_class(own)
    loop = begin_training(kind.Settings(name=own, candidates=4), tiny_space, tiny_splits, TRAINING)
    method, losses = loop.method, []
    path_loss = method.path_loss
    method.path_loss = lambda *call: losses.append((call[0], path_loss(*call))) or losses[-1][1]
    loop.train_epoch()
    looked_at, (trained, _) = losses[:4], losses[4]
    assert trained == min(looked_at, key=lambda item: float(item[1][0]))[0]
    with pytest.raises(ValueError, match="candidates: expected at least 1, got 0"):
        kind.Settings(name=own, candidates=0)


HOSTILE = "from pathlib import Path; Path('executed').touch()"


def test_neither_a_settings_file_nor_a_run_folder_can_run_a_method(tmp_path, monkeypatch, tiny_splits, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "hostile.py").write_text(HOSTILE)
    (tmp_path / "hostile.toml").write_text('[method]\nname = "hostile.py:Method"')
    assert search_command({"out": "run"}, tmp_path / "hostile.toml", None) == EXIT_ERROR
    message = f"expected --method {tmp_path}/hostile.py:Method on the command line, as this runs that file"
    assert message in capsys.readouterr().err
    run = open_run(tmp_path, tiny_splits)
    settings = run / "settings.toml"
    settings.write_text(settings.read_text().replace('name = "kshot"', f'name = "{tmp_path}/hostile.py:Method"'))
    for command in (
        lambda: search_command({}, None, run),
        lambda: analyse_command(run),
        lambda: compare_command(run, run, tmp_path / "page.html"),
    ):
        assert command() == EXIT_ERROR
        assert f"expected --method {tmp_path}/hostile.py:Method" in capsys.readouterr().err
    assert not Path("executed").exists()
    with pytest.raises(ValueError, match=r"method: expected .*hostile.py to define a Method Method"):
        allow_own_method("hostile.py:Method")
    assert Path("executed").exists()  # asked for


def open_run(folder: Path, splits: DataSplits) -> Path:
    run = Session("search", None).open_folder(RunSettings(out=str(folder / "run")), "stripes", splits, outputs=())
    run.close()
    return run.path


def test_how_to_go_on_names_the_method(own, tmp_path, tiny_splits):
    allow_own_method(own)
    name = f"{tmp_path}/{own}"
    settings = RunSettings(method=method_class(name).Settings(name=name), out=str(tmp_path / "run"))
    run = Session("search", None)
    run.open_folder(settings, "stripes", tiny_splits, outputs=())
    assert run.how_to_go_on().endswith(f"kshot-ext search --resume {tmp_path}/run --method {name}")


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("pass", r"bad.py: cannot be run .TypeError: Can't instantiate abstract class"),
        ("def __init__(self, setup, settings):\n        1 / 0", r"bad.py, line 4: cannot be run .ZeroDivisionError"),
    ],
)
def test_a_method_that_cannot_be_made_is_named(tmp_path, tiny_space, tiny_splits, body, message):
    steps = "" if body == "pass" else "\n    step = networks = None"
    source = f"from kshot_ext.nas.methods.method import Method\nclass Mine(Method):\n    {body}{steps}\n"
    (tmp_path / "bad.py").write_text(source)
    name = f"{tmp_path}/bad.py:Mine"
    allow_own_method(name)
    with pytest.raises(ValueError, match=message):
        begin_training(method_class(name).Settings(name=name), tiny_space, tiny_splits, TRAINING)


NEEDS_SIZE = """Settings = dataclass(frozen=True, kw_only=True)(
        type("Needs", (MethodSettings,), {"__annotations__": {"size": int}}))"""


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("Settings = None", "method: expected Settings of .*mine.py:Mine to be a subclass of MethodSettings, got None"),
        ("Settings = dict", "to be a subclass of MethodSettings, got <class 'dict'>"),
        (
            NEEDS_SIZE,
            r"method: .*mine.py: cannot be run .TypeError: .*missing 1 required keyword-only argument: 'size'",
        ),
        ("def __init__(self, setup, settings): pass", "mine.py: modules: expected Mapping, got None"),
        ("def refusal(*arguments): return 1 / 0", r"mine.py, line 5: cannot be run .ZeroDivisionError"),
        ("def selection(self, tools): return 1 / 0", r"mine.py, line 5: cannot be run .ZeroDivisionError"),
        ("def selection(self, tools): pass", "method: .*mine.py: selection: expected Stage, got None"),
        ("def refusal(*arguments): return True", "mine.py: refusal: expected str, got True"),
        ("def num_copies(*arguments): return 'few'", "mine.py: num_copies: expected int, got 'few'"),
        (
            "modules = property(lambda self: [], lambda self, given: None)",
            r"mine.py: .*modules: expected Mapping, got \[\]",
        ),
        (
            "optimizers = property(lambda self: {}, lambda self, given: None)",
            "mine.py: .*expected one or more, got none",
        ),
        ("curves = None", "mine.py: curves: expected Sequence, got None"),
        ("networks = None", "mine.py: networks.network: expected something to be called, got None"),
        ("networks = property(lambda self: 1 / 0)", r"mine.py, line 5: cannot be run .ZeroDivisionError"),
        ("result_space = 'all'", "mine.py: result_space: expected SearchSpace, got 'all'"),
        ("def state_dict(self): return {'paths': {1, 2}}", "method.paths: expected tensors and plain values, got set"),
    ],
)
def test_what_is_wrong_with_a_method_of_ones_own_is_told_before_training(tmp_path, body, message, capsys):
    heads = ["from dataclasses import dataclass", "from kshot_ext.nas.methods.method import MethodSettings"]
    heads += ["from kshot_ext.nas.methods.parts.path_method import PathMethod", "class Mine(PathMethod):"]
    (tmp_path / "mine.py").write_text("\n".join([*heads, f"    {body}"]))
    (tmp_path / "settings.toml").write_text(MINIATURE)
    options = {"method": f"{tmp_path}/mine.py:Mine", "out": str(tmp_path / "run")}
    assert search_command(options, tmp_path / "settings.toml", None) == EXIT_ERROR
    assert re.search(message, capsys.readouterr().err)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("def step(self, *batch): return {}['loss']", r"mine.py, line 5: cannot be run .KeyError: 'loss'."),
        ("def step(self, *batch): pass", "mine.py: step: expected Step, got None"),
        (
            "def end_epoch(self, do): return {'entropy': 'low'}",
            r"mine.py: end_epoch\['entropy'\]: expected Real, got 'low'",
        ),
        ("findings = 'good'", "mine.py: findings: expected Findings, got 'good'"),
        ("score_network = staticmethod(lambda *called: 0.5)", "mine.py: score_network: expected Scores, got 0.5"),
        ("def selected(self, stage): pass", "mine.py: selected: expected Selection, got None"),
        ("def figures(self, *given): return ['codes']", "mine.py: figures: expected Figure, got 'codes'"),
    ],
)
@pytest.mark.usefixtures("one_thread")
def test_what_goes_wrong_with_a_method_of_ones_own_later_is_told_with_how_to_go_on(tmp_path, body, message, capsys):
    """Once it is mended, the run goes on from what was saved."""
    heads = ["from kshot_ext.nas.methods.parts.path_method import PathMethod", "", "", "class Mine(PathMethod):"]
    (tmp_path / "mine.py").write_text("\n".join([*heads, f"    {body}"]))
    (tmp_path / "settings.toml").write_text(MINIATURE)
    name, run = f"{tmp_path}/mine.py:Mine", tmp_path / "run"
    assert search_command({"method": name, "out": str(run)}, tmp_path / "settings.toml", None) == EXIT_ERROR
    told = capsys.readouterr().err
    assert re.search(f"error: method: {tmp_path}/{message}", told)
    assert f"go on with: kshot-ext search --resume {run} --method {name}" in told


def test_errors_of_other_code_keep_their_traceback(own, tmp_path, monkeypatch):
    """They are no errors of the user's."""
    monkeypatch.setattr("kshot_ext.nas.runs.search_job.RetrainStage", None)
    with pytest.raises(TypeError):
        search_command({"method": own, "out": "run"}, tmp_path / "miniature.toml", None)


def test_the_code_in_python_runs(capsys):
    exec(IN_PYTHON, {})
    assert re.fullmatch(r"loss \d\.\d\d\n", capsys.readouterr().out)
