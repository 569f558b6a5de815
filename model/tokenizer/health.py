"""How good a codebook is, in figures.

Shapes: N items, P input dimensions, L levels, K codes a level.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from model.tokenizer.assignment import fold
from model.tokenizer.codebook import Codebook
from model.tokenizer.quantizer import Floats, Ints, nearest_codes

NEARLY_FULL = 0.1
TIGHTEST = 5


def health(codebook: Codebook, x_NP: Floats, codes_NL: Ints) -> dict[str, Any]:
    """Figures of the published codes, and of how far they are from the nearest codes, which may collide.

    Errors are mean squared distances between inputs (of unit length) and what their codes stand for.
    """
    codes = codebook.centroids_LKZ.shape[1]
    near_NL = nearest_codes(codebook.quantised(x_NP), codebook.centroids_LKZ)
    near_error, error = (float(((x_NP - codebook.rebuilt(each)) ** 2).sum(1).mean()) for each in (near_NL, codes_NL))
    moved_N, spilled_N = (codes_NL != near_NL).any(1), (codes_NL != near_NL)[:, :-1].any(1)
    group_sizes = np.unique(fold(near_NL, codes), return_counts=True)[1]
    return {
        "items": len(x_NP),
        "reconstruction_error": error,
        "added_squared_error": error - near_error,
        "variance": float(x_NP.var(0).sum()),
        "collisions_before": int(group_sizes[group_sizes > 1].sum()),
        "largest_collision": int(group_sizes.max(initial=0)),
        "collisions_after": len(codes_NL) - len(np.unique(fold(codes_NL, codes))),
        "moved_share": float(moved_N.mean()),
        "spilled_share": float(spilled_N.mean()),
        "levels": [_balance(np.bincount(level_N, minlength=codes)) for level_N in codes_NL.T],
    }


def _balance(count_K: Ints) -> dict[str, float | int]:
    """How evenly a level's codes are used: all alike give perplexity K and Gini 0, one alone gives 1 and 1 - 1/K."""
    share_K = np.sort(count_K) / count_K.sum()
    used = share_K[share_K > 0]
    K = len(share_K)
    rank_K = np.arange(1, K + 1)
    return {
        "codes_used": len(used),
        "perplexity": float(np.exp(-(used * np.log(used)).sum())),
        "gini": float(((2 * rank_K - K - 1) * share_K).sum() / K),
    }


def reserve(codes_NL: Ints, codes: int) -> dict[str, Any]:
    """How much room for new items is left beside items that are there: by prefix (all codes but the last) in use.

    {"prefixes", "full", "nearly_full": with less than a tenth free, "tightest": [{"prefix", "free"}]}
    """
    prefixes, used = np.unique(codes_NL[:, :-1], axis=0, return_counts=True)
    free = codes - used
    tightest = np.argsort(free, kind="stable")[:TIGHTEST]
    return {
        "prefixes": len(prefixes),
        "full": int((free == 0).sum()),
        "nearly_full": int((free < NEARLY_FULL * codes).sum()),
        "tightest": [{"prefix": "-".join(map(str, prefixes[i])), "free": int(free[i])} for i in tightest],
    }


def churn(before_NL: Ints, after_NL: Ints) -> dict[str, float | int]:
    """How much of the codes of the same items, in the same order, another codebook keeps.

    "same_code", "same_first": shares of items. Names of codes mean nothing across codebooks, so "together" says of the
    pairs of items that shared their first two codes which share still do (1.0 when none did).
    """
    K = int(max(before_NL.max(initial=0), after_NL.max(initial=0))) + 1
    groups = [fold(codes[:, :2], K) for codes in (before_NL, after_NL)]
    pairs_before = _pairs(groups[0])
    both = fold(np.column_stack([np.unique(group, return_inverse=True)[1] for group in groups]), len(before_NL) + 1)
    return {
        "items": len(before_NL),
        "same_code": float((before_NL == after_NL).all(1).mean()) if len(before_NL) else 1.0,
        "same_first": float((before_NL[:, 0] == after_NL[:, 0]).mean()) if len(before_NL) else 1.0,
        "together": _pairs(both) / pairs_before if pairs_before else 1.0,
    }


def _pairs(group_N: Ints) -> float:
    """How many pairs of items stand in one group."""
    size = np.unique(group_N, return_counts=True)[1].astype(np.float64)
    return float((size * (size - 1)).sum() / 2)
