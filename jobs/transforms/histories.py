"""User histories: a user's newest events, as they stood at the end of each day that the user was active (ours)."""

from __future__ import annotations

import datetime as dt

from pyspark.sql import DataFrame, Window
from pyspark.sql import functions as F

from jobs.common.contracts import EVENT_ORDER


def user_histories(events: DataFrame, start: dt.date, end: dt.date, max_items: int) -> DataFrame:
    """Rows of the table user_history for the days start..end, both included.

    `events` holds all events up to `end`. Only those of users active in start..end are sorted, so a day's cost follows
    the day's users; a range costs `max_items` per event, however many days a user was active.
    """
    in_range = F.col("ds").between(F.lit(start), F.lit(end))
    active = events.where(in_range).select("user_id").distinct()
    past = events.where(F.col("ds") <= F.lit(end)).join(active, "user_id", "left_semi")

    ordered = Window.partitionBy("user_id").orderBy(*EVENT_ORDER)
    newest = ordered.rowsBetween(-(max_items - 1), Window.currentRow)
    event = F.struct("item_id", "event_type", "event_time")
    running = past.select(
        "user_id",
        "ds",
        F.collect_list(event).over(newest).alias("newest"),
        F.row_number().over(ordered).cast("bigint").alias("events_total"),
        F.lead("ds").over(ordered).alias("next_ds"),
    )
    last_of_day = F.col("next_ds").isNull() | (F.col("next_ds") > F.col("ds"))
    return running.where(in_range & last_of_day).select(
        "user_id",
        F.col("newest.item_id").alias("item_ids"),
        F.col("newest.event_type").alias("event_types"),
        F.col("newest.event_time").alias("event_times"),
        "events_total",
        F.date_add("ds", 1).cast("timestamp").alias("event_timestamp"),
        "ds",
    )


def stale_histories(later: DataFrame, before: DataFrame, after: DataFrame) -> DataFrame:
    """Rows of `later` (user_history of days behind the ingested ones) that no longer follow from the events.

    `before` and `after` are the ingested days' events as they stood and as they stand: an event that came late or went
    away changes every later row of its user, if only in `events_total`.
    """
    changed = after.subtract(before).unionByName(before.subtract(after))
    return later.join(changed.select("user_id").distinct(), "user_id", "left_semi")
