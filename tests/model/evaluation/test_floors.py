"""The counted baselines and EASE against their formulas in dense numpy, and how scores become lists."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.evaluation.dataset import Interactions, leave_one_out
from model.evaluation.ease import REGULARISATION
from model.evaluation.lists import write_training_set
from model.evaluation.scored import ScoreRanker
from model.recommender.methods.base import PAD, Users
from model.recommender.registry import METHODS

HISTORY, WINDOW = 4, 9
"""So small that long users have many windows."""


@pytest.fixture(scope="module")
def training_set(data: Interactions, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("training_set")
    write_training_set(folder, data, leave_one_out(data), HISTORY, WINDOW, 0)
    return folder


def fit_sequences(data: Interactions) -> list[list[int]]:
    return [data.before(user, int(fit)).tolist() for user, fit in enumerate(leave_one_out(data).fit_U)]


def matrix(data: Interactions) -> np.ndarray:
    taken = np.zeros((len(data.user_ids), len(data.item_ids)))
    for user, items in enumerate(fit_sequences(data)):
        taken[user, items] = 1
    return taken[taken.any(axis=1)]


def knn(data: Interactions) -> np.ndarray:
    taken = matrix(data)
    together = taken.T @ np.diag(taken.sum(axis=1) ** -0.5) @ taken
    np.fill_diagonal(together, 0)
    count = np.maximum(taken.sum(axis=0), 1)
    return count[:, None] ** -0.5 * together * count[None] ** -0.25


def successor(data: Interactions) -> np.ndarray:
    follows = np.zeros((len(data.item_ids), len(data.item_ids)))
    for items in fit_sequences(data):
        for place, item in enumerate(items):
            for gap in (1, 2, 3):
                if place + gap < len(items):
                    follows[item, items[place + gap]] += 1 / gap
    sums = follows.sum(axis=1, keepdims=True)
    return np.divide(follows, sums, out=np.zeros_like(follows), where=sums > 0)


def ease(data: Interactions) -> np.ndarray:
    taken = matrix(data)
    inverse = np.linalg.inv(taken.T @ taken + REGULARISATION * np.eye(taken.shape[1]))
    weights = -inverse / np.diag(inverse)
    np.fill_diagonal(weights, 0)
    return weights


def decayed(history: list[int], weights: np.ndarray, decay: float) -> np.ndarray:
    return sum(decay**age * weights[item] for age, item in enumerate(reversed(history)))  # type: ignore[return-value]


def expected(name: str, data: Interactions, history: list[int]) -> np.ndarray:
    parts = {
        "item_knn": lambda: decayed(history, knn(data), 0.8),
        "successor": lambda: decayed(history, successor(data), 0.5),
        "ease": lambda: decayed(history, ease(data), 1.0),
    }
    if name != "cooccurrence":
        return parts[name]()
    scores = [parts["item_knn"](), parts["successor"]()]
    return sum(score / (score.max() or 1) for score in scores)  # type: ignore[return-value]


@pytest.mark.parametrize("name", ["item_knn", "successor", "cooccurrence", "ease"])
def test_scores_are_those_of_the_formula(name: str, data: Interactions, training_set: Path, tmp_path: Path) -> None:
    method = METHODS[name]
    request: dict[str, Any] = {"inputs": {"training_set": str(training_set)}, "output": str(tmp_path)}
    assert method.train(request)["targets"] == sum(map(len, fit_sequences(data)))
    ranker = method.load_ranker({"inputs": {name: str(tmp_path)}})
    histories = [[3], [5, 7, 9], [0, 4, 8, 12]]
    padded = np.array([items + [PAD] * (4 - len(items)) for items in histories])
    everything = np.ones(len(data.item_ids), bool)
    ranked = ranker.rank(Users(["a", "b", "c"], padded), padded[:, :0], everything, len(everything))
    for row, history in enumerate(histories):
        score = expected(name, data, history)
        assert ranked.scores_BK[row] == pytest.approx(np.sort(score)[::-1], abs=1e-5)
        assert score[ranked.items_BK[row]] == pytest.approx(ranked.scores_BK[row], abs=1e-5)


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 10_000), k=st.integers(1, 12))
def test_the_first_k_of_any_scores_with_ties_by_popularity(seed: int, k: int) -> None:
    rng = np.random.default_rng(seed)
    users, items = 5, 10
    score_BN = rng.integers(0, 4, (users, items)).astype(np.float32)
    count_N = rng.integers(0, 3, items)
    seen_BS = np.where(rng.random((users, 3)) < 0.5, rng.integers(0, items, (users, 3)), PAD)
    available_N = rng.random(items) < 0.8
    ranker = ScoreRanker(lambda history_BH: score_BN.copy(), count_N)
    ranked = ranker.rank(Users(list("abcde"), np.zeros((users, 1), np.int64)), seen_BS, available_N, k)
    for row in range(users):
        allowed = [item for item in range(items) if available_N[item] and item not in seen_BS[row]]
        best = sorted(allowed, key=lambda item: (-score_BN[row, item], -count_N[item], item))[:k]
        assert ranked.items_BK[row].tolist() == best + [PAD] * (k - len(best))
        assert ranked.scores_BK[row, : len(best)].tolist() == score_BN[row, best].tolist()
