"""Every method by its name: what the settings can train and serve, and the baselines that it is judged against."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from model.evaluation.baselines import POPULARITY
from model.recommender.methods.base import Method, Ranker, late


def _counted(name: str) -> Method:
    module = "model.evaluation.cooccurrence"
    return Method(name, ("training_set",), name, late(module, "train", name), late(module, "load_ranker", name))


def _load_ranker(request: dict[str, Any]) -> Ranker:
    """The fused ranker where the inputs name a fusion, else the language model alone."""
    fused = late("model.recommender.fusion", "FusedRanker.load")
    alone = late("model.recommender.language_models", "load_language_model")
    ranker: Ranker = (fused if "fusion" in request["inputs"] else alone)(request)
    return ranker


EASE = Method(
    "ease",
    ("training_set",),
    "ease",
    late("model.evaluation.ease", "train"),
    late("model.evaluation.ease", "load_ranker"),
)
SASREC = Method(
    "sasrec",
    ("training_set",),
    "behaviour",
    late("model.behaviour.train", "train_behaviour"),
    late("model.behaviour.ranker", "load_ranker"),
)
SEMANTIC_CONVERGENCE = Method(
    "semantic_convergence",  # arXiv 2412.13771: behavioural codes, and a language model aligned to them
    ("training_set", "behaviour", "codebook"),
    "model",
    late("model.recommender.train", "finetune"),
    _load_ranker,
)
TTDS = replace(SEMANTIC_CONVERGENCE, name="ttds")  # arXiv 2409.09253: users have codes too, and the index moves

RSLLM = Method(
    "rsllm",  # arXiv 2412.16933: a sequential recommender's item vectors among the words
    ("training_set", "behaviour", "codebook"),
    "model",
    late("model.recommender.rsllm.train", "finetune"),
    _load_ranker,
)

METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        POPULARITY,
        _counted("item_knn"),
        _counted("successor"),
        _counted("cooccurrence"),
        EASE,
        SASREC,
        SEMANTIC_CONVERGENCE,
        TTDS,
        RSLLM,
    )
}


def train(request: dict[str, Any]) -> dict[str, Any]:
    """`Method.train` of the method that `request["method"]` names: what training processes are started with."""
    return METHODS[request["method"]].train(request)
