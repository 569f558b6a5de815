"""Ranking metrics with one relevant item per case, averaged per user, with intervals over users.

A case is one target item and the ranked list for the moment before it. A user may have many cases; each user weighs the
same. Checked against ranx in the tests.

Shapes: C cases, K results, U users, M metrics, R bootstrap rounds.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

BOOTSTRAP_ROUNDS = 2000


@dataclass(frozen=True)
class Estimate:
    """A mean over users with its 95% bootstrap interval."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:.4f} [{self.low:.4f}, {self.high:.4f}]"


@dataclass(frozen=True)
class Comparison:
    """Mean of a - b over the same users, its 95% bootstrap interval, and the two-sided bootstrap p-value."""

    mean: float
    low: float
    high: float
    p_value: float

    def __str__(self) -> str:
        p = f"p = {self.p_value:.3f}" if self.p_value >= 0.001 else "p < 0.001"
        return f"{self.mean:+.4f} [{self.low:+.4f}, {self.high:+.4f}], {p}"

    @property
    def better(self) -> bool:
        """a beats b beyond noise."""
        return self.low > 0


def rank_of_target(items_CK: npt.NDArray[np.object_] | Ints, target_C: npt.NDArray[np.object_] | Ints) -> Ints:
    """0-based place of each case's target in its list; -1 when it is not there."""
    hit_CK = items_CK == target_C[:, None]
    return np.where(hit_CK.any(axis=1), hit_CK.argmax(axis=1), -1).astype(np.int64)


def hit_rate(rank_C: Ints, k: int) -> Floats:
    """HR@k of each case: 1 when the target stands among the first k."""
    return ((rank_C >= 0) & (rank_C < k)).astype(np.float64)


def ndcg(rank_C: Ints, k: int) -> Floats:
    """NDCG@k of each case; with one relevant item the ideal gain is 1."""
    return np.where((rank_C >= 0) & (rank_C < k), 1.0 / np.log2(np.maximum(rank_C, 0) + 2.0), 0.0)


def mrr(rank_C: Ints, k: int) -> Floats:
    """Reciprocal rank of each case, 0 when the target does not stand among the first k."""
    return np.where((rank_C >= 0) & (rank_C < k), 1.0 / (np.maximum(rank_C, 0) + 1.0), 0.0)


def per_user_mean(value_C: Floats, user_C: npt.NDArray[np.object_]) -> Floats:
    """Mean of each user's cases [U], users in the order of their ids: two calls on the same users line up."""
    _, user_index_C = np.unique(user_C, return_inverse=True)
    return np.bincount(user_index_C, weights=value_C) / np.bincount(user_index_C)


def estimates(values: dict[str, Floats], seed: int = 0) -> dict[str, Estimate]:
    """Mean and percentile interval of several values [U] of the same users. ValueError without users."""
    value_UM = np.stack(list(values.values()), axis=1)
    low_M, high_M = np.quantile(_bootstrap_means(value_UM, seed), (0.025, 0.975), axis=0)
    bounds = zip(values, value_UM.mean(axis=0), low_M, high_M, strict=True)
    return {name: Estimate(float(mean), float(low), float(high)) for name, mean, low, high in bounds}


def comparisons(a: dict[str, Floats], b: dict[str, Floats], seed: int = 0) -> dict[str, Comparison]:
    """Paired comparisons of a's values [U] with b's: the users are resampled, each with both of its values.

    ValueError when they do not line up.
    """
    a_UM, b_UM = (np.stack(list(values.values()), axis=1) for values in (a, b))
    if a_UM.shape != b_UM.shape:
        raise ValueError(f"Two runs to compare must have the same users: {a_UM.shape[0]} and {b_UM.shape[0]}.")
    difference_UM = a_UM - b_UM
    means_RM = _bootstrap_means(difference_UM, seed)
    low_M, high_M = np.quantile(means_RM, (0.025, 0.975), axis=0)
    tail_M = np.minimum((means_RM <= 0).mean(axis=0), (means_RM >= 0).mean(axis=0))
    columns = zip(a, difference_UM.mean(axis=0), low_M, high_M, np.minimum(1.0, 2 * tail_M), strict=True)
    return {name: Comparison(*map(float, numbers)) for name, *numbers in columns}


def _bootstrap_means(value_UM: Floats, seed: int) -> Floats:
    """Means [R,M] over users drawn again and again; one draw serves all the M values."""
    users = len(value_UM)
    if users == 0:
        raise ValueError("There are no test users to average over: widen promotion.holdout_days.")
    generator = np.random.default_rng(seed)
    return np.array([value_UM[generator.integers(0, users, users)].mean(axis=0) for _ in range(BOOTSTRAP_ROUNDS)])
