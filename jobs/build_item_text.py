"""Build the text of every item that the catalogue updated on a day.

Reads   catalogue of the day
Writes  item_text

    python -m jobs.build_item_text --ds 2016-10-16
    python -m jobs.build_item_text --from 1995-01-09 --to 2016-10-16
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
from jobs.transforms.item_text import MAX_CHARACTERS, item_texts
from model.generation import Generation, Manifest

log = logging.getLogger("build_item_text")


def main(ds: OptionalDay = None, start: FromDay = None, end: ToDay = None, settings_file: SettingsFile = None) -> None:
    days = day_range(ds, start, end)
    settings = load_settings(settings_file)
    with open_spark(settings, "build_item_text") as spark:
        build_item_text(spark, settings, *days)


def build_item_text(spark: SparkSession, settings: Settings, start: dt.date, end: dt.date) -> Generation:
    """Build the days start..end, both included. ValueError when one of them was not ingested."""
    catalogue = daily_table(settings, "catalogue")
    require_days(catalogue, start, end, "ingest")
    generation = daily_table(settings, "item_text").write(
        item_texts(catalogue.read(spark, start, end)),
        start,
        end,
        Manifest(
            settings=text_settings(),
            parents=catalogue.parents(start, end),
            code_version=code_version(),
        ),
        "ds",
        "item_id",
    )
    log.info("%s: text of %d items", describe_days(start, end), generation.manifest.counts["rows"])
    return generation


def text_settings() -> dict[str, int]:
    """What shapes the text, beside the code."""
    return {"max_characters": MAX_CHARACTERS}


if __name__ == "__main__":
    run(main)
