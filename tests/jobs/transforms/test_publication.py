"""The gate's defects one by one, tombstones, the popularity list, the rule of the newest row."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pytest
from pyspark.sql import DataFrame, SparkSession

from jobs.common.contracts import RECOMMENDATIONS
from jobs.transforms import publication
from jobs.transforms.publication import Stamp

DAY = dt.date(2024, 5, 1)
MOMENT = dt.datetime(2024, 5, 2, tzinfo=dt.UTC)
STAMP = Stamp(MOMENT + dt.timedelta(milliseconds=7), MOMENT + dt.timedelta(days=2))
GOOD = {"user_id": "ann", "item_codes": ["1-0", "2-0"], "item_ids": ["i1", "i2"], "scores": [2.0, 1.0]}


def lists(spark: SparkSession, *rows: dict[str, Any]) -> DataFrame:
    """Rows like GOOD but for the columns given."""
    more = {"user_codes": None, "source": "model", "problem": None, "input_hash": 0, "made_ds": DAY, "ds": DAY}
    return spark.createDataFrame([GOOD | more | row for row in rows], RECOMMENDATIONS)


@pytest.fixture
def catalogue(spark: SparkSession) -> DataFrame:
    rows = [("i1", True), ("i2", True), ("i3", False), ("i4", True)]
    return spark.createDataFrame(rows, "item_id string, available boolean")


@pytest.fixture
def codes(spark: SparkSession) -> DataFrame:
    rows = [("i1", "1-0"), ("i2", "2-0"), ("i3", "3-0"), ("i4", "4-0")]
    return spark.createDataFrame(rows, "item_id string, codes string")


def test_good_lists_have_no_defect(spark: SparkSession, catalogue: DataFrame, codes: DataFrame) -> None:
    empty = {"user_id": "bob", "item_codes": [], "item_ids": [], "scores": [], "source": "fallback"}
    assert publication.defects(lists(spark, {}, empty), catalogue, codes).collect() == []


def test_each_defect_is_found_and_counted(spark: SparkSession, catalogue: DataFrame, codes: DataFrame) -> None:
    changes: list[dict[str, Any]] = [
        {"item_ids": ["i1", "i9"]},
        {"item_ids": ["i1", "i3"], "item_codes": ["1-0", "3-0"]},
        {"item_codes": ["1-0", "7-7"]},
        {"item_codes": ["1-0", "4-0"]},
        {"scores": [1.0]},
        {"scores": [1.0, None]},
        {"item_ids": ["i1", "i1"], "item_codes": ["1-0", "1-0"]},
        {"item_ids": [], "item_codes": [], "scores": []},
        {"source": "guess"},
        {"user_id": "user 0"},
    ]
    rows = [{"user_id": f"user {n}"} | change for n, change in enumerate(changes)]
    found = publication.defects(lists(spark, *rows), catalogue, codes).collect()
    assert {row.reason: (row.rows, row.example) for row in found} == {
        "listed items that the catalogue does not know": (1, "i9"),
        "listed items that are not available": (1, "i3"),
        "codes that name no item of the codebook (invalid rate above 0)": (1, "i2"),
        "codes that name another item of the codebook": (2, "i2"),  # i9 under the code of i2, i2 under that of i4
        "lists of unequal length": (1, None),
        "lists with a null": (1, None),
        "lists with an item twice": (1, None),
        "empty lists from the model": (1, None),
        "sources other than model and fallback": (1, None),
        "users with more than one list": (1, None),
    }


def test_codes_are_joined_in_the_order_of_levels(spark: SparkSession) -> None:
    names = [f"code_{level}" for level in (10, 2, 0, 1)]
    items = spark.createDataFrame([("i1", 9, 3, 1, 2)], f"item_id string, {', '.join(f'{name} int' for name in names)}")
    assert publication.item_codes(items).collect() == [("i1", "1-2-3-9")]


def test_what_lists_are_like_is_measured_of_those_with_items(spark: SparkSession) -> None:
    now = lists(
        spark,
        {"item_ids": ["a", "b", "c"]},
        {"user_id": "bob", "item_ids": ["a", "d"]},
        {"user_id": "new", "item_ids": ["e", "f", "g"]},
        {"user_id": "fallback", "item_ids": []},
    )
    before = lists(spark, {"item_ids": ["c", "b", "z"]}, {"user_id": "bob", "item_ids": ["y"]})
    (row,) = publication.list_figures(now, before, ["a", "c", "x"], 3).collect()
    assert row.users == 3
    assert (row.full, row.popular, row.overlap) == pytest.approx((2 / 3, 3 / 8, (2 / 3 + 0) / 2))
    (row,) = publication.list_figures(now, before.limit(0), [], 3).collect()
    assert (row.popular, row.overlap) == (0, None)


def test_users_who_vanished_get_an_empty_list_and_come_back(spark: SparkSession) -> None:
    online = spark.createDataFrame([("ann",), ("bob",)], "user_id string")
    everyone = publication.with_tombstones(lists(spark, {}), online)
    stored = publication.stored_lists(everyone, "model/1", "codebook/1", MOMENT, STAMP)
    rows = {row.user_id: row for row in stored.collect()}
    assert rows["ann"].stored_item_ids == ["i1", "i2"]
    assert (rows["bob"].stored_item_ids, rows["bob"].stored_scores, rows["bob"].stored_source) == ([], [], "fallback")
    assert stored.select("event_timestamp", "stored_valid_until").distinct().count() == 1
    known = publication.published_lists(stored)
    assert known.collect() == lists(spark, {}).select(known.columns).collect()


def test_users_without_a_code_any_more_get_nulls(spark: SparkSession) -> None:
    coded = spark.createDataFrame([("ann", "1-0"), ("new", "1-0")], "user_id string, codes string")
    online = spark.createDataFrame([("ann",), ("bob",)], "user_id string")
    rows = publication.user_codes(coded, online, "codebook/1", STAMP)
    assert {row.user_id: (row.codes, row.codebook_version) for row in rows.collect()} == {
        "ann": ("1-0", "codebook/1"),
        "new": ("1-0", "codebook/1"),
        "bob": (None, None),
    }
    assert rows.select("event_timestamp").distinct().count() == 1


def test_popularity_weighs_events_of_available_coded_items(
    spark: SparkSession, catalogue: DataFrame, codes: DataFrame
) -> None:
    bought = ["i2", "i4", *["i3", "i5"] * 9]
    rows = [*((item, "buy") for item in bought), *[("i1", "view")] * 3, *[("i1", "unknown type")] * 5]
    events = spark.createDataFrame(rows, "item_id string, event_type string")
    found = publication.popular_items(events, {"buy": 1.0, "view": 0.5}, catalogue, codes, length=2).collect()
    assert found == [("i1", "1-0", 1.5), ("i2", "2-0", 1.0)]


def test_only_a_keys_newest_row_of_all_goes_online(spark: SparkSession) -> None:
    schema = "user_id string, event_timestamp timestamp, n int"
    earlier, later = MOMENT - dt.timedelta(days=1), MOMENT + dt.timedelta(days=1)
    rows = spark.createDataFrame([("ann", MOMENT, 1), ("bob", earlier, 2), ("bob", MOMENT, 3)], schema)
    beyond = spark.createDataFrame([("ann", later, 4)], schema)
    found = publication.newest_in_lake(rows, beyond, "user_id", STAMP.event_timestamp).collect()
    assert [(row.user_id, row.n, row.event_timestamp.microsecond) for row in found] == [("bob", 3, 7000)]
