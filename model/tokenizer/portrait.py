"""What a codebook looks like: its tree, a picture of its first codes, and the titles that stand for them.

Shapes: N items, P input dimensions, L levels, K codes a level.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from model.tokenizer.assignment import fold
from model.tokenizer.inputs import principal_axes
from model.tokenizer.quantizer import Floats, Ints

EXAMPLES, TITLES = 10, 5


def tree(codes_NL: Ints) -> list[dict[str, int]]:
    """For each depth: how many prefixes are in use, and how many items share the largest."""
    K = int(codes_NL.max(initial=0)) + 1
    sizes = [
        np.unique(fold(codes_NL[:, :depth], K), return_counts=True)[1] for depth in range(1, codes_NL.shape[1] + 1)
    ]
    return [{"prefixes": len(size), "largest": int(size.max(initial=0))} for size in sizes]


def examples(x_NP: Floats, codes_NL: Ints, titles: Sequence[str]) -> list[dict[str, Any]]:
    """The first codes of most items, {"code", "items", "titles"}: those of the items nearest to the middle of them."""
    count_K = np.bincount(codes_NL[:, 0])
    found = []
    largest = np.argsort(-count_K, kind="stable")[:EXAMPLES]
    for code in largest[count_K[largest] > 0]:
        own = np.flatnonzero(codes_NL[:, 0] == code)
        distance = ((x_NP[own] - x_NP[own].mean(0)) ** 2).sum(1)
        typical = own[np.argsort(distance, kind="stable")[:TITLES]]
        found.append({"code": int(code), "items": len(own), "titles": [titles[item] for item in typical]})
    return found


def picture(x_NP: Floats) -> np.ndarray:
    """Each item's place on the two leading principal axes of the inputs [N,2]."""
    mean_P, axes_P2 = principal_axes(x_NP, 2)
    return np.asarray((x_NP - mean_P) @ axes_P2, np.float32)
