"""Semantic Convergence, arXiv 2412.13771: behavioural codes, and a language model aligned to them; the default."""

from __future__ import annotations

from typing import Any

from model.recommender.methods.base import Method, Ranker

# The registry of methods is read where no model is run: torch and transformers are imported only by the functions.


def _train(request: dict[str, Any]) -> dict[str, Any]:
    from model.recommender.train import finetune  # noqa: PLC0415

    return finetune(request)


def _load_ranker(request: dict[str, Any]) -> Ranker:
    from model.recommender.inference import SemanticRanker  # noqa: PLC0415

    return SemanticRanker.load(request)


SEMANTIC_CONVERGENCE = Method(
    name="semantic_convergence",
    requires=("training_set", "behaviour", "codebook"),
    produces="model",
    train=_train,
    load_ranker=_load_ranker,
)
