"""Which days of a step's table must be built, and why: never built, or built from what is no longer so (ours).

A day is stale when its raw rows, the rows it was built from, or the settings that shape it have changed. A new
generation with the same rows makes nothing stale: what counts is content, day by day.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import reduce
from typing import Any

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from jobs.build_item_text import text_settings
from jobs.build_user_histories import history_settings
from jobs.common.contracts import EVENTS, daily_table
from jobs.common.coverage import ONE_DAY, missing_days
from jobs.common.raw_input import read_raw_catalogue, read_raw_events
from jobs.common.settings import Settings
from jobs.common.tables import DailyTable
from jobs.ingest import ingest_settings, known_by, raw_state
from jobs.transforms.histories import changed_events, stale_histories
from jobs.transforms.validate import OUTCOME, VALID, check_events, in_days, known_items
from model.generation import Generation

Days = set[dt.date]
Stretch = tuple[dt.date, dt.date]


@dataclass(frozen=True)
class Todo:
    """The days that a step must build."""

    missing: Days
    stale: Days

    @property
    def days(self) -> Days:
        return self.missing | self.stale

    def __or__(self, other: Todo) -> Todo:
        return Todo(self.missing | other.missing, self.stale | other.stale)


def stretches(days: Iterable[dt.date]) -> list[Stretch]:
    """Days as runs of neighbours, oldest first."""
    runs: list[Stretch] = []
    for day in sorted(days):
        if runs and runs[-1][1] + ONE_DAY == day:
            runs[-1] = (runs[-1][0], day)
        else:
            runs.append((day, day))
    return runs


def ingest_todo(spark: SparkSession, settings: Settings, start: dt.date, end: dt.date) -> Todo:
    """Days without events, and those whose raw rows, or what the catalogue knows of their items, is not what it was.

    Reads the raw rows of the days.
    """
    events, catalogue = daily_table(settings, "events"), daily_table(settings, "catalogue")
    raw_items, raw_events = read_raw_catalogue(spark, settings), read_raw_events(spark, settings)
    before = daily_table(settings, "raw_days").read(spark, start, end)
    now = raw_state(raw_items, raw_events, start, end)
    changed = _days_of(_difference(before, now))

    def stale(built: Generation, first: dt.date, last: dt.date) -> Days:
        if not _replaced(catalogue, built, None, last):
            return changed
        recorded = set(built.manifest.parents.values())
        then_known = known_items(catalogue.read(spark, None, last, recorded))
        items = _difference(then_known, known_items(catalogue.read(spark, None, last))).select("item_id").distinct()
        of_range = raw_events.where(in_days(F.col("happened"), first, last)).join(items, "item_id", "left_semi")
        checked = check_events(of_range, settings.event_types, known_by(spark, settings, last))
        valid = checked.where(F.col(OUTCOME) == VALID).select(*EVENTS.fieldNames())
        written = events.read(spark, first, last).join(items, "item_id", "left_semi")
        return changed | _days_of(_difference(written, valid))

    return _todo(events, start, end, ingest_settings(settings), stale)


def histories_todo(spark: SparkSession, settings: Settings, start: dt.date, end: dt.date) -> Todo:
    """Days without histories, and those with a row of a user whose events up to that day have changed since."""
    events, histories = daily_table(settings, "events"), daily_table(settings, "user_history")

    def stale(built: Generation, first: dt.date, last: dt.date) -> Days:
        replaced = _replaced(events, built, None, last)
        if not replaced:
            return set()
        before, after = _states(spark, events, built, replaced)
        changed = changed_events(before, after).persist()
        rows = stale_histories(histories.read(spark, first, last), changed).select("ds")
        # A day on which a user had no event before has no row that could be stale.
        new = changed.where(F.col("first_ds") >= F.lit(first)).select(F.col("first_ds").alias("ds"))
        days = _days_of(rows.union(new))
        changed.unpersist()
        return days

    return _todo(histories, start, end, history_settings(settings), stale)


def item_text_todo(spark: SparkSession, settings: Settings, start: dt.date, end: dt.date) -> Todo:
    """Days without item text, and those whose catalogue rows have changed since."""
    catalogue = daily_table(settings, "catalogue")

    def stale(built: Generation, first: dt.date, last: dt.date) -> Days:
        replaced = _replaced(catalogue, built, first, last)
        if not replaced:
            return set()
        before, after = _states(spark, catalogue, built, replaced)
        return _days_of(_difference(before, after))

    return _todo(daily_table(settings, "item_text"), start, end, text_settings(), stale)


def _todo(
    table: DailyTable,
    start: dt.date,
    end: dt.date,
    settings: dict[str, Any],
    stale: Callable[[Generation, dt.date, dt.date], Days],
) -> Todo:
    """`stale` names the stale days of a generation that owns the days first..last."""
    missing = {day for stretch in missing_days(table, start, end) for day in _each(*stretch)}
    outdated: Days = set()
    for generation, first, last in table.owners(start, end):
        days = set(_each(first, last))
        outdated |= days if generation.manifest.settings != settings else days & stale(generation, first, last)
    return Todo(missing, outdated)


def _replaced(table: DailyTable, built: Generation, start: dt.date | None, end: dt.date) -> list[Stretch]:
    """The days that are now read from another generation than when `built` was."""
    recorded = set(built.manifest.parents.values())
    then, now = (
        {day: one.identity for one, first, last in owners for day in _each(first, last)}
        for owners in (table.owners(start, end, recorded), table.owners(start, end))
    )
    return stretches(day for day in then.keys() | now.keys() if then.get(day) != now.get(day))


def _states(
    spark: SparkSession, table: DailyTable, built: Generation, days: list[Stretch]
) -> tuple[DataFrame, DataFrame]:
    """Rows of the days as they were when `built` was built, and as they are."""
    recorded = set(built.manifest.parents.values())
    before = (table.read(spark, first, last, recorded) for first, last in days)
    after = (table.read(spark, first, last) for first, last in days)
    return reduce(DataFrame.unionByName, before), reduce(DataFrame.unionByName, after)


def _difference(one: DataFrame, other: DataFrame) -> DataFrame:
    return one.exceptAll(other).unionByName(other.exceptAll(one))


def _days_of(rows: DataFrame) -> Days:
    return {row[0] for row in rows.where("ds is not null").select("ds").distinct().collect()}


def _each(first: dt.date, last: dt.date) -> Iterator[dt.date]:
    return (first + dt.timedelta(days=n) for n in range((last - first).days + 1))
