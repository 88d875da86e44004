"""Importing the package is cheap: it builds nothing and loads only torch; and operators need no extra."""

import os
import re
import subprocess
import sys
from pathlib import Path

from kshot_ext.nas.tables import read_toml

ROOT = Path(__file__).resolve().parent.parent
MEASURE = """
import sys
from time import process_time
begin = process_time()
import torch
middle = process_time()
before = set(sys.modules)
import kshot_ext
end = process_time()
print(middle - begin, end - middle, *{name.split(".")[0] for name in set(sys.modules) - before})
"""
# Nothing installed can be imported but the distributions named in the arguments, and what they require in turn.
WITHOUT_EXTRAS = """
import re, sys
from importlib import metadata

def with_requirements(names):
    known, new = set(), set(names)
    while new:
        known |= new
        wanted = set()
        for name in new:
            try:
                requirements = metadata.requires(name) or []
            except metadata.PackageNotFoundError:  # not for this platform
                continue
            wanted |= {re.match("[A-Za-z0-9._-]+", line)[0] for line in requirements if "extra ==" not in line}
        new = {name.lower().replace("_", "-") for name in wanted} - known
    return known

allowed = {"kshot-ext"} | with_requirements(sys.argv[1:])
owners = metadata.packages_distributions()

class WithoutTheRest:
    def __init__(self, finder):
        self.finder = finder

    def __getattr__(self, name):
        return getattr(self.finder, name)

    def find_spec(self, name, path=None, target=None):
        owning = {owner.lower().replace("_", "-") for owner in owners.get(name.split(".")[0], ())}
        return None if owning and not owning & allowed else self.finder.find_spec(name, path, target)

sys.meta_path[:] = [WithoutTheRest(finder) for finder in sys.meta_path]
"""
OPERATORS = """
import torch
import kshot_ext

input, weight, code = torch.randn(2, 4, 8, 8), torch.randn(3, 6, 4, 3, 3), torch.tensor([0.2, 0.3, 0.5])
output = kshot_ext.functional.kshot_conv2d(input, weight, code, padding=1)
expected = torch.nn.functional.conv2d(input, (code[:, None, None, None, None] * weight).sum(0), padding=1)
torch.testing.assert_close(output, expected)
model = kshot_ext.convert(torch.nn.Sequential(torch.nn.Conv2d(4, 6, 3), torch.nn.ReLU()), num_shots=3)
kshot_ext.set_code(model, code)
optimizer = kshot_ext.optim.KShotSGD(model.parameters(), lr=0.1)
model(input).sum().backward()
optimizer.step()
kshot_ext.merge(model, code)
print("operators work")
"""
SEARCH = """
import importlib, pkgutil
import kshot_ext

names = [module.name for module in pkgutil.walk_packages(kshot_ext.__path__, "kshot_ext.")]
for name in names:
    # The last one is imported once pymoo is known to be there.
    if not re.search("cli|nas.commands|nsga2_generation", name):
        importlib.import_module(name)

from kshot_ext.nas.datasets import digits
from kshot_ext.nas.extras import MissingExtraError
from kshot_ext.nas.progress import ConsoleProgress
for call in (digits.open_digits, lambda: ConsoleProgress(None)):
    try:
        call()
    except MissingExtraError as error:
        print(error)

from kshot_ext.__main__ import main

sys.argv = ["kshot-ext", "search"]
main()
"""
RUNS = 3
HEAVY = {"PIL", "matplotlib", "ninja", "pymoo", "rich", "scipy", "sklearn", "tensorboard", "typer"}


def test_import_costs_little_more_than_torch(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    environment = {**os.environ, "KSHOT_EXT_CACHE": str(cache)}
    extra = []
    for _ in range(RUNS):
        command = [sys.executable, "-c", MEASURE]
        output = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
        of_torch, seconds, *modules = output.split()
        extra.append(float(seconds) / float(of_torch))
        assert HEAVY.isdisjoint(modules)
    assert min(extra) < 0.25  # of torch's own time, whatever the machine
    assert not cache.exists()


def without_extras(script: str) -> subprocess.CompletedProcess[str]:
    needed = read_toml(ROOT / "pyproject.toml")["project"]["dependencies"]
    names = [re.split("[^a-z]", requirement)[0] for requirement in needed]
    assert names == ["torch", "numpy", "ninja"]
    command = [sys.executable, "-c", WITHOUT_EXTRAS + script, *names]
    return subprocess.run(command, capture_output=True, text=True)


def test_operators_need_no_extra(native_backend: None) -> None:
    ended = without_extras(OPERATORS)
    assert (ended.stdout, ended.returncode) == ("operators work\n", 0), ended.stderr


def test_the_search_and_the_command_import_without_their_extra_and_say_what_is_missing() -> None:
    ended = without_extras(SEARCH)
    missing = "is needed here and not installed; run: pip install 'kshot_ext[search]'"
    assert ended.stdout.splitlines() == [f"sklearn {missing}", f"rich {missing}"], ended.stderr
    assert (ended.stderr, ended.returncode) == (f"error: rich {missing}\n", 2)
