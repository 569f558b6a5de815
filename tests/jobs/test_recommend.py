"""Which items the lists of a day leave out."""

import datetime as dt

from pyspark.sql import SparkSession

from jobs.recommend import unavailable_items


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
