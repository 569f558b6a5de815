"""The methods that can be trained and served, by the name that the settings use."""

from __future__ import annotations

from model.recommender.methods.base import Method
from model.recommender.methods.semantic_convergence import SEMANTIC_CONVERGENCE

METHODS: dict[str, Method] = {method.name: method for method in (SEMANTIC_CONVERGENCE,)}
