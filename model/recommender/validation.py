"""How well the model ranks while it is trained: NDCG@10 on the training set's validation cases, by real decoding.

Shapes: C cases, H history items, N items.
"""

from __future__ import annotations

import numpy as np
from torch import nn

from model.config import ModelConfig
from model.data.reader import read_table
from model.evaluation.metrics import ndcg, rank_of_target
from model.processes import gathered
from model.recommender.backbone import Subject
from model.recommender.examples import Examples
from model.recommender.inference import SemanticRanker
from model.recommender.methods.base import Ints, Users

K = 10


class Validation:
    """A small sample of users, each with the one item that is kept out of training. Items seen before are left out."""

    def __init__(
        self, training_set: str, subject: Subject, examples: Examples, codes_NL: Ints, config: ModelConfig
    ) -> None:
        rows = read_table(f"{training_set}/validation", ["items", "target"])
        self.cases = rows.num_rows
        history_F = rows["items"].combine_chunks().flatten().to_numpy().astype(np.int64)
        self._history_CH = history_F.reshape(self.cases, config.history_items)
        self._target_C = rows["target"].to_numpy().astype(np.int64)
        self._subject, self._examples, self.codes_NL, self._config = subject, examples, codes_NL, config

    def score(self, trained: nn.Module) -> tuple[float, float]:
        """NDCG@10 of the model as it is now, and its standard error. Every process takes part and finds the same.

        `trained` is what wraps the model.
        """
        model = self._subject.model
        model.eval()
        with gathered(trained):
            ranker = SemanticRanker.of(model, self._subject.vocabulary, self._examples, self.codes_NL, self._config)
            users = Users([""] * self.cases, self._history_CH)
            ranked = ranker.rank(users, self._history_CH, np.ones(len(self.codes_NL), bool), K)
        model.train()
        ndcg_C = ndcg(rank_of_target(ranked.items_BK, self._target_C), K)
        return float(ndcg_C.mean()), float(ndcg_C.std() / np.sqrt(len(ndcg_C)))
