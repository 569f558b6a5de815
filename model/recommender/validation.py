"""How well the model ranks while it is trained: NDCG@10 on the training set's validation cases, by real decoding.

Shapes: C cases, H history items, N items.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from torch import nn

from model.config import ModelConfig
from model.data.reader import read_table
from model.evaluation.metrics import ndcg, rank_of_target
from model.processes import gathered
from model.recommender.methods.base import Ranker, Users

K = 10


class Validation:
    """A small sample of users, each with the one item that is kept out of training. Items seen before are left out."""

    def __init__(
        self, training_set: str, model: nn.Module, ranker: Callable[[], Ranker], items: int, config: ModelConfig
    ) -> None:
        """`ranker`: of the model as it is now."""
        rows = read_table(f"{training_set}/validation", ["items", "target"])
        self.cases = rows.num_rows
        history_F = rows["items"].combine_chunks().flatten().to_numpy().astype(np.int64)
        self._history_CH = history_F.reshape(self.cases, config.history_items)
        self._target_C = rows["target"].to_numpy().astype(np.int64)
        self._model, self._ranker, self._items = model, ranker, items

    def score(self, trained: nn.Module) -> tuple[float, float]:
        """NDCG@10 of the model as it is now, and its standard error. Every process takes part and finds the same.

        `trained` is what wraps the model.
        """
        self._model.eval()
        with gathered(trained):
            users = Users([""] * self.cases, self._history_CH)
            ranked = self._ranker().rank(users, self._history_CH, np.ones(self._items, bool), K)
        self._model.train()
        ndcg_C = ndcg(rank_of_target(ranked.items_BK, self._target_C), K)
        return float(ndcg_C.mean()), float(ndcg_C.std() / np.sqrt(len(ndcg_C)))
