"""Single path one-shot: one uniform path a step, then a search that trains nothing."""

from __future__ import annotations

from dataclasses import dataclass

from kshot_ext.nas.methods.method import MethodSettings
from kshot_ext.nas.methods.parts.path_method import WARM_UP, PathMethod


@dataclass(frozen=True, kw_only=True)
class SinglePathSettings(MethodSettings):
    """Nothing to set: paths are drawn as ``training.path_sampling`` says."""

    name: str = "spos"


class SinglePathOneShot(PathMethod[SinglePathSettings]):
    """Trains a path that is drawn uniformly in each step, so that no choice is trained for another's sake:

        w* = argmin_w E_{a uniform} [loss(a, w)],    a* = argmax_{a within the budget} score(a, w*)

    With K > 1 copies a path has the code that it starts with; nothing trains a simplex-net.

    Guo et al., "Single Path One-Shot Neural Architecture Search with Uniform Sampling", ECCV 2020.
    """

    summary = "one shared weight for each operation, trained by uniform single paths"
    paper = "Guo et al., Single Path One-Shot Neural Architecture Search with Uniform Sampling, ECCV 2020"
    Settings = SinglePathSettings
    any_task = True

    @classmethod
    def warm_up(cls, settings: MethodSettings) -> object:
        return WARM_UP
