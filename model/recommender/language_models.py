"""Language models that rank, whichever method trained them.

Shapes: B users, C listed items, N items, L code levels.
"""

from __future__ import annotations

from typing import Any, Protocol

from model.data.files import load_json
from model.recommender.backbone import PRECOG
from model.recommender.inference import SemanticRanker
from model.recommender.methods.base import Floats, Ints, Ranker, Users
from model.recommender.rsllm import METHOD as RSLLM
from model.recommender.rsllm.ranker import RsllmRanker


class LanguageModel(Ranker, Protocol):
    """What late fusion asks of a ranker beside lists."""

    codes_NL: Ints
    """Of all items."""

    def score(self, users: Users, items_BC: Ints) -> Floats:
        """Log-probabilities [B,C] (nats) but for a constant of each user; -inf for padding (-1)."""
        ...

    def user_codes(self, users: Users) -> Ints | None:
        """[B,L], -1 for users without a history; None of models that have no codes for users."""
        ...


def load_language_model(request: dict[str, Any]) -> LanguageModel:
    """By the method that the model in `request["inputs"]` was trained with."""
    method = load_json(f"{request['inputs']['model']}/{PRECOG}").get("method")
    return RsllmRanker.load(request) if method == RSLLM else SemanticRanker.load(request)
