"""User histories: a user's newest events, as they stood at the end of each day that the user was active (ours)."""

from __future__ import annotations

import datetime as dt

from pyspark.sql import DataFrame, Window
from pyspark.sql import functions as F

from jobs.common.contracts import EVENT_ORDER

HASHES = 2**22
"""How many different hashes of users `of_users` may hand to every machine: tens of megabytes at most."""


def user_histories(events: DataFrame, start: dt.date, end: dt.date, max_items: int) -> DataFrame:
    """Rows of the table user_history for the days start..end, both included.

    `events` holds all events up to `end`. Only those of users active in start..end are sorted, so a day's cost follows
    the day's users. A user's events are cut into blocks of `max_items`: a row's events lie in the block of its newest
    one and the block before, so the cost follows events and rows, and no value outgrows two blocks.
    """
    in_range = F.col("ds").between(F.lit(start), F.lit(end))
    past = of_users(events.where(F.col("ds") <= F.lit(end)), events.where(in_range).select("user_id"))

    ordered = Window.partitionBy("user_id").orderBy(*EVENT_ORDER)
    gap = F.unix_timestamp("event_time") - F.unix_timestamp(F.lag("event_time").over(ordered))
    place = F.row_number().over(ordered)
    event = F.struct(
        place.alias("place"), "item_id", "event_type", "event_time", F.coalesce(gap, F.lit(0)).alias("gap")
    )
    numbered = past.select(
        "user_id",
        "ds",
        place.alias("place"),
        F.floor((place - 1) / max_items).alias("block"),
        event.alias("event"),
        F.lead("ds").over(ordered).alias("next_ds"),
    )
    ends_day = in_range & (F.col("next_ds").isNull() | (F.col("next_ds") > F.col("ds")))
    blocks = numbered.groupBy("user_id", "block").agg(
        F.array_sort(F.collect_list("event")).alias("own"),
        F.collect_list(F.when(ends_day, F.struct("ds", F.col("place").alias("events_total")))).alias("rows"),
    )
    before = F.lag("own", 1).over(Window.partitionBy("user_id").orderBy("block"))
    known = F.concat(F.coalesce(before, F.slice("own", 1, 0)), "own")
    rows = blocks.select("user_id", known.alias("known"), "rows").select("user_id", "known", F.inline("rows"))
    # The place of a row's newest event among `known`: places count from 1, blocks are full but for the last.
    newest = F.col("events_total") - F.col("known")[0]["place"] + 1
    history = F.slice("known", F.greatest(newest - max_items, F.lit(0)) + 1, F.least(newest, F.lit(max_items)))
    return rows.select("user_id", "ds", "events_total", history.alias("history")).select(
        "user_id",
        F.col("history.item_id").alias("item_ids"),
        F.col("history.event_type").alias("event_types"),
        F.col("history.event_time").alias("event_times"),
        F.col("history.gap").alias("seconds_since_previous"),
        F.col("events_total").cast("bigint").alias("events_total"),
        F.date_add("ds", 1).cast("timestamp").alias("event_timestamp"),
        "ds",
    )


def of_users(rows: DataFrame, users: DataFrame) -> DataFrame:
    """The rows whose user_id is among `users`, in one pass over `rows` that shuffles little else.

    Where rows are read, those of other users are sorted out by a hash of the user. Its values go to every machine: they
    have a bound, and users have none. Who shares a hash by chance is sorted out after that.
    """
    number = F.pmod(F.xxhash64("user_id"), F.lit(HASHES))
    numbers = users.select(number.alias("number")).distinct()
    likely = rows.withColumn("number", number).join(F.broadcast(numbers), "number", "left_semi").drop("number")
    return likely.join(users.distinct(), "user_id", "left_semi")


def changed_events(before: DataFrame, after: DataFrame) -> DataFrame:
    """When the events of a user (user_id) first differ between two states of some days, as `first_ds`."""
    changed = after.subtract(before).unionByName(before.subtract(after))
    return changed.groupBy("user_id").agg(F.min("ds").alias("first_ds"))


def stale_histories(histories: DataFrame, changed: DataFrame) -> DataFrame:
    """Rows of user_history that no longer follow from the events; `changed` as `changed_events` gives it.

    An event that came late or went away changes every later row of its user, if only in `events_total`.
    """
    later = F.col("ds") >= F.col("first_ds")
    return histories.join(changed, "user_id").where(later).select(*histories.columns)
