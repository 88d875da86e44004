"""Controls a walker in rooms through frozen perception: does it learn faster and go better through unseen rooms?

Encoders of views, of depth, normals, edges, the mask of a crate, and the view itself, are trained on rooms of their own
and frozen. A policy sees a convex combination of their features, not pixels,

    policy(action | sum_k code_k features_k(view)),   code = softmax of logits that learn with the policy,

where the encoders are the copies of one network of K-shot layers (parts/perception.py). Beside these there are
policies that see one feature each, one that learns its encoder from pixels, one behind a random encoder, and a blind
one. All are trained by proximal policy optimisation, on two tasks, in rooms of a few layouts and textures, and tried in
others.

    pip install 'kshot_ext[search,examples]'
    python examples/mid_level_control.py --out control --seed 0

Sax et al., "Mid-Level Visual Representations Improve Generalization and Sample Efficiency for Learning Visuomotor
Policies", arXiv 1812.11971. docs/examples/mid_level_control.md has the results, and what differs from the paper.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from gymnasium import Space, spaces
from numpy.typing import NDArray
from rich.console import Console
from scipy.stats import spearmanr
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.vec_env import VecEnv, VecMonitor
from torch import Tensor, nn

from kshot_ext.nas.progress import ConsoleProgress
from kshot_ext.nas.randomness import draw_seed, everything_seeded, named_generator
from parts.common import NewFolder, Quick, new_folder, write_results
from parts.perception import (
    CELLS,
    CHANNELS,
    TARGETS,
    Perception,
    as_inputs,
    cover_distance,
    covering_set,
    distances,
    greedy_set,
    random_views,
    train_perception,
)
from parts.pictures import draw_control
from parts.rooms import TASKS, VIEW, Rooms, Scenes

COVER = 3  # features of the covering set
GOALS = {"reach": 0.0, "explore": 0.5}  # returns whose steps are counted
PPO_SETTINGS = {"learning_rate": 1e-3, "n_epochs": 4, "gamma": 0.98, "ent_coef": 0.01, "clip_range": 0.2}


@dataclass(frozen=True)
class Scale:
    """How much is computed."""

    steps: int = 40_960  # of each policy
    walkers: int = 64
    horizon: int = 64  # steps of an episode at most
    rollout: int = 32  # steps of each walker between updates
    minibatch: int = 256
    episodes: int = 128  # of each trial
    perception_steps: int = 1200
    batch: int = 16  # views of a step of the perception
    distance_views: int = 1024  # to fit maps between features, and as many to judge them
    scenes: int = 256  # layouts, and looks, of those that perception is trained on, and of the unseen ones
    few: int = 4  # of those that policies are trained on

    @property
    def stretch(self) -> int:
        """Steps of all walkers in which each of them ends an episode."""
        return self.walkers * self.horizon


QUICK = Scale(
    steps=64,
    walkers=4,
    horizon=8,
    rollout=8,
    minibatch=32,
    episodes=4,
    perception_steps=3,
    batch=8,
    distance_views=16,
    scenes=3,
    few=2,
)


@dataclass(frozen=True)
class Arm:
    """A way to see.

    Args:
        perception: frozen, or where a trained one begins.
        copies: whose features are seen.
        mixed: under a code that learns; else they are joined.
        trained: the perception learns with the policy.
        blind: every view is black.
    """

    perception: Perception
    copies: tuple[int, ...] = (0,)
    mixed: bool = False
    trained: bool = False
    blind: bool = False


class SeenFeatures(BaseFeaturesExtractor):
    """What a policy sees: features ``[N, copies, CHANNELS, CELLS, CELLS]``, joined or as a convex combination."""

    def __init__(self, observation_space: Space, arm: Arm) -> None:
        super().__init__(observation_space, (1 if arm.mixed else len(arm.copies)) * CHANNELS * CELLS**2)
        self.perception = copy.deepcopy(arm.perception) if arm.trained else None
        self.logits = nn.Parameter(torch.zeros(len(arm.copies))) if arm.mixed else None

    def forward(self, observations: Tensor) -> Tensor:
        features = observations if self.perception is None else self.perception(observations, (0,))
        return (features if self.logits is None else self.code() @ features.flatten(2)).flatten(1)

    def code(self) -> Tensor:
        return self.logits.softmax(dim=0)


class SeenRooms(VecEnv):
    """Rooms as stable-baselines3 takes them, seen through an arm's perception if that is frozen."""

    def __init__(self, rooms: Rooms, arm: Arm, seed: int) -> None:
        self.rooms, self.arm, self.first_seed = rooms, arm, seed
        shape = (3, VIEW, VIEW) if arm.trained else (len(arm.copies), CHANNELS, CELLS, CELLS)
        seen = spaces.Box(-np.inf, np.inf, shape, np.float32)
        super().__init__(rooms.num_envs, seen, rooms.single_action_space)

    @torch.no_grad()
    def see(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        inputs = as_inputs(images * 0 if self.arm.blind else images)
        return (inputs if self.arm.trained else self.arm.perception(inputs, self.arm.copies)).numpy()

    def reset(self) -> NDArray[np.float32]:
        return self.see(self.rooms.reset(seed=self.first_seed)[0])

    def step_async(self, actions: NDArray[np.int64]) -> None:
        self._actions = actions

    def step_wait(self) -> tuple[NDArray[np.float32], NDArray[np.float64], NDArray[np.bool_], list[dict[str, Any]]]:
        images, rewards, terminated, truncated, info = self.rooms.step(self._actions)
        infos: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]
        ended = np.flatnonzero(terminated | truncated)
        for walker, last in zip(ended, self.see(info["final_obs"][ended]) if len(ended) else ()):
            infos[walker] = {"terminal_observation": last, "TimeLimit.truncated": bool(truncated[walker])}
        return self.see(images), rewards.astype(np.float32), terminated | truncated, infos

    def close(self) -> None:
        self.rooms.close()

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        return [getattr(self.rooms, attr_name)] * self.num_envs

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        raise NotImplementedError("walkers have no attributes of their own")

    def env_method(self, method_name: str, *method_args: Any, indices: Any = None, **method_kwargs: Any) -> list[Any]:
        raise NotImplementedError("walkers have no methods of their own")

    def env_is_wrapped(self, wrapper_class: type, indices: Any = None) -> list[bool]:
        return [False] * self.num_envs


class Returns(BaseCallback):
    """The mean return of the episodes that ended in each stretch of training as long as an episode, under a bar."""

    def __init__(self, bar: ConsoleProgress, title: str, scale: Scale) -> None:
        super().__init__()
        self.ended: list[list[float]] = [[] for _ in range(-(-scale.steps // scale.stretch))]
        self._bar, self._stretch = bar, scale.stretch
        bar.start(title, scale.steps)

    @property
    def means(self) -> NDArray[np.float64]:
        return np.array([np.mean(returns) for returns in self.ended])

    def _on_step(self) -> bool:
        ended = self.ended[(self.num_timesteps - 1) // self._stretch]
        ended += [info["episode"]["r"] for info in self.locals["infos"] if "episode" in info]
        return True

    def _on_rollout_end(self) -> None:
        self._bar.move(self.num_timesteps)


def arms(perception: Perception, views: Tensor, cover: tuple[int, ...], seed: int) -> dict[str, Arm]:
    """All ways to see; the first three know nothing."""
    fresh = {name: Perception(1, named_generator(seed, name)) for name in ("blind", "pixels", "random encoder")}
    fresh["random encoder"].standardise(views)
    return {
        "blind": Arm(fresh["blind"], blind=True),
        "pixels": Arm(fresh["pixels"], trained=True),
        "random encoder": Arm(fresh["random encoder"]),
        **{name: Arm(perception, (k,)) for k, name in enumerate(TARGETS)},
        "all, mixed": Arm(perception, tuple(range(len(TARGETS))), mixed=True),
        "cover, mixed": Arm(perception, cover, mixed=True),
        "cover, joined": Arm(perception, cover),
    }


def learn(arm: Arm, task: str, scenes: Mapping[str, Scenes], scale: Scale, seed: int, watch: Returns) -> dict[str, Any]:
    """Trains a policy in the few scenes, and tries it in new episodes there and in unseen ones, with its actions drawn.

    Returns:
        The area under the curve of mean training returns over steps, as a mean; the steps after which they first reach
        the goal, or None; the curve; the mean returns of both trials, and the code.
    """

    def environment(name: str, purpose: str) -> VecMonitor:
        rooms = Rooms(scenes[name], task, scale.walkers, scale.horizon)
        return VecMonitor(SeenRooms(rooms, arm, draw_seed(named_generator(seed, f"{purpose} {name}"))))

    policy = {
        "features_extractor_class": SeenFeatures,
        "features_extractor_kwargs": {"arm": arm},
        "net_arch": [64],
    }
    sizes = {"n_steps": scale.rollout, "batch_size": scale.minibatch}
    with everything_seeded(seed):
        few = environment("few", "training")
        model = PPO("MlpPolicy", few, policy_kwargs=policy, seed=seed, device="cpu", **sizes, **PPO_SETTINGS)
        model.learn(scale.steps, callback=watch)
        tried = {
            name: float(evaluate_policy(model, environment(name, "trial"), scale.episodes, deterministic=False)[0])
            for name in ("few", "unseen")
        }
    seen = model.policy.features_extractor
    curve = watch.means
    reached = np.flatnonzero(curve >= GOALS[task])
    return {
        "area": float(curve.mean()),
        "steps_to_goal": int(reached[0] + 1) * scale.stretch if len(reached) else None,
        "curve": curve.tolist(),
        **tried,
        "code": dict(zip((list(TARGETS)[k] for k in arm.copies), seen.code().tolist())) if arm.mixed else None,
    }


def main(
    out: NewFolder = Path("mid_level_control_run"),
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1)] = 0,  # what numpy and stable-baselines3 take
    quick: Quick = False,
) -> None:
    """Trains perception and then a policy for each way to see, and writes metrics.json and picture.png."""
    new_folder(out)
    start = time.perf_counter()
    scale = QUICK if quick else Scale()
    scenes = {
        name: Scenes.random(count, count, np.random.default_rng(draw_seed(named_generator(seed, f"{name} scenes"))))
        for name, count in (("perception", scale.scenes), ("few", scale.few), ("unseen", scale.scenes))
    }
    generator = named_generator(seed, "perception")
    rooms = Rooms(scenes["perception"], "explore", scale.distance_views)
    rooms.reset(seed=draw_seed(generator))
    fitted, held_out = (random_views(rooms)[0] for _ in range(2))
    results: dict[str, dict[str, Any]] = {task: {} for task in TASKS}
    with ConsoleProgress(Console()) as bar:
        perception, explained = train_perception(
            scenes["perception"], scale.perception_steps, scale.batch, generator, bar
        )
        apart = distances(perception, fitted, held_out)
        cover, greedy = covering_set(apart, COVER), greedy_set(apart, COVER)
        for title, arm in arms(perception, fitted, cover, seed).items():
            for task in TASKS:
                watch = Returns(bar, f"{task}, {title}", scale)
                results[task][title] = learn(arm, task, scenes, scale, seed, watch)
                bar.finish_step(scale.steps, {name: results[task][title][name] for name in ("area", "few", "unseen")})
    metrics = {
        "seed": seed,
        "quick": quick,
        "explained_variance": explained,
        "distances": apart.tolist(),
        "cover": [list(TARGETS)[k] for k in cover],
        "cover_distance": {"exact": cover_distance(apart, cover), "greedy": cover_distance(apart, greedy)},
        "results": results,
        "rank_correlation_of_tasks": rank_correlation(results),
        "seconds": time.perf_counter() - start,
    }
    write_results(out, metrics, draw_control(rooms, results))


def rank_correlation(results: Mapping[str, Mapping[str, Any]]) -> float | None:
    """Spearman's, between the tasks, of the returns of single features in unseen scenes; None if all are equal."""
    one, other = ([results[task][name]["unseen"] for name in TARGETS] for task in TASKS)
    return float(spearmanr(one, other).statistic) if len(set(one)) > 1 < len(set(other)) else None


if __name__ == "__main__":
    typer.run(main)
