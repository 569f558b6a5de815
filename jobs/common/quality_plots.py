"""Figures of an evaluation for pages: what the methods reach, and for whom."""

from __future__ import annotations

from itertools import cycle
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from jobs.common.pages import WIDTH, png

SHOWN = "NDCG@10"
COLOURS = ("#2f6fde", "#e08a1e", "#5b9a68", "#9a6bb5", "#8b8f96", "#c2554d")


def plot_methods(quality: dict[str, Any]) -> str:
    """NDCG@10 of each method with its interval, seen items masked: the judged one first, then the best."""
    values = {method: protocols["masked"][SHOWN] for method, protocols in quality["methods"].items()}
    others = sorted(set(values) - {quality["reference"]}, key=lambda method: -values[method]["mean"])
    figure = Figure(figsize=(WIDTH, 0.4 * len(values) + 0.9), layout="constrained")
    axes = figure.subplots()
    colours = dict(zip(values, cycle(COLOURS), strict=False))  # as in plot_segments
    for place, method in enumerate([quality["reference"], *others]):
        _dot(axes, values[method], -place, colours[method])
    axes.set_yticks([-place for place in range(len(values))], [quality["reference"], *others])
    axes.set(xlabel=f"{SHOWN}, seen items masked", ylim=(0.6 - len(values), 0.6), xlim=(0, None))
    axes.grid(axis="x", color="#dfe5ec")
    return png(figure)


def plot_segments(beyond: dict[str, Any]) -> str:
    """NDCG@10 of each method for users and items of each kind, with intervals."""
    names = [one["segment"] for one in next(iter(beyond.values()))["segments"]]
    figure = Figure(figsize=(WIDTH, 0.2 * len(names) * max(len(beyond), 2) + 1.4), layout="constrained")
    axes = figure.subplots()
    for number, (colour, (method, found)) in enumerate(zip(cycle(COLOURS), beyond.items(), strict=False)):
        shift = (number - (len(beyond) - 1) / 2) * 0.7 / len(beyond)
        for place, one in enumerate(found["segments"]):
            _dot(axes, estimate(one[SHOWN]), -place - shift, colour, method if not place else "")
    axes.set_yticks([-place for place in range(len(names))], names)
    axes.set(xlabel=f"{SHOWN}, seen items masked", xlim=(0, None))
    axes.grid(axis="x", color="#dfe5ec")
    figure.legend(fontsize="small", loc="outside lower center", ncols=2)
    return png(figure)


def estimate(value: dict[str, float] | float) -> dict[str, float]:
    """A segment's figure; an older version wrote the mean alone."""
    return value if isinstance(value, dict) else {"mean": value, "low": value, "high": value}


def _dot(axes: Axes, value: dict[str, float], place: float, colour: str, label: str = "") -> None:
    reach = np.array([[value["mean"] - value["low"]], [value["high"] - value["mean"]]])
    axes.errorbar(
        value["mean"], place, xerr=reach.clip(min=0), fmt="o", color=colour, capsize=3, label=label or "_nolegend_"
    )
