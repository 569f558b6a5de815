"""Neighbour preservation [ours]: do items that people take together stand close in codes?

Of an item's most co-occurring items, the share that has the same first codes, beside the share that random codes of the
same cluster sizes would give: a ratio of 1 says that the codes know nothing of behaviour. It is honest only when the
interactions were held out from whatever the codes were made from.

Shapes: E interactions, N items, L levels, P pairs.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy import sparse

from model.tokenizer.assignment import fold
from model.tokenizer.quantizer import Ints

NEIGHBOURS = 10
DEPTHS = (1, 2)
"""The same u; the same u and v."""


def together(user_E: Ints, item_E: Ints, items: int) -> tuple[Ints, Ints]:
    """Pairs [P]: each item with the up to NEIGHBOURS items that most users took, too; ties go to the smaller index."""
    taken = sparse.csr_array((np.ones(user_E.size, np.float32), (user_E, item_E)), shape=(user_E.max() + 1, items))
    taken.data[:] = 1
    counts = sparse.coo_array(taken.T @ taken)
    other_P = counts.row != counts.col
    item_P, near_P, count_P = counts.row[other_P], counts.col[other_P], counts.data[other_P]
    order_P = np.lexsort((near_P, -count_P, item_P))
    item_P, near_P = item_P[order_P].astype(np.int64), near_P[order_P].astype(np.int64)
    place_P = np.arange(item_P.size) - np.searchsorted(item_P, item_P)
    return item_P[place_P < NEIGHBOURS], near_P[place_P < NEIGHBOURS]


def preservation(codes_NL: Ints, item_P: Ints, near_P: Ints) -> list[dict[str, Any]]:
    """For each depth: {"levels", "share" of the pairs with the same first codes, "by_chance", "ratio" of the two}."""
    K = int(codes_NL.max()) + 1
    found = []
    for depth in DEPTHS:
        cluster_N = fold(codes_NL[:, :depth], K)
        share = float((cluster_N[item_P] == cluster_N[near_P]).mean())
        size = np.unique(cluster_N, return_counts=True)[1].astype(np.float64)
        by_chance = float((size * (size - 1)).sum() / (size.sum() * (size.sum() - 1)))
        ratio = share / by_chance if by_chance else float("inf")
        found.append({"levels": depth, "share": share, "by_chance": by_chance, "ratio": ratio})
    return found
