"""The pictures of the examples."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from kshot_ext.nas.extras import require
from parts.detection import without_doubles
from parts.videos import Videos, corners

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from parts.rooms import Rooms
    from parts.scenes import Scenes

_COLOURS = {"truth": "white", "found": "#E69F00", "hand-made": "#0072B2"}
_GREY = "#8A8F98"


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of so many inches, whose parts make room for each other.

    Raises:
        MissingExtraError: if matplotlib is not installed.
    """
    figure: Figure = require("matplotlib.figure", "examples").Figure(figsize=(width, height), layout="constrained")
    return figure


def draw_tracks(videos: Videos, tracks: Mapping[str, Tensor], overlaps: Mapping[str, float]) -> Figure:
    """Frames of the first video with the true box and those of trackers, and the average overlaps."""
    figure = new_figure(15, 2.9)
    *axes, last = figure.subplots(1, 6)
    count, frames = videos.centres.shape[:2]
    everything = torch.zeros(count, 2), torch.full((count,), 2.0)
    for place, frame in zip(axes, torch.linspace(0, frames - 1, len(axes)).int().tolist()):
        image = videos.view(frame, *everything, 96)[0]
        place.imshow((image / 4 + 0.5).clamp(0, 1).movedim(0, 2).numpy(), extent=(-1, 1, 1, -1))
        for title, boxes in {"truth": videos.boxes, **tracks}.items():
            left, top, right, bottom = corners(boxes[0, frame]).tolist()
            place.plot([left, right, right, left, left], [top, top, bottom, bottom, top], color=_COLOURS[title])
        place.set_title(f"frame {frame}")
        place.set_axis_off()
    last.barh(list(overlaps), list(overlaps.values()), color=[_COLOURS.get(title, _GREY) for title in overlaps])
    last.set_xlabel("average overlap (white: true boxes)")
    return figure


def draw_doses(inputs: Tensor, doses: Mapping[str, Tensor], scores: Mapping[str, float]) -> Figure:
    """A slice through the first phantom's target: its density, doses in Gy and their errors; and the dose scores.

    Args:
        inputs: density first, then the target, ``[N, C, D, H, W]``.
        doses: the true one first.
        scores: of networks.
    """
    depth = int(inputs[0, 1].sum(dim=(1, 2)).argmax())
    truth, *others = doses
    figure = new_figure(17, 2.6)
    *axes, last = figure.subplots(1, 3 + 2 * len(others))
    axes[0].imshow(inputs[0, 0, depth].numpy(), cmap="gray")
    axes[0].set_title("density")
    most = float(doses[truth][0].max())
    errors = {f"error of {title}": (doses[title] - doses[truth]).abs() for title in others}
    for place, (title, volume) in zip(axes[1:], {**doses, **errors}.items()):
        image = place.imshow(
            volume[0, 0, depth].numpy(), cmap="turbo", vmin=0, vmax=most if title in doses else most / 5
        )
        figure.colorbar(image, ax=place, shrink=0.8)
        place.set_title(title)
    for place in axes:
        place.set_axis_off()
    last.barh(list(scores), list(scores.values()), color=_GREY)
    last.set_xlabel("dose score (Gy)")
    return figure


def draw_control(rooms: Rooms, results: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> Figure:
    """Views of some walkers; then for each task the returns over training, and those in seen and unseen scenes.

    Args:
        rooms: begun anew.
        results: of tasks, and of arms in them: `curve`, `few` and `unseen`.
    """
    figure = new_figure(16, 6.5)
    left, right = figure.subfigures(1, 2, width_ratios=(1, 5))
    for place, image in zip(left.subplots(3, 2).flat, rooms.reset()[0]):
        place.imshow(np.moveaxis(image, 0, 2))
        place.set_axis_off()
    for (curves, bars), (task, arms) in zip(right.subplots(2, 2), results.items()):
        for number, (title, result) in enumerate(arms.items()):
            tenths = (np.arange(len(result["curve"])) + 0.5) / len(result["curve"])
            curves.plot(tenths, result["curve"], color=f"C{number % 10}", ls="-" if number < 8 else "--", label=title)
        curves.set_xlabel("part of the training")
        curves.set_ylabel(f"return, {task}")
        places = np.arange(len(arms))
        for shift, name, colour in ((-0.2, "few", _GREY), (0.2, "unseen", _COLOURS["hand-made"])):
            bars.barh(places + shift, [result[name] for result in arms.values()], 0.4, color=colour)
        bars.set_yticks(places, list(arms))
        bars.invert_yaxis()
        bars.set_xlabel(f"return, {task} (grey: in the few scenes; blue: in unseen ones)")
    right.legend(*right.axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=len(arms))
    return figure


def draw_strokes(image: Tensor, strokes: Sequence[Tensor], paths: Mapping[str, tuple[Tensor, Tensor]]) -> Figure:
    """A line's image, its strokes as they were written, and those that networks recovered; colours run with time.

    Args:
        image: `[H, W]`; its height is the unit of all points.
        strokes: points `[M, 2]` of each.
        paths: of networks, points `[M, 2]` and where strokes start.
    """
    figure = new_figure(15, 1 + 1.2 * len(paths))
    truth = torch.cat(list(strokes)), torch.cat([torch.arange(len(stroke)) == 0 for stroke in strokes])
    rows = {"truth": truth, **paths}
    height, width = image.shape
    for place, (title, (points, starts)) in zip(figure.subplots(len(rows), 1), rows.items()):
        place.imshow(image.numpy(), cmap="Greys", extent=(0, width / height, 1, 0), vmax=3)
        cuts = [0, *(k for k in torch.nonzero(starts)[:, 0].tolist() if k > 0), len(points)]
        for begin, end in itertools.pairwise(cuts):
            x, y = points[begin:end].T.numpy()
            place.plot(x, y, color="#B8BCC2", linewidth=1)
            colours = torch.linspace(begin, end - 1, end - begin).numpy()
            place.scatter(x, y, c=colours, cmap="turbo", s=12, vmin=0, vmax=len(points))
            place.plot(x[:1], y[:1], "o", markersize=7, markerfacecolor="none", color="black")
        place.set_title(title, loc="left")
        place.set_axis_off()
    return figure


def draw_views(rows: Mapping[str, Tensor], arms: Mapping[str, Mapping[str, Any]]) -> Figure:
    """Pictures and one view of each by several generators; and the arms' accuracies on unseen classes."""
    figure = new_figure(13, 4)
    left, right = figure.subfigures(1, 2, width_ratios=(1.2, 1))
    places = left.subplots(len(rows), len(next(iter(rows.values()))), squeeze=False)
    for line, (title, images) in zip(places, rows.items()):
        for place, image in zip(line, images):
            place.imshow((image / 4 + 0.5).clamp(0, 1).movedim(0, 2).numpy())
            place.set_xticks([])
            place.set_yticks([])
        line[0].set_ylabel(title.replace(" without the ", "\nwithout the\n").replace(" views", "\nviews"))
    last = right.subplots()
    for shift, (name, colour) in enumerate({"fine_accuracy": "#0072B2", "coarse_accuracy": _GREY}.items()):
        means, halves = zip(*(arm[name] for arm in arms.values()))
        levels = [number + 0.4 * shift for number in range(len(arms))]
        last.barh(levels, means, 0.38, xerr=halves, color=colour, label=name.replace("_", " "))
    last.set_yticks([number + 0.2 for number in range(len(arms))], arms)
    last.invert_yaxis()
    last.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=2, frameon=False)
    return figure


def draw_detections(
    scenes: Scenes, boxes: Tensor, chances: Tensor, seen: int, arms: Mapping[str, Mapping[str, float]]
) -> Figure:
    """Scenes with true boxes and the likeliest found ones, and two results of each arm.

    Args:
        boxes, chances: ``[N, P, 4]`` and ``[N, P, 1 + C]``.
        seen: how many classes training knew; their columns come after the background's.
    """
    figure = new_figure(16, 3.4)
    *places, last = figure.subplots(1, len(scenes.images) + 1, width_ratios=[*[1] * len(scenes.images), 1.5])
    sure, columns = chances[..., 1:].max(dim=2)
    colours = {"truth": "white", "found as seen": "#0072B2", "found as unseen": "#E69F00"}
    for scene, place in enumerate(places):
        place.imshow((scenes.images[scene] / 4 + 0.5).clamp(0, 1).movedim(0, 2).numpy(), extent=(0, 1, 1, 0))
        likely = without_doubles(boxes[scene], sure[scene]).topk(4).indices
        likely = likely[sure[scene, likely] > 0.3]
        kinds = ["found as unseen" if column >= seen else "found as seen" for column in columns[scene, likely].tolist()]
        true = scenes.boxes[scene][scenes.labels[scene] >= 0]
        for title, box in zip(["truth"] * len(true) + kinds, [*true.tolist(), *boxes[scene, likely].tolist()]):
            left, top, right, bottom = box
            place.plot([left, right, right, left, left], [top, top, bottom, bottom, top], color=colours[title])
        place.set_axis_off()
    for shift, (name, colour) in enumerate({"unseen_recall": "#0072B2", "unseen_called_background": _GREY}.items()):
        levels = [number + 0.4 * shift for number in range(len(arms))]
        last.barh(levels, [arm[name] for arm in arms.values()], 0.38, color=colour, label=name.replace("_", " "))
    last.set_yticks([number + 0.2 for number in range(len(arms))], arms)
    last.invert_yaxis()
    last.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=2, frameon=False)
    return figure
