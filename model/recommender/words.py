"""The words of items' texts as tf-idf vectors: names of makers, series and kinds, which text encoders blur [ours].

Shapes: N items, V terms.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from scipy import sparse

WORD = re.compile(r"[^\W_]+")
MOST_TERMS = 1 << 18


@dataclass(frozen=True)
class Words:
    """Words and pairs of neighbours that at least two texts have, of these the most frequent."""

    terms: list[str]
    weights: list[float]
    """Inverse document frequency of each, in nats."""

    @classmethod
    def of(cls, texts: Sequence[str]) -> Words:
        frequency = Counter(term for text in texts for term in set(_terms(text)))
        known = [(term, count) for term, count in frequency.items() if count >= 2]
        chosen = sorted(sorted(known, key=lambda one: (-one[1], one[0]))[:MOST_TERMS])
        return cls([term for term, _ in chosen], [float(np.log(len(texts) / count)) for _, count in chosen])

    def vectors(self, texts: Sequence[str]) -> sparse.csr_array:
        """[N,V], rows of unit length; a text without a known term has zeros. A term counts once a text."""
        number = {term: place for place, term in enumerate(self.terms)}
        places = [sorted({number[term] for term in _terms(text) if term in number}) for text in texts]
        start_N1 = np.cumsum([0, *map(len, places)])
        place = np.fromiter((one for of_text in places for one in of_text), np.int64, start_N1[-1])
        weights = np.asarray(self.weights, np.float32)[place]
        rows = sparse.csr_array((weights, place, start_N1), shape=(len(texts), len(self.terms)))
        length_N = np.sqrt(np.asarray((rows**2).sum(axis=1)))
        inverse_N = np.divide(1, length_N, out=np.zeros_like(length_N), where=length_N > 0)
        return sparse.csr_array(sparse.diags_array(inverse_N) @ rows)


def _terms(text: str) -> Iterator[str]:
    words = WORD.findall(text.lower())
    yield from words
    yield from (" ".join(pair) for pair in pairwise(words))
