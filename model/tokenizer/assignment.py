"""Exact de-collision [ours]: every item gets a code of its own, as near to its vector as the others' codes allow.

1. Every item goes to the prefix (all codes but the last) of its nearest codes. A prefix with more items than free last
   codes keeps those nearest to it; the others spill to their nearest prefix with room.
2. Inside each prefix, a minimum-cost assignment (Hungarian) gives the items their last codes, at the least total
   squared distance. Where nobody wants another's code this is everyone's nearest, and nothing needs to be solved.

Codes that are taken already are never given again, and never move. The result is a function of the rows in their order:
callers sort the items by id. Work is per prefix; nothing is quadratic in N.

Shapes: N items, M codes taken already, P input dimensions, L levels, K codes a level, S spilled items, U distinct
vectors among them, W near prefixes.
"""

from __future__ import annotations

import numpy as np

from model.tokenizer.quantizer import (
    Floats,
    Ints,
    nearest,
    nearest_codes,
    nearest_prefixes,
    reconstruct,
    squared_distances,
)


def assign_codes(x_NP: Floats, centroids_LKP: Floats, taken_ML: Ints, candidates: int) -> Ints:
    """Distinct codes [N,L] for the rows of `x_NP`, none of them in `taken_ML`.

    `candidates` is how many near prefixes a spilling item looks at before the search is widened. Raises ValueError when
    there are fewer free codes than items.
    """
    levels, codes, _ = centroids_LKP.shape
    if len(x_NP) + len(taken_ML) > codes**levels:
        raise ValueError(
            f"{len(x_NP)} items need a code beside the {len(taken_ML)} that have one, but {levels} levels of {codes} "
            f"codes name only {codes**levels}. Raise tokenizer.levels or tokenizer.codes_per_level and train again."
        )
    prefix_N = _choose_prefixes(x_NP, centroids_LKP, fold(taken_ML[:, :-1], codes), candidates)
    prefixes_NL = unfold(prefix_N, codes, levels - 1)
    residual_NP = x_NP - reconstruct(prefixes_NL, centroids_LKP)
    last_N = _choose_last_codes(residual_NP, prefix_N, centroids_LKP[-1], taken_ML)
    return np.column_stack([prefixes_NL, last_N])


def fold(codes_NL: Ints, codes: int) -> Ints:
    """Each row of codes as one number [N], in the rows' lexicographic order."""
    folded_N = np.zeros(len(codes_NL), np.int64)
    for level in range(codes_NL.shape[1]):
        folded_N = folded_N * codes + codes_NL[:, level]
    return folded_N


def unfold(folded_N: Ints, codes: int, levels: int) -> Ints:
    """The inverse of `fold`."""
    powers_L = codes ** np.arange(levels - 1, -1, -1, dtype=np.int64)
    return np.asarray(folded_N[:, None] // powers_L % codes)


class _Room:
    """How many last codes are free in each prefix."""

    def __init__(self, taken_M: Ints, codes: int) -> None:
        self.codes = codes
        self.prefixes, self.used = np.unique(taken_M, return_counts=True)

    def left(self, prefixes: Ints) -> Ints:
        if not len(self.prefixes):
            return np.full(prefixes.shape, self.codes)
        at = np.searchsorted(self.prefixes, prefixes).clip(max=len(self.prefixes) - 1)
        return self.codes - np.where(self.prefixes[at] == prefixes, self.used[at], 0)

    def admit(self, prefix_N: Ints, distance_N: Floats) -> np.ndarray:
        """Let each item into the prefix it asks for, the nearest first, while there is room. Returns who got in."""
        order_N = np.lexsort((distance_N, prefix_N))  # stable: equally near items keep their order
        sorted_N = prefix_N[order_N]
        rank_N = np.arange(len(sorted_N)) - np.searchsorted(sorted_N, sorted_N)
        admitted_N = np.empty(len(sorted_N), bool)
        admitted_N[order_N] = rank_N < self.left(sorted_N)
        both = np.concatenate([self.prefixes, prefix_N[admitted_N]])
        weights = np.concatenate([self.used, np.ones(admitted_N.sum(), np.int64)])
        self.prefixes, place = np.unique(both, return_inverse=True)
        self.used = np.bincount(place, weights).astype(np.int64)
        return admitted_N


def _choose_prefixes(x_NP: Floats, centroids_LKP: Floats, taken_M: Ints, candidates: int) -> Ints:
    """A prefix [N] for every item, none with more items than free last codes."""
    codes = centroids_LKP.shape[1]
    room = _Room(taken_M, codes)
    near_NL = nearest_codes(x_NP, centroids_LKP[:-1])
    prefix_N = fold(near_NL, codes)
    distance_N = ((x_NP - reconstruct(near_NL, centroids_LKP)) ** 2).sum(1)
    spilled = np.flatnonzero(~room.admit(prefix_N, distance_N))
    width = candidates
    while len(spilled):
        # Items with the same vector look at the same prefixes: search once for each distinct vector.
        x_UP, row_S = np.unique(x_NP[spilled], axis=0, return_inverse=True)
        near_UWL, distance_UW = nearest_prefixes(x_UP, centroids_LKP[:-1], width)
        near_UW = fold(near_UWL.reshape(-1, near_UWL.shape[2]), codes).reshape(distance_UW.shape)
        chosen_S = _spill(near_UW, distance_UW, row_S.ravel(), room)
        prefix_N[spilled] = chosen_S
        spilled = spilled[chosen_S < 0]
        width *= 2
    return prefix_N


def _spill(near_UW: Ints, distance_UW: Floats, row_S: Ints, room: _Room) -> Ints:
    """Rounds: every item asks for its nearest prefix with room, a prefix takes the nearest items. -1: none had room."""
    chosen_S = np.full(len(row_S), -1, np.int64)
    asking = np.arange(len(row_S))
    while len(asking):
        open_UW = room.left(near_UW) > 0
        asking = asking[open_UW[row_S[asking]].any(1)]
        rows = row_S[asking]
        first = open_UW.argmax(1)[rows]
        prefix = near_UW[rows, first]
        admitted = room.admit(prefix, distance_UW[rows, first])
        chosen_S[asking[admitted]] = prefix[admitted]
        asking = asking[~admitted]
    return chosen_S


def _choose_last_codes(residual_NP: Floats, prefix_N: Ints, last_KP: Floats, taken_ML: Ints) -> Ints:
    """A last code [N] for every item, distinct inside each prefix, at the least total squared distance."""
    codes = len(last_KP)
    last_N = nearest(residual_NP, last_KP)
    wanted_N = prefix_N * codes + last_N
    taken_M = np.sort(fold(taken_ML, codes))
    _, place_N, claims = np.unique(wanted_N, return_inverse=True, return_counts=True)
    contested_N = (claims[place_N] > 1) | np.isin(wanted_N, taken_M)
    from scipy.optimize import linear_sum_assignment  # noqa: PLC0415  (only giving codes needs it)

    order_N = np.argsort(prefix_N, kind="stable")
    for prefix in np.unique(prefix_N[contested_N]):
        low, high = np.searchsorted(prefix_N[order_N], [prefix, prefix + 1])
        group = order_N[low:high]
        low, high = np.searchsorted(taken_M, [prefix * codes, (prefix + 1) * codes])
        free = np.setdiff1d(np.arange(codes), taken_M[low:high] % codes)
        rows, columns = linear_sum_assignment(squared_distances(residual_NP[group], last_KP[free]))
        assert len(rows) == len(group), "a prefix has more items than free codes"
        last_N[group[rows]] = free[columns]
    return last_N
