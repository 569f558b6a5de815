"""Validate raw events and the raw catalogue, day by day; what is wrong goes to quarantine, with a reason, counted.

Reads   input.events_uri, input.catalogue_uri (any format that Spark reads; columns mapped by settings)
Writes  catalogue, quarantine, events

    python -m jobs.ingest --ds 2016-10-16
    python -m jobs.ingest --from 1995-01-09 --to 2016-10-16

`events` is written last: a day that it covers is an ingested day. An event's item must be in the catalogue by the end
of the event's day, so begin with the day of the catalogue's oldest `updated_at`.
"""

from __future__ import annotations

import datetime as dt
import logging
from dataclasses import replace

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from jobs.common.code_version import code_version
from jobs.common.contracts import EVENTS, daily_table
from jobs.common.coverage import ONE_DAY, describe_days
from jobs.common.raw_input import catalogue_source, events_source, fingerprint, read_raw
from jobs.common.settings import Settings, load_settings
from jobs.common.spark import open_spark
from jobs.common.step import FromDay, OptionalDay, SettingsFile, ToDay, day_range, run
from jobs.transforms.histories import stale_histories
from jobs.transforms.validate import LEFT_OUT, OUTCOME, VALID, check_catalogue, check_events, in_days, quarantined
from model.generation import Generation, Manifest

log = logging.getLogger("ingest")


def main(ds: OptionalDay = None, start: FromDay = None, end: ToDay = None, settings_file: SettingsFile = None) -> None:
    days = day_range(ds, start, end)
    settings = load_settings(settings_file)
    with open_spark(settings, "ingest") as spark:
        ingest(spark, settings, *days)


def ingest(spark: SparkSession, settings: Settings, start: dt.date, end: dt.date) -> Generation:
    """Ingest the days start..end, both included. Returns the generation of `events`; its manifest counts every outcome.

    Raises ValueError for what is wrong with a whole source: see transforms/validate.py.
    """
    sources = catalogue_source(settings.input), events_source(settings.input)
    manifest = Manifest(
        settings={"input": settings.input.model_dump(), "event_types": sorted(settings.event_types)},
        parents={source.uri_setting: fingerprint(source) for source in sources},
        code_version=code_version(),
    )
    raw_items, raw_events = (read_raw(spark, settings.input, source) for source in sources)
    catalogue = daily_table(settings, "catalogue")

    items = check_catalogue(raw_items.where(in_days(F.col("updated_at"), start, end))).persist()
    valid_items, counts = items.where(F.col(OUTCOME) == VALID), outcomes(items, "items")
    catalogue.write(valid_items, start, end, replace(manifest, counts=counts), "ds", "item_id")
    log.info("%s: %s", describe_days(start, end), _summary(counts))

    known = catalogue.read(spark, None, end).groupBy("item_id").agg(F.min("ds").alias("first_ds"))
    events = check_events(
        raw_events.where(in_days(F.col("event_time"), start, end)), settings.event_types, known
    ).persist()
    refused = quarantined(items, "catalogue", end).unionByName(quarantined(events, "events", end))
    daily_table(settings, "quarantine").write(refused, start, end, manifest, "ds", "source", "reason", "record")

    valid_events, counts = events.where(F.col(OUTCOME) == VALID), outcomes(events, "events")
    counts["stale histories"] = report_stale_histories(spark, settings, valid_events, start, end)
    manifest = replace(manifest, counts=counts, parents={**manifest.parents, **catalogue.parents(None, end)})
    generation = daily_table(settings, "events").write(
        valid_events, start, end, manifest, "ds", "user_id", "event_time"
    )
    log.info("%s: %s", describe_days(start, end), _summary(counts))
    items.unpersist()
    events.unpersist()
    return generation


def outcomes(checked: DataFrame, what: str) -> dict[str, int]:
    """How many rows were valid (under the name `what`), left out, and quarantined for each reason."""
    rows = checked.groupBy(OUTCOME).count().orderBy(OUTCOME).collect()
    names = {VALID: what} | {left_out: left_out for left_out in LEFT_OUT}
    return {what: 0} | {names.get(row[OUTCOME], f"quarantined: {row[OUTCOME]}"): row["count"] for row in rows}


def report_stale_histories(
    spark: SparkSession, settings: Settings, events: DataFrame, start: dt.date, end: dt.date
) -> int:
    """Count the history rows of later days that these days' events change, and say how to rebuild them."""
    histories = daily_table(settings, "user_history")
    if not histories.owners(end + ONE_DAY, dt.date.max):
        return 0
    stale = stale_histories(
        histories.read(spark, end + ONE_DAY, dt.date.max),
        before=daily_table(settings, "events").read(spark, start, end),
        after=events.select(*EVENTS.fieldNames()),
    )
    rows, first, last = stale.agg(F.count("ds"), F.min("ds"), F.max("ds")).collect()[0]
    if rows:
        log.warning(
            "%d history rows of later days are stale: events came late or went away. Rebuild them: "
            "python -m jobs.build_user_histories --from %s --to %s",
            rows,
            first,
            last,
        )
    return int(rows)


def _summary(counts: dict[str, int]) -> str:
    return ", ".join(f"{count:,} {what}" for what, count in counts.items())


if __name__ == "__main__":
    run(main)
