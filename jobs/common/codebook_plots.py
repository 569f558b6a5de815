"""Pictures of a codebook, for the report.

Shapes: N items, K codes a level.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.figure import Figure

from jobs.common.pages import WIDTH, png
from model.data.files import load_tensors
from model.tokenizer.portrait import EXAMPLES

SHOWN_ITEMS = 20_000


def plot_usage(health: dict[str, Any]) -> str:
    """Codes used and perplexity of each level, and how many prefixes of each length are in use, if that is known."""
    figure = Figure(figsize=(WIDTH, 2.3), layout="constrained")
    usage, *trees = figure.subplots(1, 2 if "tree" in health else 1, squeeze=False)[0]
    places = np.arange(len(health["levels"]))
    for offset, name, label in ((-0.2, "codes_used", "codes used"), (0.2, "perplexity", "perplexity")):
        usage.bar(places + offset, [level[name] for level in health["levels"]], 0.4, label=label)
    usage.set(title="Codes of each level", xticks=places, xticklabels=[f"{place + 1}" for place in places])
    figure.legend(loc="outside lower left", ncols=2, fontsize="small")
    for tree in trees:
        tree.bar(places, [depth["prefixes"] for depth in health["tree"]])
        tree.set(title="Prefixes by length", xticks=places, xticklabels=[f"{place + 1}" for place in places])
    return png(figure)


def plot_picture(uri: str) -> str:
    """The items on their inputs' two leading axes, the first codes of most items in colours of their own."""
    tensors = load_tensors(uri)
    step = max(1, len(tensors["first"]) // SHOWN_ITEMS)
    place_N2, first_N = tensors["place"][::step], tensors["first"][::step]
    largest = np.argsort(-np.bincount(tensors["first"]), kind="stable")[:EXAMPLES]
    figure = Figure(figsize=(WIDTH, 3.6), layout="constrained")
    axes = figure.subplots()
    rest_N = ~np.isin(first_N, largest)
    axes.scatter(place_N2[rest_N, 0], place_N2[rest_N, 1], s=3, color="lightgrey", label="other", rasterized=True)
    for number, code in enumerate(largest):
        own_N = first_N == code
        axes.scatter(place_N2[own_N, 0], place_N2[own_N, 1], s=5, color=f"C{number}", label=str(code), rasterized=True)
    axes.set(xticks=[], yticks=[], title="Items on two leading axes of their inputs")
    figure.legend(loc="outside right center", markerscale=3, fontsize="small")
    return png(figure)


def plot_churn(metrics: dict[str, Any]) -> str:
    """How many items took another code at each renewal of a moving index, and what its towers' losses came to."""
    figure = Figure(figsize=(WIDTH, 3.2), layout="constrained")
    left, right = figure.subfigures(1, 2, squeeze=False)[0]
    moved, losses = left.subplots(), right.subplots()
    steps = [each["step"] for each in metrics["renewals"]]
    for name, label in (("same_code", "another code"), ("same_first", "another first code")):
        moved.plot(steps, [100 * (1 - each[name]) for each in metrics["renewals"]], marker=".", label=label)
    moved.set(title="Items that moved", xlabel="step", ylabel="% of items", ylim=(0, None))
    left.legend(fontsize="x-small", loc="outside lower center")
    epochs = range(1, len(metrics["towers"]) + 1)
    for name in (name for name in metrics["towers"][0] if name.endswith(".loss")):
        losses.plot(epochs, [epoch[name] for epoch in metrics["towers"]], marker=".", label=name.removesuffix(".loss"))
    for name in ("contrast", "distance"):
        losses.plot(epochs, metrics["loss"][name], marker=".", label=f"code strings, {name}")
    losses.set(title="Losses of the index", xlabel="epoch")
    right.legend(fontsize="x-small", loc="outside lower center")
    return png(figure)
