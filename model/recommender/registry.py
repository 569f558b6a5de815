"""Every method by its name: what the settings can train and serve, and the baselines that it is judged against."""

from __future__ import annotations

from model.evaluation.baselines import POPULARITY
from model.recommender.methods.base import Method
from model.recommender.methods.semantic_convergence import SEMANTIC_CONVERGENCE

METHODS: dict[str, Method] = {method.name: method for method in (POPULARITY, SEMANTIC_CONVERGENCE)}
