"""A list is used again only while everything that it was made from is as it was."""

from __future__ import annotations

import datetime as dt
from typing import Any

from pyspark.sql import SparkSession

from jobs.common.contracts import RECOMMENDATIONS
from jobs.transforms.reuse import reusable, with_input_hash

DAY = dt.date(2024, 3, 2)
USERS = "user_id string, history array<string>, seen array<string>"


def test_only_sound_recent_lists_of_unchanged_users_are_used_again(spark: SparkSession) -> None:
    names = ("same", "clicked", "saw", "old", "spoilt", "fallback", "odd", "gone")
    before = with_input_hash(spark.createDataFrame([(name, ["a", "b"], ["a"]) for name in names], USERS))
    lists: list[dict[str, Any]] = [
        {
            "user_id": row.user_id,
            "item_codes": ["0-0", "0-1"],
            "item_ids": ["c", "withdrawn" if row.user_id == "spoilt" else "d"],
            "scores": [-1.0, -2.0],
            "user_codes": "7-7",
            "source": "fallback" if row.user_id == "fallback" else "model",
            "problem": "odd" if row.user_id == "odd" else None,
            "input_hash": row.input_hash,
            "made_ds": DAY - dt.timedelta(days=row.user_id == "old"),
            "ds": DAY,
        }
        for row in before.collect()
    ]
    changed = {"clicked": (["b", "e"], ["a"]), "saw": (["a", "b"], ["a", "e"])}
    today = [(name, *changed.get(name, (["a", "b"], ["a"]))) for name in names if name != "gone"]
    kept = reusable(
        with_input_hash(spark.createDataFrame([*today, ("new", ["a", "b"], ["a"])], USERS)),
        spark.createDataFrame(lists, RECOMMENDATIONS),
        spark.createDataFrame([("withdrawn",)], "item_id string"),
        not_before=DAY,
    )
    assert [(row.user_id, row.user_codes) for row in kept.collect()] == [("same", "7-7")]
    assert set(kept.columns) == set(RECOMMENDATIONS.fieldNames())
