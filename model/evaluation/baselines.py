"""Baselines, as methods like any other. Popularity: the number of times that an item was a target in training.

Shapes: B users, S seen items, N items, K results.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from model.data.files import load_tensors, save_tensors
from model.data.targets import count_items, read_windows
from model.recommender.methods.base import PAD, Bools, Ints, Method, Ranked, Users

POPULARITY_FILE = "popularity.safetensors"


def train_popularity(request: dict[str, Any]) -> dict[str, Any]:
    """Count each item's targets in `training_set`; writes counts [N]."""
    training_set = request["inputs"]["training_set"]
    items = count_items(training_set)
    count_N = np.zeros(items, dtype=np.int64)
    for _, item_BT, wanted_BT in read_windows(training_set):
        count_N += np.bincount(item_BT[wanted_BT], minlength=items)
    save_tensors(f"{request['output']}/{POPULARITY_FILE}", {"count": count_N})
    return {"items": items, "targets": int(count_N.sum())}


class PopularityRanker:
    """The most popular allowed items, the same for every user but for what each has seen."""

    def __init__(self, count_N: Ints) -> None:
        self._count_N = count_N
        # Ties go to the smaller index.
        self._order_N = np.lexsort((np.arange(count_N.size), -count_N))

    @classmethod
    def load(cls, request: dict[str, Any]) -> PopularityRanker:
        return cls(load_tensors(f"{request['inputs']['popularity']}/{POPULARITY_FILE}")["count"])

    def rank(self, users: Users, seen_BS: Ints, available_N: Bools, k: int) -> Ranked:
        order_N = self._order_N[available_N[self._order_N]]
        items_BK = np.full((len(users.ids), k), PAD, dtype=np.int64)
        for row, seen_S in enumerate(seen_BS):
            # k + S candidates suffice: at most S of them are seen.
            candidates = order_N[: k + seen_S.size]
            best = candidates[~np.isin(candidates, seen_S)][:k]
            items_BK[row, : best.size] = best
        scores_BK = np.where(items_BK == PAD, -np.inf, self._count_N[items_BK]).astype(np.float32)
        return Ranked(items_BK, np.empty((*items_BK.shape, 0), dtype=np.int64), scores_BK)


POPULARITY = Method("popularity", ("training_set",), "popularity", train_popularity, PopularityRanker.load)
