"""What is to be reached, and what was."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.reporting.means import mean_memory_ratio, mean_speedup, weighted_mean_speedup
from benchmarks.reporting.results import Part, select

ALL_KINDS = ("dense", "depthwise")


@dataclass(frozen=True)
class Target:
    """A limit on geometric means over a layer set.

    Args:
        title: what is compared, for people.
        work, rival, kinds: which rows and which rival count.
        speedup: least mean of the rival's time over ours.
        worst: least speedup of any row.
        memory: largest mean of our peak memory over the rival's.
    """

    title: str
    work: str
    rival: str
    kinds: tuple[str, ...]
    speedup: float
    worst: float | None = None
    memory: float | None = None


@dataclass(frozen=True)
class Reached:
    """What a part reached of a target; `weighted` weighs rows by multiplicity and time."""

    target: Target
    part: Part
    speedup: float
    weighted: float
    worst: float
    worst_row: str
    memory: float | None

    @property
    def met(self) -> bool:
        target = self.target
        return (
            self.speedup >= target.speedup
            and (target.worst is None or self.worst >= target.worst)
            and (target.memory is None or (self.memory is not None and self.memory <= target.memory))
        )


TARGETS = (
    Target("per-sample code, dense", "per_sample_code", "pytorch", ("dense",), 3, worst=1),
    Target("per-sample code, depthwise", "per_sample_code", "pytorch", ("depthwise",), 2),
    Target("shared code, depthwise", "shared_code", "pytorch", ("depthwise",), 2.2),
    Target("shared code, dense", "shared_code", "pytorch", ("dense",), 1.15, worst=0.97),
    Target("shared code against one weight, dense", "shared_code", "one weight", ("dense",), 1),
    Target("shared code against one weight, all", "shared_code", "one weight", ALL_KINDS, 1 / 0.8),
    Target("width against that exact width", "widths", "exact width", ALL_KINDS, 1 / 1.1),
    Target("width against slice, contiguous", "widths", "slice", ALL_KINDS, 1, worst=1),
    Target("batch norm + ReLU, training", "batch_norm", "pytorch", ("batch norm",), 2.2),
    Target("chain 1x1 - depthwise - 1x1", "chain", "pytorch", ("chain",), 2.2, worst=1),
    Target("the same in evaluation, against folded weights", "chain_evaluation", "pytorch", ("chain",), 1),
    Target("KShotSGD update", "sgd", "pytorch", ("update",), 1 / 0.5, memory=0.6),
    Target("KShotAdamW update", "adamw", "pytorch", ("update",), 1 / 0.5, memory=0.4),
    Target("training step against PyTorch", "training_step", "pytorch", ("step",), 1.6),
    Target("training step against merging all", "training_step", "merged supernet", ("step",), 3),
    Target("training step against our K = 1", "training_step", "ours, K = 1", ("step",), 1 / 1.05),
    Target("supernet training against K = 1", "supernet_training", "K = 1", ("training",), 1 / 1.1, memory=1.5),
    *(
        Target(f"own supernet, {space}", "own_supernets", "plain network", (f"step of {space}",), speedup, memory=0.7)
        for space, speedup in (
            ("nas-bench-macro", 1.6),
            ("nas-bench-201", 1.15),
            ("shufflenet-v2", 1.3),
            ("mobilenet-v2-se", 1.6),
        )
    ),
    *(
        Target(f"fuse, {network}", "fuse", "plain network", (f"step of {network}",), 1.4, memory=0.65)
        for network in ("MobileNetV2", "EfficientNet-B0")
    ),
    Target("routed, CondConv of timm", "routed", "timm's network", ("evaluation", "forward and backward"), 1.5),
    Target('"auto", shared code', "shared_code", "algorithm", ALL_KINDS, 0.95, worst=0.95),
    Target('"auto", per-sample code', "per_sample_code", "algorithm", ALL_KINDS, 0.95, worst=0.95),
)


def reached(parts: Sequence[Part]) -> list[Reached]:
    """What the measured layer sets reached, in the order of `TARGETS`."""
    found = []
    for target in TARGETS:
        for part in select(parts, target.work):
            rows = [row for row in part.rows if row.kind in target.kinds and target.rival in row.rivals]
            if not rows:
                continue
            slowest = min(rows, key=lambda row: row.rivals[target.rival].speedup.median)
            found.append(
                Reached(
                    target,
                    part,
                    mean_speedup(rows, target.rival),
                    weighted_mean_speedup(rows, target.rival),
                    slowest.rivals[target.rival].speedup.median,
                    slowest.name,
                    mean_memory_ratio(rows, target.rival),
                )
            )
    return found
