"""What a mutant is: one small fault put into the sources on purpose, and the tests that should see it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Mutant:
    """A fault, as the replacement of one piece of text.

    Args:
        name: short, unique.
        file: relative to the root of the repository.
        old: text that occurs exactly once in the file.
        new: what it becomes.
        tests: arguments of pytest: the narrow tests that should fail.
        fault: what goes wrong, and for which calls.
        equivalent: why no test can tell it from the original; empty for all others.
        instruction_set: of the CPU's kernels; empty for the best one of this processor.
    """

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]
    fault: str
    equivalent: str = ""
    instruction_set: str = ""

    def applied_to(self, text: str) -> str:
        """The text of the file with the fault in it.

        Raises:
            ValueError: the old text is not there exactly once, or is the new one.
        """
        count = text.count(self.old)
        if count != 1 or self.old == self.new:
            raise ValueError(
                f"mutant {self.name}: expected its old text once in {self.file} and another new one, found it {count} "
                f"times; bring the mutant up to date with the sources"
            )
        return text.replace(self.old, self.new)

    @property
    def needs_build(self) -> bool:
        """Whether the CPU's library must be built anew; the emulator's tests build the CUDA kernels themselves."""
        return self.file.startswith("csrc/") and "cuda" not in self.file
