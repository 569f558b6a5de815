"""Rankers that give every item a score: block by block of users, so that no users-by-items matrix is ever held.

Shapes: B users, H history items, S seen items, N items, K results.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch

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
        return top_k(torch.from_numpy(score_BN), k, self._popular_N)


def top_k(score_BN: torch.Tensor, k: int, first_N: Ints | None = None) -> tuple[Ints, Scores]:
    """The k best items of each row [B,k], -1 where too few have a score above -inf, and their scores [B,k].

    `first_N`: all items, in the order that decides between equal scores; without it the smaller index comes first.
    """
    first_N = np.arange(score_BN.shape[1]) if first_N is None else first_N
    place_N = np.argsort(first_N)
    places = min(k, score_BN.shape[1])
    best = torch.topk(score_BN, min(places + 1, score_BN.shape[1]))
    values_BX, items_BK = best.values.cpu().numpy(), best.indices[:, :places].cpu().numpy()
    scores_BK = values_BX[:, :places].copy()
    # The first that found no place tells where others of the same score did: the first of them have to.
    for row in np.flatnonzero((values_BX[:, places:] == values_BX[:, places - 1 : places]).any(axis=1)):
        least = scores_BK[row, -1]
        equal = first_N[score_BN[row].cpu().numpy()[first_N] == least]
        above = scores_BK[row] > least
        items_BK[row] = np.concatenate([items_BK[row, above], equal[: places - above.sum()]])
        scores_BK[row] = np.concatenate([scores_BK[row, above], np.full(places - above.sum(), least)])
    order_BK = np.lexsort((place_N[items_BK], -scores_BK), axis=1)
    items_BK, scores_BK = (np.take_along_axis(one, order_BK, axis=1) for one in (items_BK, scores_BK))
    items_BK[np.isneginf(scores_BK)] = PAD
    rest = ((0, 0), (0, k - places))
    return np.pad(items_BK, rest, constant_values=PAD), np.pad(scores_BK, rest, constant_values=-np.inf)
