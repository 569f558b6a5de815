"""Validate raw events and the raw catalogue, day by day; what is wrong goes to quarantine, with a reason, counted.

Reads   input.events_uri, input.catalogue_uri (any format that Spark reads; columns mapped by settings)
Writes  catalogue, quarantine, raw_days (what the day's raw rows were, for jobs.cli.backfill), events, data_report

    python -m jobs.ingest --ds 2016-10-16
    python -m jobs.ingest --from 1995-01-09 --to 2016-10-16

`events` is written last: a day that it covers is an ingested day. An event's item must be in the catalogue by the end
of the event's day, so begin with the day of the catalogue's oldest `updated_at`.
"""

from __future__ import annotations

import datetime as dt
import logging
from dataclasses import replace
from typing import Annotated, Any

import typer
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from jobs.common.code_version import code_version
from jobs.common.contracts import EVENTS, conforming, daily_table
from jobs.common.coverage import ONE_DAY, describe_days
from jobs.common.data_report import STALE, check_volume, volumes_before, write_data_report
from jobs.common.raw_input import catalogue_source, events_source, fingerprint, read_raw_catalogue, read_raw_events
from jobs.common.settings import Settings, load_settings
from jobs.common.spark import open_spark
from jobs.common.step import FromDay, OptionalDay, SettingsFile, ToDay, day_range, run
from jobs.transforms.histories import changed_events, stale_histories
from jobs.transforms.validate import (
    LEFT_OUT,
    OUTCOME,
    VALID,
    acceptable_items,
    check_catalogue,
    check_events,
    in_days,
    known_items,
    quarantined,
    raw_days,
)
from model.generation import Generation, Manifest

log = logging.getLogger("ingest")


AcceptVolume = Annotated[
    bool, typer.Option("--accept-volume", help="Ingest the day although its number of events is out of bounds.")
]


def main(
    ds: OptionalDay = None,
    start: FromDay = None,
    end: ToDay = None,
    accept_volume: AcceptVolume = False,
    settings_file: SettingsFile = None,
) -> None:
    days = day_range(ds, start, end)
    settings = load_settings(settings_file)
    with open_spark(settings, "ingest") as spark:
        ingest(spark, settings, *days, accept_volume=accept_volume)


def ingest(
    spark: SparkSession, settings: Settings, start: dt.date, end: dt.date, *, accept_volume: bool = False
) -> Generation:
    """Ingest the days start..end, both included. Returns the generation of `events`; its manifest counts every outcome.

    Raises ValueError for what is wrong with a whole source (see transforms/validate.py), and for one day alone whose
    volume is out of bounds, unless `accept_volume`.
    """
    sources = catalogue_source(settings.input), events_source(settings.input)
    manifest = Manifest(
        settings=ingest_settings(settings),
        parents={source.uri_setting: fingerprint(source) for source in sources},
        code_version=code_version(),
    )
    raw_items, raw_events = read_raw_catalogue(spark, settings), read_raw_events(spark, settings)
    raw = raw_state(raw_items, raw_events, start, end)
    daily_table(settings, "raw_days").write(raw, start, end, manifest, "ds", "source")

    catalogue = daily_table(settings, "catalogue")
    items = check_catalogue(raw_items.where(in_days(F.col("updated_at"), start, end))).persist()
    item_counts = outcomes(items, "items")
    valid_items = conforming(items.where(F.col(OUTCOME) == VALID), "catalogue")
    catalogue.write(valid_items, start, end, replace(manifest, counts=item_counts), "ds", "item_id")

    known = known_by(spark, settings, end)
    of_days = raw_events.where(in_days(F.col("happened"), start, end))
    events = check_events(of_days, settings.event_types, known).persist()
    refused = quarantined(items, "catalogue", end).unionByName(quarantined(events, "events", end))
    daily_table(settings, "quarantine").write(refused, start, end, manifest, "ds", "source", "reason", "record")

    valid, counts = conforming(events.where(F.col(OUTCOME) == VALID), "events"), outcomes(events, "events")
    before = volumes_before(spark, settings, start)
    if start == end and not accept_volume:
        check_volume(settings.quality, before, start, counts["events"])
    counts[STALE] = report_stale_histories(spark, settings, valid, start, end)
    manifest = replace(manifest, counts=counts, parents={**manifest.parents, **catalogue.parents(None, end)})
    generation = write_events(settings, valid, start, end, manifest)

    volumes = before | {row["ds"]: row["count"] for row in valid.groupBy("ds").count().collect()}
    write_data_report(spark, settings, start, end, {"events": counts, "catalogue": item_counts}, volumes)
    for found in (item_counts, counts):
        log.info("%s: %s", describe_days(start, end), ", ".join(f"{rows:,} {what}" for what, rows in found.items()))
    items.unpersist()
    events.unpersist()
    return generation


def write_events(settings: Settings, events: DataFrame, start: dt.date, end: dt.date, manifest: Manifest) -> Generation:
    """Write events with each user's side by side, in one file: what looks for a user's past reads long runs of one id,
    which Parquet keeps small and Spark reads fast.
    """
    by_user = events.hint("rebalance", "user_id")
    return daily_table(settings, "events").write(by_user, start, end, manifest, "user_id", "event_time")


def ingest_settings(settings: Settings) -> dict[str, Any]:
    """The settings that shape what ingest writes."""
    return {
        "input": settings.input.model_dump(),
        "event_types": sorted(settings.event_types),
        "max_clock_skew_minutes": settings.quality.max_clock_skew_minutes,
    }


def known_by(spark: SparkSession, settings: Settings, end: dt.date) -> DataFrame:
    """(item_id, first_ds) of the items known by the end of a day.

    The raw catalogue says so too, because an earlier day may be ingested after this one, and what is ingested, because
    a source may keep an item's newest state alone.
    """
    raw = acceptable_items(read_raw_catalogue(spark, settings)).where(F.col("ds") <= F.lit(end))
    ingested = daily_table(settings, "catalogue").read(spark, None, end)
    return known_items(raw.unionByName(ingested.select("item_id", "ds")))


def raw_state(raw_items: DataFrame, raw_events: DataFrame, start: dt.date, end: dt.date) -> DataFrame:
    """What the raw rows of the days start..end are, day by day: rows of the table raw_days."""
    items = raw_days(raw_items, "updated_at", "catalogue", start, end)
    return items.unionByName(raw_days(raw_events, "happened", "events", start, end))


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
    before = daily_table(settings, "events").read(spark, start, end)
    changed = changed_events(before, events.select(*EVENTS.fieldNames()))
    stale = stale_histories(histories.read(spark, end + ONE_DAY, dt.date.max), changed)
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


if __name__ == "__main__":
    run(main)
