"""Ranking metrics with one relevant item per case, averaged per user, with intervals over users.

Shapes: C cases, K results, U users, R bootstrap rounds. A case is one target item and the ranked list for the moment
before it. A user may have many cases; each user weighs the same. Checked against ranx in the tests.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

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

    def to_json(self) -> dict[str, float]:
        return asdict(self)


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


def per_user_mean(value_C: Floats, user_C: npt.NDArray[np.object_]) -> Floats:
    """Mean of each user's cases [U], users in the order of their ids: two calls on the same users line up."""
    _, user_index_C = np.unique(user_C, return_inverse=True)
    return np.bincount(user_index_C, weights=value_C) / np.bincount(user_index_C)


def estimate(value_U: Floats, seed: int = 0) -> Estimate:
    """Mean and percentile interval. ValueError without users."""
    low, high = np.quantile(_bootstrap_means(value_U, seed), (0.025, 0.975))
    return Estimate(float(value_U.mean()), float(low), float(high))


def compare(a_U: Floats, b_U: Floats, seed: int = 0) -> Comparison:
    """Paired comparison: the users are resampled, each with both of its values. ValueError when they do not line up."""
    if a_U.shape != b_U.shape:
        raise ValueError(f"Two runs to compare must have the same users: {a_U.shape[0]} and {b_U.shape[0]}.")
    difference_U = a_U - b_U
    means_R = _bootstrap_means(difference_U, seed)
    low, high = np.quantile(means_R, (0.025, 0.975))
    tail = min((means_R <= 0).mean(), (means_R >= 0).mean())
    return Comparison(float(difference_U.mean()), float(low), float(high), min(1.0, 2 * float(tail)))


def _bootstrap_means(value_U: Floats, seed: int) -> Floats:
    if value_U.size == 0:
        raise ValueError("There are no test users to average over: widen promotion.holdout_days.")
    generator = np.random.default_rng(seed)
    return np.array(
        [value_U[generator.integers(0, value_U.size, value_U.size)].mean() for _ in range(BOOTSTRAP_ROUNDS)]
    )
