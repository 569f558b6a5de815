"""Build the days of a range that are missing or stale, and only those: events, user histories, item text.

    python -m jobs.cli.backfill --from 2016-09-01 --to 2016-09-30 --dry-run
    python -m jobs.cli.backfill --from 2016-09-01 --to 2016-09-30

Each step's days are found when its turn comes, so histories follow what ingest has just changed. Nothing goes online.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

import typer
from pyspark.sql import SparkSession
from rich.console import Console
from rich.table import Table

from jobs.build_item_text import build_item_text
from jobs.build_user_histories import build_user_histories
from jobs.cli import freshness
from jobs.common.coverage import describe_days
from jobs.common.settings import Settings, load_settings
from jobs.common.spark import open_spark
from jobs.common.step import FromDay, SettingsFile, ToDay, day_range, run
from jobs.ingest import ingest

SHOWN = 8
"""Stretches of days that a cell of the table names."""


@dataclass(frozen=True)
class Step:
    name: str
    todo: Callable[[SparkSession, Settings, dt.date, dt.date], freshness.Todo]
    build: Callable[[SparkSession, Settings, dt.date, dt.date], object]


STEPS = (
    Step("ingest", freshness.ingest_todo, ingest),
    Step("build_user_histories", freshness.histories_todo, build_user_histories),
    Step("build_item_text", freshness.item_text_todo, build_item_text),
)

DryRun = Annotated[bool, typer.Option("--dry-run", help="Show the days; build nothing.")]


def main(start: FromDay = None, end: ToDay = None, dry_run: DryRun = False, settings_file: SettingsFile = None) -> None:
    if start is None or end is None:
        raise ValueError("Give --from DAY and --to DAY.")
    days = day_range(None, start, end)
    settings = load_settings(settings_file)
    console = Console(highlight=False)
    with open_spark(settings, "backfill") as spark:
        if dry_run:
            _show(console, {step.name: step.todo(spark, settings, *days) for step in STEPS})
        else:
            backfill(spark, settings, *days, console)
            console.print("Online is what was online. To change it: python -m jobs.materialize --from DAY --to DAY")


def backfill(spark: SparkSession, settings: Settings, start: dt.date, end: dt.date, console: Console) -> None:
    """Build what is missing or stale in start..end, both included."""
    done = {}
    for step in STEPS:
        todo = freshness.Todo(set(), set())
        # What is built may show other days to be stale: a late catalogue row makes later events known.
        while days := (found := step.todo(spark, settings, start, end)).days - todo.days:
            todo |= found
            for stretch in freshness.stretches(days):
                console.print(f"▶ {step.name} {describe_days(*stretch)}", style="bold")
                step.build(spark, settings, *stretch)
        done[step.name] = todo
    _show(console, done)


def _show(console: Console, todo_of_steps: dict[str, freshness.Todo]) -> None:
    table = Table("step", "days missing", "days stale")
    for name, todo in todo_of_steps.items():
        table.add_row(name, _cell(todo.missing), _cell(todo.stale))
    console.print(table)
    if not any(todo.days for todo in todo_of_steps.values()):
        console.print("Nothing is missing or stale.")


def _cell(days: freshness.Days) -> str:
    runs = freshness.stretches(days)
    lines = [describe_days(*run) for run in runs[:SHOWN]] + [f"… {len(runs) - SHOWN} more stretches"] * (
        len(runs) > SHOWN
    )
    return "\n".join([f"{len(days)}", *lines]) if days else "none"


if __name__ == "__main__":
    run(main)
