"""What an ingest says of its data: volumes beside the days before, outcomes, refused rows by rule with examples (ours).

A report is a generation of the store `data_report`: report.json, and report.html, which shows the same.
"""

from __future__ import annotations

import datetime as dt
import json
import re
from collections.abc import Mapping
from typing import Any

from matplotlib.figure import Figure
from pyspark.sql import DataFrame, SparkSession, Window
from pyspark.sql import functions as F

from jobs.common.artefacts import store
from jobs.common.code_version import code_version
from jobs.common.contracts import daily_table
from jobs.common.coverage import ONE_DAY, describe_days, missing_days
from jobs.common.pages import WIDTH, png, render
from jobs.common.settings import Quality, Settings
from model.generation import Manifest, write_atomically

SHOWN_DAYS = 28
EXAMPLES = 3
STALE = "stale histories"
"""Among an ingest's counts: no outcome of raw rows, but of what they change."""

Volumes = dict[dt.date, int]


def volumes_before(spark: SparkSession, settings: Settings, day: dt.date) -> Volumes:
    """Events of each ingested day of the SHOWN_DAYS before the day; 0 for an empty one."""
    table = daily_table(settings, "events")
    first, last = day - SHOWN_DAYS * ONE_DAY, day - ONE_DAY
    counts = {row["ds"]: row["count"] for row in table.read(spark, first, last).groupBy("ds").count().collect()}
    gaps = missing_days(table, first, last)
    days = (first + n * ONE_DAY for n in range(SHOWN_DAYS))
    return {day: counts.get(day, 0) for day in days if not any(low <= day <= high for low, high in gaps)}


def check_volume(quality: Quality, before: Volumes, day: dt.date, events: int) -> None:
    """The gate of a day's volume. ValueError when it is out of bounds; no check while days before are not ingested."""
    compared = [before.get(day - n * ONE_DAY) for n in range(1, quality.volume_days + 1)]
    counts = [count for count in compared if count is not None]
    if len(counts) < len(compared) or sum(counts) == 0:
        return
    mean = sum(counts) / len(counts)
    if not quality.min_volume_ratio <= events / mean <= quality.max_volume_ratio:
        raise ValueError(
            f"{day} has {events:,} events, {events / mean:.2f} times the mean of the {len(counts)} days before "
            f"({mean:,.0f}). Allowed are {quality.min_volume_ratio} to {quality.max_volume_ratio} "
            "(quality.min_volume_ratio, quality.max_volume_ratio). Look at the source; if the data is right, run: "
            f"python -m jobs.ingest --ds {day} --accept-volume"
        )


def refused_by_rule(quarantine: DataFrame, user_expression: str) -> list[dict[str, Any]]:
    """(source, reason, rows, examples) of each rule that refused rows, most first. Examples leave out the columns that
    `user_expression` makes the user's id of."""
    place = F.row_number().over(Window.partitionBy("source", "reason").orderBy("record"))
    shown = F.when(F.col("place") <= EXAMPLES, F.col("record"))
    rules = (
        quarantine.withColumn("place", place)
        .groupBy("source", "reason")
        .agg(F.count(F.lit(1)).alias("rows"), F.array_sort(F.collect_list(shown)).alias("examples"))
        .orderBy(F.desc("rows"), "source", "reason")
        .collect()
    )
    return [
        rule.asDict() | {"examples": [_without_user(record, user_expression) for record in rule.examples]}
        for rule in rules
    ]


def _without_user(record: str, user_expression: str) -> str:
    named = set(re.findall(r"\w+", user_expression.lower()))
    return json.dumps({name: value for name, value in json.loads(record).items() if name.lower() not in named})


def with_empty_days(volumes: Volumes, start: dt.date, end: dt.date) -> Volumes:
    """The volumes, in order, with 0 for each of the newest SHOWN_DAYS days of start..end that has no event."""
    days = (end - n * ONE_DAY for n in range(min(SHOWN_DAYS, (end - start).days + 1)))
    return dict(sorted((dict.fromkeys(days, 0) | volumes).items()))


def write_data_report(
    spark: SparkSession,
    settings: Settings,
    start: dt.date,
    end: dt.date,
    outcomes: Mapping[str, Mapping[str, int]],
    volumes: Volumes,
) -> None:
    """Write the report of the days start..end. `outcomes`: source -> outcome -> rows."""
    volumes = with_empty_days(volumes, start, end)
    user_expression = settings.input.event_columns.get("user_id", "user_id")
    refused = refused_by_rule(daily_table(settings, "quarantine").read(spark, start, end), user_expression)
    content = {
        "from": start.isoformat(),
        "to": end.isoformat(),
        "outcomes": outcomes,
        "volumes": {day.isoformat(): count for day, count in volumes.items()},
        "refused": refused,
    }
    events, items = outcomes["events"], outcomes["catalogue"]
    page = render(
        "data_report.html.j2",
        days=describe_days(start, end),
        first=start,
        tiles={
            "events": events["events"],
            "items added or changed": items["items"],
            "rows refused": sum(rule["rows"] for rule in refused),
            "duplicates left out": events.get("duplicate", 0),
        },
        volume_plot=png(_plot(dict(list(volumes.items())[-SHOWN_DAYS:]), start)),
        outcomes={
            source: {outcome: rows for outcome, rows in counts.items() if outcome != STALE}
            for source, counts in outcomes.items()
        },
        refused=refused,
        stale=events[STALE],
    )
    draft = store(settings, "data_report").begin()
    write_atomically(draft.path("report.json"), json.dumps(content, indent=2, ensure_ascii=False).encode())
    write_atomically(draft.path("report.html"), page.encode())
    draft.commit(Manifest(key={"from": start.isoformat(), "to": end.isoformat()}, code_version=code_version()))


def _plot(volumes: Volumes, start: dt.date) -> Figure:
    figure = Figure(figsize=(WIDTH, 2.4), layout="constrained")
    axes = figure.subplots()
    colours = ["tab:blue" if day >= start else "lightgrey" for day in volumes]
    axes.bar([day.isoformat() for day in volumes], list(volumes.values()), color=colours)
    axes.set(ylabel="events")
    axes.set_xticks(range(len(volumes))[::-7])  # the newest, and by weeks back from it
    return figure
