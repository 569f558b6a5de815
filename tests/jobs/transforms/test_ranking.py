"""Ranking on the executors gives what the ranker gives, by item id."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyspark.sql import DataFrame, SparkSession

from jobs.transforms.ranking import ItemIndex, RankingTask, _columns, rank
from model.evaluation.baselines import POPULARITY
from model.recommender.methods.base import Ranked


@pytest.fixture
def task(tmp_path: Path) -> RankingTask:
    """Popularity over five items, the last the most popular."""
    for folder in ("items", "sequences"):
        (tmp_path / folder).mkdir()
    pq.write_table(pa.table({"item_id": list("abcde")}), tmp_path / "items" / "part-0.parquet")
    pq.write_table(pa.table({"item_id": ["e", "gone"]}), tmp_path / "unavailable.parquet")
    windows = {
        "user_id": ["u", "v"],
        "items": [[0, 1, 2, 3, 4], [4, 4, 3, 2, -1]],
        "targets": [[1] * 5, [1, 1, 1, 1, 0]],
    }
    pq.write_table(pa.table(windows), tmp_path / "sequences" / "part-0.parquet")
    request: dict[str, Any] = {
        "inputs": {"training_set": str(tmp_path), "popularity": str(tmp_path)},
        "output": str(tmp_path),
    }
    POPULARITY.train(request)
    return RankingTask("popularity", request, [str(tmp_path / "items")], k=3, protocols=(True, False))


@pytest.fixture
def users(spark: SparkSession) -> DataFrame:
    schema = "key string, history array<string>, seen array<string>"
    rows = [("x", ["a", "b"], ["e", "unknown"]), ("y", [], []), ("z", ["d"], ["a", "b", "c", "d"])]
    return spark.createDataFrame(rows, schema)


def test_both_protocols_for_every_user(users: DataFrame, task: RankingTask) -> None:
    lists = {(row.key, row.masked): row.item_ids for row in rank(users, task).collect()}
    assert lists == {
        ("x", True): ["c", "d", "a"],
        ("x", False): ["e", "c", "d"],
        ("y", True): ["e", "c", "d"],
        ("y", False): ["e", "c", "d"],
        ("z", True): ["e"],
        ("z", False): ["e", "c", "d"],
    }


def test_unavailable_items_are_never_listed(users: DataFrame, task: RankingTask, tmp_path: Path) -> None:
    from dataclasses import replace

    masked = replace(task, unavailable_file=str(tmp_path / "unavailable.parquet"))
    assert all("e" not in row.item_ids for row in rank(users, masked).collect())


def test_lists_do_not_depend_on_the_partitions(users: DataFrame, task: RankingTask) -> None:
    one, three = (sorted(map(str, rank(users.repartition(n), task).collect())) for n in (1, 3))
    assert one == three


def test_a_row_that_cannot_be_ranked_as_it_should_be_is_flagged(spark: SparkSession, task: RankingTask) -> None:
    schema = "key string, history array<string>, seen array<string>, colour string"
    rows = [
        ("fine", ["a", None, "gone"], ["e"] * 3000, "red"),
        ("no history", None, None, "blue"),
        ("unknown", ["gone", "went"], [], None),
        ("new", [], [None], None),
    ]
    found = {
        row.key: row for row in rank(spark.createDataFrame(rows, schema), task, ["colour"]).where("masked").collect()
    }
    assert {key: row.problem for key, row in found.items()} == {
        "fine": None,
        "no history": "the history is null",
        "unknown": "no item of the history has a code",
        "new": None,
    }
    assert {key: row.item_ids[0] for key, row in found.items()} == dict.fromkeys(found, "e") | {"fine": "c"}
    assert found["no history"].colour == "blue"


def test_scores_that_are_no_numbers_make_no_list() -> None:
    items_BK = np.array([[2, 1], [0, -1]])
    scores_BK = np.array([[0.5, np.nan], [0.1, -np.inf]], np.float32)
    codes_BKL = np.array([[[0, 2], [0, 1]], [[0, 0], [-1, -1]]])
    columns = _columns(
        ["a", "b"], True, np.array(["x", "y", "z"], object), Ranked(items_BK, codes_BKL, scores_BK), [None] * 2
    )
    assert columns["item_ids"].to_pylist() == [[], ["x"]]
    assert columns["item_codes"].to_pylist() == [[], ["0-0"]]
    assert columns["problem"].to_pylist() == ["the scores are no numbers", None]
    assert columns["user_codes"].to_pylist() == [None, None]


def test_users_bear_the_code_that_the_ranker_gave_them() -> None:
    items_BK, codes_BKL = np.array([[0], [0]]), np.zeros((2, 1, 2), np.int64)
    ranked = Ranked(items_BK, codes_BKL, np.zeros((2, 1), np.float32), np.array([[0, 12], [-1, -1]]))
    columns = _columns(["a", "new"], True, np.array(["x"], object), ranked, [None] * 2)
    assert columns["user_codes"].to_pylist() == ["0-12", None]


def test_item_index_pads_and_leaves_unknown_ids_out(task: RankingTask) -> None:
    index = ItemIndex(task.item_files)
    assert index.pad([["b", "unknown", "a"], [], ["e"]]).tolist() == [[1, 0], [-1, -1], [4, -1]]
    assert index.pad([]).shape == (0, 0)
