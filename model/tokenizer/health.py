"""How good a codebook is, in figures.

Shapes: N items, P input dimensions, L levels, K codes a level.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from model.tokenizer.assignment import fold
from model.tokenizer.codebook import Codebook
from model.tokenizer.quantizer import Floats, Ints, nearest_codes


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
