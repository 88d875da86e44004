"""Runs mutants, one after the other, on a copy of the repository, and remembers what came of them."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from kshot_ext._native import cache

from . import library
from .mutant import ROOT, Mutant

SECONDS = 600  # of the tests of one mutant; a fault may make a kernel run for ever


@dataclass(frozen=True)
class Outcome:
    """What came of a mutant."""

    name: str
    result: str  # killed, survived, equivalent or broken: the mutant does not compile, or its tests do not run
    by: str  # the first test that failed, or how the tests ended
    seconds: float


class Runner:
    """Args: `folder`, private to this user; holds the copy of the repository, cached objects, outcomes so far."""

    def __init__(self, folder: Path) -> None:
        cache.make_folder(folder)
        self.folder, self.tree = folder, folder / "tree"
        self._known = folder / "outcomes.json"
        _copy_repository(self.tree)

    def run(self, mutants: Sequence[Mutant], fresh: bool = False) -> Iterator[Outcome]:
        """The outcomes of `mutants`; of those killed before in the same file and by the same tests, the old ones."""
        for mutant in mutants:
            key, known = self._key(mutant), self._outcomes()
            if not fresh and known.get(key, {}).get("result") == "killed":
                yield Outcome(**known[key])
                continue
            outcome = self._run(mutant)
            self._known.write_text(json.dumps({**self._outcomes(), key: asdict(outcome)}, indent=1), encoding="utf-8")
            yield outcome

    def control(self, mutants: Sequence[Mutant]) -> Outcome:
        """All tests of `mutants` on the sources as they are: a test that fails here kills nothing."""
        self._build("")
        begin = time.monotonic()
        for tests in dict.fromkeys(mutant.tests for mutant in mutants):
            result, by = self._test(tests)
            if result != "survived":
                return Outcome("(none)", "broken", by, round(time.monotonic() - begin))
        return Outcome("(none)", "survived", "", round(time.monotonic() - begin))

    def _outcomes(self) -> dict[str, dict]:
        return json.loads(self._known.read_text(encoding="utf-8")) if self._known.is_file() else {}

    def _key(self, mutant: Mutant) -> str:
        content = json.dumps([asdict(mutant), (self.tree / mutant.file).read_text(encoding="utf-8")])
        return hashlib.sha256(content.encode()).hexdigest()[:24]

    def _run(self, mutant: Mutant) -> Outcome:
        begin, file = time.monotonic(), self.tree / mutant.file
        text = file.read_text(encoding="utf-8")
        file.write_text(mutant.applied_to(text), encoding="utf-8")
        try:
            self._build(mutant.instruction_set)
            result, by = self._test(mutant.tests)
        except library.BuildError as error:
            result, by = "broken", str(error)
        finally:
            file.write_text(text, encoding="utf-8")
        if result == "survived" and mutant.equivalent:
            result = "equivalent"
        return Outcome(mutant.name, result, by, round(time.monotonic() - begin))

    def _build(self, instruction_set: str) -> None:
        library.build(self.tree, self.folder / "objects", instruction_set)

    def _test(self, tests: Sequence[str]) -> tuple[str, str]:
        environment = {
            **os.environ,
            "PYTHONPATH": str(self.tree),
            "KSHOT_EXT_BACKEND": "native",
            "KSHOT_EXT_CACHE": str(self.folder / "cache"),
            "KSHOT_EMULATION_CACHE": str(self.folder / "emulation"),
            # What a kernel leaves as it was is no zero then.
            "MALLOC_PERTURB_": "85",
        }
        command = [sys.executable, "-m", "pytest", "-x", "-q", "--tb=no", "-p", "no:cacheprovider", *tests]
        process = subprocess.Popen(
            command, cwd=self.tree, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            errors="replace", start_new_session=True,
        )  # fmt: skip
        try:
            output, _ = process.communicate(timeout=SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            return "killed", f"no end after {SECONDS} s"
        code = process.returncode
        if code < 0:
            return "killed", f"{signal.Signals(-code).name} in {' '.join(tests)}"
        if code == 1 and (failed := re.search(r"^(?:FAILED|ERROR) (\S+)", output, re.MULTILINE)):
            return "killed", failed.group(1)
        return ("survived", "") if code == 0 else ("broken", output[-2000:])


def _copy_repository(tree: Path) -> None:
    """The files that git knows or would add."""
    listing = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listing, cwd=ROOT, capture_output=True, check=True).stdout.decode().split("\0")
    shutil.rmtree(tree, ignore_errors=True)
    for name in filter(None, names):
        if (ROOT / name).is_file():
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, tree / name)
