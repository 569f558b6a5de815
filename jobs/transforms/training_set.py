"""Training sequences: per user and active day, what was known at 00:00 and then the day's own events (ours).

The events of a long day are cut into windows of W items. Window k covers the positions [k (W - H), k (W - H) + W) of
context + day, so it begins with the H items before its first target, and every event is a target in exactly one window:

    context (c <= H)  day
    ccc               dddddddd|dddd|dd        targets of windows 0, 1, 2
    [        W       ]
            [   H    |W-H ]

H = history_items, W = window_items.
"""

from __future__ import annotations

from collections.abc import Iterable

from pyspark.sql import DataFrame, Window
from pyspark.sql import functions as F

from jobs.common.contracts import EVENT_ORDER

PAD = -1


def active_days(events: DataFrame) -> DataFrame:
    """The moments to ask for histories: user_id, event_timestamp (00:00 of each day that the user was active)."""
    return events.select("user_id", F.col("ds").cast("timestamp").alias("event_timestamp")).distinct()


def before_last_targets(events: DataFrame, target_types: Iterable[str], held_out: int) -> DataFrame:
    """Each user's events before the `held_out` last of a target type; a user with fewer of them has none left."""
    is_target = F.col("event_type").isin(*target_types)
    newest_first = Window.partitionBy("user_id").orderBy(*(F.desc(name) for name in EVENT_ORDER))
    targets_after = F.sum(is_target.cast("int")).over(newest_first.rowsBetween(Window.unboundedPreceding, -1))
    return (
        events.withColumn("targets_after", F.coalesce(targets_after, F.lit(0)))
        .where(F.col("targets_after") >= held_out)
        .drop("targets_after")
    )


def training_items(item_text: DataFrame) -> DataFrame:
    """Rows of the training set's items: item_index 0..N-1 in the order of item_id. `item_text` has one row per item."""
    # One task numbers all items: a catalogue fits, and the index must have no holes.
    index = F.row_number().over(Window.orderBy("item_id")) - 1
    return item_text.select(index.cast("int").alias("item_index"), "item_id", "title", "text", "text_hash")


def day_sequences(
    events: DataFrame, histories: DataFrame, items: DataFrame, target_types: Iterable[str], history_items: int
) -> DataFrame:
    """Per user and active day: context, then the day's events in order, without items that have no index.

    `histories`: user_id, event_timestamp (00:00 of the active day), item_ids (oldest first; null for a new user).
    Columns: user_id, ds, entries (array of struct position, item_index, is_context, is_target), context (its length).
    """
    days = events.groupBy("user_id", "ds").agg(F.array_sort(F.collect_list(F.struct(*EVENT_ORDER))).alias("day"))
    before = histories.select("user_id", F.to_date("event_timestamp").alias("ds"), "item_ids")
    known = F.coalesce("item_ids", F.array().cast("array<string>"))
    newest = F.slice(known, F.greatest(F.size(known) - history_items, F.lit(0)) + 1, history_items)
    context = F.transform(
        newest,
        lambda item: F.struct(item.alias("item_id"), F.lit(True).alias("is_context"), F.lit(False).alias("is_target")),
    )
    own = F.transform(
        "day",
        lambda event: F.struct(
            event["item_id"].alias("item_id"),
            F.lit(False).alias("is_context"),
            event["event_type"].isin(*target_types).alias("is_target"),
        ),
    )
    return (
        days.join(before, ["user_id", "ds"], "left")
        .select("user_id", "ds", F.posexplode(F.concat(context, own)).alias("position", "entry"))
        .select("user_id", "ds", "position", "entry.*")
        .join(items.select("item_id", "item_index"), "item_id")
        .groupBy("user_id", "ds")
        .agg(
            F.array_sort(F.collect_list(F.struct("position", "item_index", "is_context", "is_target"))).alias(
                "entries"
            ),
            F.count_if("is_context").cast("int").alias("context"),
        )
    )


def windows(sequences: DataFrame, history_items: int, window_items: int) -> DataFrame:
    """Rows of the training set's sequences, from what `day_sequences` gives; windows without a target are left out."""
    assert 0 < history_items < window_items
    step = window_items - history_items
    last = F.greatest(F.ceil((F.size("entries") - window_items) / step), F.lit(0))
    cut = sequences.select("*", F.explode(F.sequence(F.lit(0), last.cast("int"))).alias("k")).select(
        "user_id",
        "ds",
        F.slice("entries", F.col("k") * step + 1, window_items).alias("window"),
        F.when(F.col("k") == 0, F.col("context")).otherwise(history_items).alias("first_target"),
    )
    padding = window_items - F.size("window")
    item_indices = F.transform("window", lambda entry: entry["item_index"])
    targets = F.transform("window", lambda entry, i: (entry["is_target"] & (i >= F.col("first_target"))).cast("int"))
    padded = cut.select(
        "user_id",
        F.col("ds").cast("string").alias("ds"),
        F.concat(item_indices, F.array_repeat(F.lit(PAD), padding)).alias("items"),
        F.concat(targets, F.array_repeat(F.lit(0), padding)).alias("targets"),
    )
    return padded.where(F.array_contains("targets", 1))
