"""The state at a moment, from rows that say how it changed."""

from __future__ import annotations

from pyspark.sql import DataFrame
from pyspark.sql import functions as F
from pyspark.sql.window import Window


def newest_per_key(rows: DataFrame, key: str, time: str = "event_timestamp") -> DataFrame:
    """The newest row of each key. Times are unique per key: a table has one row for a key and day."""
    newest_first = Window.partitionBy(key).orderBy(F.col(time).desc())
    return rows.withColumn("_place", F.row_number().over(newest_first)).where("_place = 1").drop("_place")
