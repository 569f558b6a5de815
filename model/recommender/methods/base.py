"""What a method is: one object that trains and ranks. Baselines, the three papers and their fusion are all this.

Shapes: B users, H history items, T of them, S seen items, N items, K results, L code levels.
"""

from __future__ import annotations

import importlib
import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

PAD = -1
"""Fills item-index arrays behind their last item."""

START = "start"
"""Among a training's inputs: the model that it goes on from."""
LANGUAGE_MODEL = "language_model"
"""Folder of a TTDS codebook with the model that it was made with: where its second stage starts."""

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Users:
    """A batch of users: `ids` are only for naming errors; histories are item indices, oldest first, padded with -1."""

    ids: list[str]
    history_BH: Ints


@dataclass(frozen=True)
class Ranked:
    """Best items first. Where fewer than K items are allowed, the rest is -1 (items, codes) and -inf (scores)."""

    items_BK: Ints
    codes_BKL: Ints
    scores_BK: Floats
    user_codes_BL: Ints | None = None
    """Of methods that give users codes; a user without a history has -1."""


class Ranker(Protocol):
    """Ranks the whole catalogue for a batch of users."""

    def rank(self, users: Users, seen_BS: Ints, available_N: Bools, k: int) -> Ranked:
        """Top-k items that are available and not seen (both item indices; `seen_BS` padded with -1), best first.

        Ties go to the smaller item index. The result of a user does not depend on the other users of the batch.
        """
        ...


def newest(history_BH: Ints, items: int) -> Ints:
    """The last items of each history [B,T], padded with -1 behind like the histories themselves."""
    length_B = (history_BH != PAD).sum(axis=1)
    place_BT = np.maximum(length_B - items, 0)[:, None] + np.arange(min(items, history_BH.shape[1]))
    inside_BT = place_BT < length_B[:, None]
    return np.where(inside_BT, np.take_along_axis(history_BH, np.where(inside_BT, place_BT, 0), axis=1), PAD)


@dataclass(frozen=True)
class Method:
    """`train(request)` writes the artefact `produces` from the artefacts `requires`; `load_ranker(request)` opens it.

    Both take the same JSON-able request: {"config": ModelConfig as JSON, "inputs": {artefact: URI}, "output": URI}.
    The names of artefacts are the lake's stores: training_set, behaviour, codebook, model.
    """

    name: str
    requires: tuple[str, ...]
    produces: str
    train: Callable[[dict[str, Any]], dict[str, Any]]
    load_ranker: Callable[[dict[str, Any]], Ranker]


def late(module: str, function: str, *arguments: str) -> Callable[[dict[str, Any]], Any]:
    """The function, imported when it is called: methods are named where no model is run, without torch or scipy."""

    def call(request: dict[str, Any]) -> Any:
        return operator.attrgetter(function)(importlib.import_module(module))(request, *arguments)

    return call
