"""Test cases of a temporal split: later events as targets, each with the history before it."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence

from pyspark.sql import DataFrame
from pyspark.sql import functions as F
from pyspark.sql.window import Window

from jobs.common.contracts import EVENT_ORDER


def holdout_cases(
    events: DataFrame,
    *,
    start: dt.datetime,
    target_types: Sequence[str],
    masking_types: Sequence[str],
    history_items: int,
    max_users: int,
    max_targets_per_user: int,
) -> DataFrame:
    """Cases (key, user_id, target, history_length, history, seen) for events from `start` on whose type is a target.

    `history_length` counts all the user's earlier events; `history` holds the newest `history_items` items before the
    target, the test window's earlier ones included; `seen` every earlier item of a masking type. A hash of the user and
    of the position draws users and targets within the limits, so the same events give the same cases. A user's first
    event has no history, and is no case.
    """
    positions = _positions(events).withColumn(
        "is_case",
        (F.col("event_time") >= F.lit(start)) & F.col("event_type").isin(*target_types) & (F.col("position") > 1),
    )
    users = (
        positions.where("is_case")
        .select("user_id")
        .distinct()
        .orderBy(F.xxhash64("user_id"), "user_id")
        .limit(max_users)
    )
    drawn = Window.partitionBy("user_id").orderBy(F.xxhash64("user_id", "position"), "position")
    cases = (
        positions.where("is_case")
        .join(users, "user_id", "left_semi")
        .withColumn("place", F.row_number().over(drawn))
        .where(F.col("place") <= max_targets_per_user)
        .select("user_id", "position", F.col("item_id").alias("target"))
    )
    past = (
        positions.join(users, "user_id", "left_semi")
        .withColumn("masks", F.col("event_type").isin(*masking_types))
        .groupBy("user_id")
        .agg(F.array_sort(F.collect_list(F.struct("position", "item_id", "masks"))).alias("past"))
    )
    before = F.slice("past", 1, F.col("position") - 1)
    length = F.least(F.col("position") - 1, F.lit(history_items))
    return (
        cases.join(past, "user_id")
        .withColumn("before", before)
        .select(
            F.concat_ws("#", "user_id", "position").alias("key"),
            "user_id",
            "target",
            (F.col("position") - 1).alias("history_length"),
            F.slice("before.item_id", F.col("position") - length, length).alias("history"),
            F.array_distinct(F.filter("before", lambda event: event["masks"])["item_id"]).alias("seen"),
        )
    )


def training_counts(items: DataFrame, sequences: DataFrame) -> DataFrame:
    """(item_id, count): how often each item of a training set is a target in it."""
    pairs = sequences.select(F.explode(F.arrays_zip("items", "targets")).alias("pair")).where("pair.targets = 1")
    counts = pairs.groupBy(F.col("pair.items").alias("item_index")).count()
    return items.join(counts, "item_index", "left").select("item_id", F.coalesce("count", F.lit(0)).alias("count"))


def _positions(events: DataFrame) -> DataFrame:
    """1-based place of each event in its user's past."""
    order = Window.partitionBy("user_id").orderBy(*EVENT_ORDER)
    return events.withColumn("position", F.row_number().over(order))
