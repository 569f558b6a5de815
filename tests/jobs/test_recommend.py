"""Which items the lists of a day leave out, and when another day's lists may be used again."""

from __future__ import annotations

import dataclasses
import datetime as dt
import logging

import pytest
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from jobs.common.contracts import daily_table
from jobs.common.settings import Settings
from jobs.recommend import _earlier, _lists, recommend, unavailable_items
from jobs.transforms.ranking import RANKED
from model.generation import Generation, Manifest

DAY = dt.date(2024, 5, 3)
NOW = Manifest(settings={"method": "m", "top_k": 20}, parents={"model": "model/all/000002"}, code_version="v2")


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({}, "lists of 2024-05-01 are used again"),
        ({"settings": {"method": "m", "top_k": 10}}, "top_k was 10, is 20"),
        ({"parents": {"model": "model/all/000001"}}, "model was model/all/000001, is model/all/000002"),
        ({"code_version": "v1"}, "code_version was v1, is v2"),
    ],
    ids=["the same", "settings", "model", "code"],
)
def test_the_newest_lists_before_are_used_again_if_made_by_the_same(
    settings: Settings, caplog: pytest.LogCaptureFixture, change: dict[str, object], why: str
) -> None:
    table = daily_table(settings, "recommendations")
    with caplog.at_level(logging.INFO):
        assert _earlier(table, DAY, NOW) is None
        assert "no lists of a day before" in caplog.text
        for day in (1, 3, 4):
            key = {"from": f"2024-05-0{day}", "to": f"2024-05-0{day}"}
            table.store.begin().commit(dataclasses.replace(NOW, key=key, **change))
        assert _earlier(table, DAY, NOW) == (None if change else dt.date(2024, 5, 1))
    assert why in caplog.text


def test_a_day_without_features_is_refused(settings: Settings, spark: SparkSession) -> None:
    live = Generation("model", 1, "model/all/000001", Manifest(parents={"codebook": "codebook/all/000001"}))
    with pytest.raises(ValueError, match=r"Run: python -m jobs\.build_user_histories --from 2024-05-03"):
        recommend(spark, settings, live, DAY)


def test_user_codes_stand_in_the_table(settings: Settings, spark: SparkSession) -> None:
    rows = [("ann", True, ["i1"], ["1-0"], [0.5], "7-7", None, 1), ("new", True, [], [], [], None, None, 2)]
    lists = _lists(spark.createDataFrame(rows, f"{RANKED}, input_hash long"))
    table = daily_table(settings, "recommendations")
    table.write(lists.withColumns({"made_ds": F.lit(DAY), "ds": F.lit(DAY)}), DAY, DAY, NOW)
    found = {row.user_id: (row.user_codes, row.source) for row in table.read(spark, DAY, DAY).collect()}
    assert found == {"ann": ("7-7", "model"), "new": (None, "fallback")}


def test_items_that_went_or_are_yet_to_come_are_left_out(spark: SparkSession) -> None:
    first, second = dt.datetime(2024, 3, 2, tzinfo=dt.UTC), dt.datetime(2024, 3, 3, tzinfo=dt.UTC)
    coded = spark.createDataFrame(
        [(item, "0-0") for item in ("there", "gone", "back", "later")], "item_id string, codes string"
    )
    item_text = spark.createDataFrame(
        [
            ("there", True, first),
            ("gone", True, first),
            ("gone", False, second),
            ("back", False, first),
            ("back", True, second),
            ("without a code", False, first),
        ],
        "item_id string, available boolean, event_timestamp timestamp",
    )
    left_out = {row.item_id for row in unavailable_items(coded, item_text).collect()}
    assert left_out == {"gone", "later"}
