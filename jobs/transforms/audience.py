"""Who gets recommendations: the active users, what they did last, and what must not be shown to them again."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from jobs.transforms.snapshot import newest_per_key


def audience(
    histories: DataFrame,
    events: DataFrame,
    *,
    interval_end: dt.datetime,
    active_window_days: int,
    history_items: int,
    masking_types: Sequence[str],
) -> DataFrame:
    """One row per user with an event in the window before `interval_end`.

    Columns: user_id, history (array<string>, newest `history_items` items, oldest first), seen (array<string>, every
    item of an event whose type masks; the whole past, not only the newest).
    """
    active_since = F.lit(interval_end) - F.make_dt_interval(F.lit(active_window_days))
    current = newest_per_key(histories, "user_id").where(F.col("event_timestamp") > active_since)
    seen = (
        events.where(F.col("event_type").isin(*masking_types))
        .groupBy("user_id")
        .agg(F.array_sort(F.collect_set("item_id")).alias("seen"))
    )
    length = F.least(F.size("item_ids"), F.lit(history_items))
    return current.join(seen, "user_id", "left").select(
        "user_id",
        F.slice("item_ids", -length, length).alias("history"),
        F.coalesce("seen", F.array().cast("array<string>")).alias("seen"),
    )
