"""Queries for data that has none: the key terms of an item's text by tf-idf, and a user's interests from them [ours].

Shapes: N items, Q terms of an item, V terms in all, B rows, T items of a history, X terms of all of them, I interests.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from model.recommender.methods.base import PAD, Floats, Ints

QUERY_TERMS, INTERESTS = 3, 5
MOST_COMMON = 0.2
"""A word in more of the texts than this says nothing about one of them."""
WORD = re.compile(r"[^\W\d_]{3,}")


@dataclass(frozen=True)
class KeyTerms:
    terms: list[str]
    weight_V: Floats
    """Inverse document frequency, in nats."""
    query_NQ: Ints
    """Each item's terms of most tf-idf, in the order of its text; padded with -1."""

    @classmethod
    def of(cls, texts: Sequence[str]) -> KeyTerms:
        """Words that at least two texts share; an item without one has no query."""
        words_N = [WORD.findall(text.lower()) for text in texts]
        frequency = Counter(word for words in words_N for word in set(words))
        most = max(2, MOST_COMMON * len(texts))
        terms = sorted(word for word, count in frequency.items() if 2 <= count <= most)
        number = {word: place for place, word in enumerate(terms)}
        weights = [math.log(len(texts) / frequency[word]) for word in terms]
        query_NQ = np.full((len(texts), QUERY_TERMS), PAD, np.int64)
        for query_Q, words in zip(query_NQ, words_N, strict=True):
            counts = Counter(number[word] for word in words if word in number)
            best = sorted(counts, key=lambda term: (-counts[term] * weights[term], term))[:QUERY_TERMS]
            query_Q[: len(best)] = [term for term in counts if term in best]
        return cls(terms, np.asarray(weights, np.float32), query_NQ)

    def interests(self, history_BT: Ints) -> Ints:
        """The terms [B,I] that weigh most over the items of each history (padded with -1), heaviest first."""
        term_BTQ = np.where(history_BT[..., None] == PAD, PAD, self.query_NQ[history_BT])
        term_BX = term_BTQ.reshape(len(history_BT), history_BT.shape[1] * QUERY_TERMS)
        found_BI = np.full((len(history_BT), INTERESTS), PAD, np.int64)
        for found_I, term_X in zip(found_BI, term_BX, strict=True):
            terms, counts = np.unique(term_X[term_X != PAD], return_counts=True)
            best = terms[np.argsort(-counts * self.weight_V[terms], kind="stable")][:INTERESTS]
            found_I[: len(best)] = best
        return found_BI
