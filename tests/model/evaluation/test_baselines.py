"""Popularity: counts of targets, seen and unavailable items left out, ties by index."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from model.evaluation.baselines import POPULARITY, PopularityRanker
from model.recommender.methods.base import Users

USERS = Users(["a", "b"], np.zeros((2, 0), dtype=np.int64))


@pytest.fixture
def ranker(tmp_path: Path) -> PopularityRanker:
    training_set = tmp_path / "training_set"
    for folder in ("items", "sequences"):
        (training_set / folder).mkdir(parents=True)
    pq.write_table(pa.table({"item_index": range(5)}), training_set / "items" / "part-0.parquet")
    windows = {
        "user_id": ["u", "v", "w"],
        "items": [[0, 3, 3], [3, 1, -1], [1, 4, -1]],
        "targets": [[0, 1, 1], [1, 1, 0], [1, 1, 0]],
    }
    pq.write_table(pa.table(windows), training_set / "sequences" / "part-0.parquet")
    inputs = {"training_set": str(training_set), "popularity": str(tmp_path)}
    assert POPULARITY.train({"inputs": inputs, "output": str(tmp_path)}) == {"items": 5, "targets": 6}
    ranker = POPULARITY.load_ranker({"inputs": inputs})
    assert isinstance(ranker, PopularityRanker)
    return ranker


def test_context_is_not_counted_and_ties_go_to_the_smaller_index(ranker: PopularityRanker) -> None:
    ranked = ranker.rank(USERS, np.full((2, 1), -1), np.ones(5, dtype=bool), 5)
    assert ranked.items_BK.tolist() == [[3, 1, 4, 0, 2]] * 2
    assert ranked.scores_BK[0].tolist() == [3, 2, 1, 0, 0]


def test_seen_and_unavailable_items_are_left_out_and_the_rest_is_padded(ranker: PopularityRanker) -> None:
    available_N = np.array([True, True, True, True, False])
    ranked = ranker.rank(USERS, np.array([[3, -1], [1, 2]]), available_N, 4)
    assert ranked.items_BK.tolist() == [[1, 0, 2, -1], [3, 0, -1, -1]]
    assert ranked.scores_BK[0, -1] == -np.inf
