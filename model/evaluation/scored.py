"""Rankers that give every item a score: block by block of users, so that no users-by-items matrix is ever held.

Shapes: B users, H history items, S seen items, N items, K results.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from model.recommender.methods.base import PAD, Bools, Ints, Ranked, Users

Scores = npt.NDArray[np.float32]

BLOCK_USERS = 256


class ScoreRanker:
    """Items by the scores of `score`: histories [B,H] -> [B,N].

    Ties go to the more popular item, by `count_N`, then to the smaller index.
    """

    def __init__(self, score: Callable[[Ints], Scores], count_N: Ints) -> None:
        self._score = score
        self._popular_N = np.lexsort((np.arange(count_N.size), -count_N))

    def rank(self, users: Users, seen_BS: Ints, available_N: Bools, k: int) -> Ranked:
        blocks = [slice(start, start + BLOCK_USERS) for start in range(0, len(users.ids), BLOCK_USERS)]
        parts = [self._rank_block(users.history_BH[one], seen_BS[one], available_N, k) for one in blocks]
        items_BK, scores_BK = (np.concatenate(sides) for sides in zip(*parts, strict=True))
        return Ranked(items_BK, np.empty((*items_BK.shape, 0), dtype=np.int64), scores_BK)

    def _rank_block(self, history_BH: Ints, seen_BS: Ints, available_N: Bools, k: int) -> tuple[Ints, Scores]:
        score_BN = self._score(history_BH)
        score_BN[:, ~available_N] = -np.inf
        row_B = np.arange(len(score_BN))[:, None]
        score_BN[np.broadcast_to(row_B, seen_BS.shape)[seen_BS != PAD], seen_BS[seen_BS != PAD]] = -np.inf
        # In the order of popularity, a stable sort of those at or above the k-th score breaks ties as promised.
        score_BN = score_BN[:, self._popular_N]
        least_B = np.partition(score_BN, -min(k, score_BN.shape[1]), axis=1)[:, -min(k, score_BN.shape[1])]
        items_BK = np.full((len(score_BN), k), PAD, dtype=np.int64)
        scores_BK = np.full((len(score_BN), k), -np.inf, dtype=np.float32)
        for row, (score_N, least) in enumerate(zip(score_BN, least_B, strict=True)):
            above = np.flatnonzero(score_N > least)
            at = np.flatnonzero(score_N == least)[: k - above.size] if np.isfinite(least) else above[:0]
            chosen = np.concatenate([above[np.argsort(-score_N[above], kind="stable")], at])
            items_BK[row, : chosen.size] = self._popular_N[chosen]
            scores_BK[row, : chosen.size] = score_N[chosen]
        return items_BK, scores_BK
