"""What every step's command line shares: the options, the log format, and errors that a person can read."""

from __future__ import annotations

import datetime as dt
import enum
import functools
import inspect
import logging
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from jobs.common import timings
from jobs.common.settings import load_settings

Day = Annotated[
    dt.datetime,
    typer.Option("--ds", formats=["%Y-%m-%d"], help="The day, UTC. Its interval is [ds, ds + 1 day)."),
]
OptionalDay = Annotated[
    dt.datetime | None,
    typer.Option("--ds", formats=["%Y-%m-%d"], help="The day, UTC: short for --from DS --to DS."),
]
FromDay = Annotated[
    dt.datetime | None,
    typer.Option("--from", formats=["%Y-%m-%d"], help="First day of a range, UTC, included."),
]
ToDay = Annotated[
    dt.datetime | None,
    typer.Option("--to", formats=["%Y-%m-%d"], help="Last day of a range, UTC, included."),
]
SettingsFile = Annotated[
    str | None,
    typer.Option("--settings", help="TOML settings. Default: $PRECOG_SETTINGS, else conf/sample.toml."),
]


class Split(enum.StrEnum):
    """Which part of the past a model learns from."""

    temporal = "temporal"
    """Events before ds + 1 day - holdout_days; the rest is for the test."""
    all = "all"
    """Every event before ds + 1 day."""
    leave_one_out = "leave_one_out"
    """Each user's events before the last two target events: one for validation, one for the test, as papers do it."""


SplitOption = Annotated[
    Split,
    typer.Option(
        "--split",
        help="temporal: not the last holdout_days; all: everything; leave_one_out: not each user's last two targets.",
    ),
]


def day_range(ds: dt.datetime | None, start: dt.datetime | None, end: dt.datetime | None) -> tuple[dt.date, dt.date]:
    """The days that a step was asked for, both ends included. ValueError unless --ds alone or --from with --to."""
    if ds is not None and start is None and end is None:
        return ds.date(), ds.date()
    if ds is None and start is not None and end is not None:
        if start > end:
            raise ValueError(f"--from {start.date()} lies after --to {end.date()}.")
        return start.date(), end.date()
    raise ValueError("Give either --ds DAY, or both --from DAY and --to DAY.")


def interval_end(day: dt.date) -> dt.datetime:
    """End of the day's interval: 00:00 UTC of the next day."""
    return dt.datetime.combine(day + dt.timedelta(days=1), dt.time(), tzinfo=dt.UTC)


class TryAgainError(RuntimeError):
    """Nothing is wrong, but not now: somebody else is at work."""


MISTAKE, TRY_AGAIN = 2, 75
"""Exit codes. 75 is EX_TEMPFAIL in sysexits.h; Airflow tries such a task again, and not one that ended with 2."""


def run(main: Callable[..., None]) -> None:
    """Run a step as a command: exit 0, or print the user's mistake (ValueError) without a trace and exit 2."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s", stream=sys.stdout)
    for noisy in ("py4j", "faiss", "matplotlib", "petastorm", "torch", "TorchDistributor"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    # PySpark logs a page of JSON beside each AnalysisException, which we raise again in words.
    for noisy in ("SQLQueryContextLogger", "DataFrameQueryContextLogger"):
        logging.getLogger(noisy).setLevel(logging.CRITICAL)
    app = typer.Typer(add_completion=False)
    app.command(help=inspect.getdoc(sys.modules[main.__module__]))(_timed(main, time.monotonic()))
    run_app(app)


def run_app(app: typer.Typer) -> None:
    """Run a command line; errors as `run` has them."""
    app.pretty_exceptions_enable = False
    try:
        app()
    except Exception as error:
        known = isinstance(error, ValueError | TryAgainError) or _lacks_package(error)
        told = str(error) if known else _mistake_on_executors(error)
        if told is None:
            raise
        print(f"error: {told}", file=sys.stderr, flush=True)
        raise SystemExit(TRY_AGAIN if isinstance(error, TryAgainError) else MISTAKE) from None


def _lacks_package(error: Exception) -> bool:
    """Whether fsspec asks for a package, "Install s3fs to access S3": Python's own ImportErrors name a module."""
    return isinstance(error, ImportError) and error.name is None


def _mistake_on_executors(error: Exception) -> str | None:
    """What a ValueError says that ended a Python worker of Spark's; None of any other error."""
    errors = sys.modules.get("pyspark.errors")  # not imported here: some commands run where Spark is not installed
    if errors is None or not isinstance(error, errors.PythonException):
        return None
    _, raised, told = str(error).rpartition("\nValueError: ")
    # What has a trace behind it was not the last error.
    return told.strip() if raised and "\nTraceback" not in told else None


def _timed(main: Callable[..., None], started: float) -> Callable[..., None]:
    """Says how long it took, and keeps that for the report of the step's day."""

    @functools.wraps(main)
    def timed(**options: Any) -> None:
        main(**options)
        seconds = time.monotonic() - started
        logging.getLogger("step").info("finished in %.1f s", seconds)
        file, day, split = Path(inspect.getfile(main)), options.get("ds") or options.get("end"), options.get("split")
        if day and file.parent.name == "jobs":
            label = f"{file.stem} {split}" if split else file.stem
            timings.keep(load_settings(options["settings_file"]), day.date(), label, seconds)

    return timed
