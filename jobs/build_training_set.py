"""Build the training set: for each user and active day the point-in-time history, then that day's events.

Reads   events, user_history (through Feast's point-in-time join), item_text, up to the last day of the split
Writes  training_set/<split>: items/, sequences/ and validation/

    python -m jobs.build_training_set --ds 2016-10-16 --split temporal
    python -m jobs.build_training_set --ds 2016-10-16 --split all

`temporal` ends promotion.holdout_days before the end of ds, `all` at the end of ds. `leave_one_out` does so too, and
leaves out each user's events from the last but one of a target type on.
"""

from __future__ import annotations

import datetime as dt
import logging
import math
from typing import Any

from pyspark.sql import DataFrame, Observation, SparkSession
from pyspark.sql import functions as F

from jobs.common.artefacts import store
from jobs.common.code_version import code_version
from jobs.common.contracts import daily_table
from jobs.common.coverage import describe_days, require_days
from jobs.common.feature_store import apply, import_ahead, open_store, register_views
from jobs.common.settings import Settings, load_settings
from jobs.common.spark import open_spark
from jobs.common.step import Day, SettingsFile, Split, SplitOption, run
from jobs.common.tables import write_rows
from jobs.transforms.snapshot import newest_per_key
from jobs.transforms.training_set import (
    active_days,
    before_last_targets,
    day_sequences,
    drawn_windows,
    last_days,
    training_items,
    validation_cases,
    windows,
    with_later,
    without_last_target,
)
from model.config import ModelConfig
from model.data.targets import USERS_PER_CASE
from model.generation import Draft, Generation, Manifest

FILES = 4
ROW_GROUPS_PER_FILE = 4
"""Readers shard by row group: enough of them for a small data set, too."""
MAX_ROWS_PER_GROUP = 65_536

HELD_OUT = 2
"""Of each user under leave_one_out: the last target event for the test, the one before for validation."""

log = logging.getLogger("build_training_set")


def main(ds: Day, split: SplitOption, settings_file: SettingsFile = None) -> None:
    settings = load_settings(settings_file)
    import_ahead()
    with open_spark(settings, "build_training_set") as spark:
        build_training_set(spark, settings, ds.date(), split)


def build_training_set(spark: SparkSession, settings: Settings, ds: dt.date, split: Split) -> Generation:
    """Build the training set of one split. ValueError when days are missing, or nothing can be learnt from them."""
    model = settings.model
    check_settings(model)
    holdout = settings.promotion.holdout_days if split is Split.temporal else 0
    last_day = ds - dt.timedelta(days=holdout)
    first_day = require_tables(settings, last_day, ds)
    tables = {name: daily_table(settings, name) for name in ("events", "user_history", "item_text")}
    events = tables["events"].read(spark, None, last_day)
    targets = sorted(name for name, kind in settings.event_types.items() if kind.target)
    if split is Split.leave_one_out:
        events = before_last_targets(events, targets, HELD_OUT)
    leaks = Observation()
    histories = watch_for_leaks(point_in_time_histories(spark, settings, active_days(events), last_day), leaks)
    items = training_items(newest_per_key(tables["item_text"].read(spark, None, last_day), "item_id"))

    entries = day_sequences(events, histories, items, targets, model.history_items)
    cut = with_later(windows(entries, model.history_items, model.window_items), last_days(events, items)).persist()
    counts = sequence_counts(cut)
    refuse_leaks(leaks)
    if counts["sequences"] == 0:
        raise ValueError(
            f"No event of a target type ({', '.join(targets)}) on {describe_days(first_day, last_day)}: nothing to "
            f"train on for --split {split}. Ingest more days, or look at the quarantine table and at event_types."
        )

    draft = store(settings, "training_set", split).begin()
    counts["items"], items_checksum = write_rows(items, draft, "items", "item_index")
    drawn = drawn_windows(cut, min(model.validation_users, counts["users"] // USERS_PER_CASE)).persist()
    # At most model.validation_users rows: one file.
    cases = validation_cases(cut, drawn, model.history_items).coalesce(1)
    counts["validation"], cases_checksum = write_rows(cases, draft, "validation", "items", "target")
    counts["targets"] -= counts["validation"]  # one each; its window has another, and stays
    sequences_checksum = write_sequences(without_last_target(cut, drawn).drop("k"), counts["sequences"], draft)
    for done in (drawn, cut):
        done.unpersist()
    generation = draft.commit(
        Manifest(
            key={"ds": ds.isoformat(), "split": split, "from": first_day.isoformat(), "to": last_day.isoformat()},
            counts=counts,
            settings={
                "history_items": model.history_items,
                "window_items": model.window_items,
                "validation_users": model.validation_users,
                "target_types": targets,
                "holdout_days": holdout,
            },
            parents={role: name for table in tables.values() for role, name in table.parents(None, last_day).items()},
            code_version=code_version(),
            checksums={"items": items_checksum, "sequences": sequences_checksum, "validation": cases_checksum},
        )
    )
    summary = ", ".join(f"{count:,} {what}" for what, count in counts.items())
    log.info("%s, %s: %s", split, describe_days(first_day, last_day), summary)
    return generation


def check_settings(model: ModelConfig) -> None:
    """ValueError for sizes that no training set can have."""
    if model.history_items >= model.window_items:
        raise ValueError(
            f"model.window_items = {model.window_items} leaves no room for targets behind model.history_items = "
            f"{model.history_items} items of context. Make it larger, twice as large, say."
        )
    if model.validation_users < 0:
        raise ValueError(f"model.validation_users = {model.validation_users} is no number of users. 0 keeps none out.")


def require_tables(settings: Settings, last_day: dt.date, ds: dt.date) -> dt.date:
    """The first ingested day. ValueError when a day from there to `last_day` is missing in a table that we read."""
    events = daily_table(settings, "events")
    owners = events.owners(None, last_day)
    if not owners:
        raise ValueError(
            f"{events.store.uri} holds no day up to {last_day}, where this split of {ds} ends. Run jobs.ingest for "
            "earlier days, or for --split temporal lower the setting promotion.holdout_days."
        )
    first_day = owners[0][1]
    for name, step in (
        ("events", "ingest"),
        ("user_history", "build_user_histories"),
        ("item_text", "build_item_text"),
    ):
        require_days(daily_table(settings, name), first_day, last_day, step)
    return first_day


def point_in_time_histories(
    spark: SparkSession, settings: Settings, moments: DataFrame, last_day: dt.date
) -> DataFrame:
    """Feast's point-in-time join: `moments` (user_id, event_timestamp), each with the history known by then.

    A history row is known from the end of its day, so 00:00 of a day sees the earlier days' events and no others.
    Adds item_ids and event_times, null for a user without a history.
    """
    apply(settings)
    register_views(spark, settings, last_day)
    key = settings.feast.user_key
    feast: Any = open_store(settings)  # its annotations know neither Spark's DataFrame nor its offline store's job
    moments = moments.withColumnRenamed("user_id", key)
    job = feast.get_historical_features(
        entity_df=moments, features=["user_history:item_ids", "user_history:event_times"]
    )
    histories: DataFrame = job.to_spark_df()
    return histories.withColumnRenamed(key, "user_id")


def watch_for_leaks(histories: DataFrame, leaks: Observation) -> DataFrame:
    """Count the histories that hold an event from their moment on or later: a model would learn to copy its targets."""
    leaky = F.array_max("event_times") >= F.col("event_timestamp")
    first = F.min(F.when(leaky, F.col("event_timestamp").cast("date")))
    return histories.observe(leaks, F.count_if(leaky).alias("rows"), first.alias("first"))


def refuse_leaks(leaks: Observation) -> None:
    """ValueError when `watch_for_leaks` counted any; call it after an action on those histories."""
    if leaks.get["rows"]:
        first = leaks.get["first"]
        raise ValueError(
            f"{leaks.get['rows']} histories hold events from after the moment at which they claim to be known, the "
            f"first at {first} 00:00. An event_timestamp in user_history must be the end of its day. Rebuild them: "
            f"python -m jobs.build_user_histories --from {first - dt.timedelta(days=1)} --to {first}"
        )


def sequence_counts(sequences: DataFrame) -> dict[str, int]:
    targets = F.aggregate("targets", F.lit(0), lambda total, target: total + target)
    counted = sequences.agg(
        F.count(F.lit(1)).alias("sequences"),
        F.coalesce(F.sum(targets), F.lit(0)).alias("targets"),
        F.count_distinct("user_id").alias("users"),
    )
    return {name: int(count) for name, count in counted.collect()[0].asDict().items()}


def write_sequences(sequences: DataFrame, rows: int, draft: Draft) -> str:
    """Write FILES files of about equal size. A row's file and place follow from its content alone, as if shuffled."""
    place = F.xxhash64(*sequences.columns)
    # A little more than the share, because files differ by chance: a file's last row group is then no crumb.
    group_rows = min(math.ceil(1.05 * rows / (FILES * ROW_GROUPS_PER_FILE)), MAX_ROWS_PER_GROUP)
    _, checksum = write_rows(
        sequences.repartition(FILES, place).sortWithinPartitions(place),
        draft,
        "sequences",
        options={"parquet.block.row.count.limit": str(group_rows)},
    )
    return checksum


if __name__ == "__main__":
    run(main)
