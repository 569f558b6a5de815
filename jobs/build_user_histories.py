"""Build the history of every user active on a day, as it stood at the end of that day.

Reads   events up to the day
Writes  user_history

    python -m jobs.build_user_histories --ds 2016-10-16
    python -m jobs.build_user_histories --from 1995-01-09 --to 2016-10-16

A row depends on the events before the end of its day alone, so days may be built in any order, one by one or together.
"""

from __future__ import annotations

import datetime as dt
import logging

from pyspark.sql import SparkSession

from jobs.common.code_version import code_version
from jobs.common.contracts import daily_table
from jobs.common.coverage import describe_days, require_days
from jobs.common.settings import Settings, load_settings
from jobs.common.spark import open_spark
from jobs.common.step import FromDay, OptionalDay, SettingsFile, ToDay, day_range, run
from jobs.transforms.histories import user_histories
from model.generation import Generation, Manifest

log = logging.getLogger("build_user_histories")


def main(ds: OptionalDay = None, start: FromDay = None, end: ToDay = None, settings_file: SettingsFile = None) -> None:
    days = day_range(ds, start, end)
    settings = load_settings(settings_file)
    with open_spark(settings, "build_user_histories") as spark:
        build_user_histories(spark, settings, *days)


def build_user_histories(spark: SparkSession, settings: Settings, start: dt.date, end: dt.date) -> Generation:
    """Build the days start..end, both included. ValueError when one of them was not ingested."""
    events = daily_table(settings, "events")
    require_days(events, start, end, "ingest")
    generation = daily_table(settings, "user_history").write(
        user_histories(events.read(spark, None, end), start, end, settings.histories.max_items),
        start,
        end,
        Manifest(settings=history_settings(settings), parents=events.parents(None, end), code_version=code_version()),
        "ds",
        "user_id",
    )
    log.info("%s: %d history rows", describe_days(start, end), generation.manifest.counts["rows"])
    return generation


def history_settings(settings: Settings) -> dict[str, int]:
    """The settings that shape what is written."""
    return {"max_items": settings.histories.max_items}


if __name__ == "__main__":
    run(main)
