"""`make run`: the whole sample, from raw ratings to what an app reads, by the same DAGs that run in production.

    python -m jobs.cli.run_sample [--settings FILE]

1. The sample's raw data, and its past: the four steps of features_daily, each once for the years before the last days.
2. Airflow's own runner, `airflow dags test`, for the last two days: features, training, recommendations.
3. What an app now reads from Feast's online store for five users.

Runs again only what changed; goes on where a broken run stopped. Logs: <lake>/logs, records: <lake>/runs.
"""

from __future__ import annotations

import datetime as dt
import os
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from jobs.cli import sample_airflow
from jobs.cli.run_records import LIVE_MODEL, RAW, Record, fingerprint
from jobs.cli.sample_result import show_result
from jobs.cli.watch import Task, TaskLog, run_watched
from jobs.common.settings import DEFAULT_FILE, Settings, load_settings
from jobs.common.step import SettingsFile, run

FIRST_DAY, PAST_END = dt.date(1995, 1, 9), dt.date(2016, 10, 14)
LAST_DAYS = (dt.date(2016, 10, 15), dt.date(2016, 10, 16))
FEATURES = ("events", "user_history", "item_text")
RECORDS_CLASSES = "ingest"
"""The step whose JVM leaves its classes to the others: the first that uses Spark."""


@dataclass(frozen=True)
class Run:
    """One thing that `make run` starts: a step over the past, or a DAG for a day."""

    name: str
    reads: tuple[str, ...]
    day: dt.date | None = None
    """The day of a DAG's run; None for a step over the past."""

    @property
    def label(self) -> str:
        return f"{self.name} {self.day}" if self.day else self.name

    @property
    def file_name(self) -> str:
        return f"{self.name}/{self.day or 'past'}"

    @property
    def reads_until(self) -> dt.date:
        return self.day or PAST_END


def plan() -> list[Run]:
    past = [
        Run("sample_data", ()),
        Run("ingest", (RAW,)),
        Run("build_user_histories", ("events",)),
        Run("build_item_text", ("catalogue",)),
        Run("materialize", ("user_history", "item_text")),
    ]
    # A day's features read the raw data alone: what they write must not count as what they read.
    features = [Run("features_daily", (RAW,), day) for day in LAST_DAYS]
    lists = [Run("recommend_daily", (*FEATURES, LIVE_MODEL), day) for day in LAST_DAYS]
    return [*past, *features, Run("train", FEATURES, LAST_DAYS[-1]), *lists]


class Sample:
    """The sample's runs on one lake, one after the other."""

    def __init__(self, settings: Settings, settings_file: str, console: Console) -> None:
        if "://" in settings.lake_uri:
            raise ValueError(f"lake_uri = {settings.lake_uri}: the sample keeps its lake in a local folder.")
        self.settings, self.settings_file, self.console = settings, settings_file, console
        self.lake = Path(settings.lake_uri)
        self.seconds: dict[str, float] = {}

    def run(self, run: Run) -> None:
        """Start a run unless its record says that nothing changed. SystemExit(1) when it fails, after saying where."""
        record_file = self.lake / "runs" / f"{run.file_name}.json"
        record = self._record(run, record_file)
        if record.complete:
            self.console.print(f"· {run.label}: unchanged, skipped", style="dim", highlight=False)
            return
        self.console.print(f"▶ {run.label}", style="bold", highlight=False)
        started = time.monotonic()
        log = TaskLog() if run.day else TaskLog(Task(run.name))

        def remember_finished_tasks() -> None:
            finished = [task.name for task in log.tasks if task.state == "success"]
            if not set(finished) <= set(record.finished_tasks):
                record.finished_tasks = sorted({*record.finished_tasks, *finished})
                record.save(record_file)

        env = sample_airflow.environment(self.settings_file, record_classes=run.name == RECORDS_CLASSES)
        command = self._command(run, env, record.finished_tasks)
        log_file = self.lake / "logs" / f"{run.file_name}.log"
        code = run_watched(command, env, log_file, log, self.console, remember_finished_tasks)
        if code != 0 or not log.tasks:
            self._say_what_failed(run, log, log_file, code)
            raise SystemExit(1)
        sample_airflow.keep_classes()
        record.complete = True
        record.save(record_file)
        self.seconds[run.label] = time.monotonic() - started

    def _record(self, run: Run, file: Path) -> Record:
        """The record of the run as it would be now; a new one when there is none or what it was made from changed."""
        now = fingerprint(self.settings, [run.label], run.reads, run.reads_until)
        record = Record.load(file)
        return record if record is not None and record.fingerprint == now else Record(now)

    def _command(self, run: Run, env: dict[str, str], finished_tasks: list[str]) -> list[str]:
        if run.day:
            sample_airflow.prepare(env)
            return sample_airflow.dag_test(run.name, run.day.isoformat(), finished_tasks)
        days = ["--from", FIRST_DAY.isoformat(), "--to", PAST_END.isoformat()] if run.reads else []
        return [sys.executable, "-m", f"jobs.{run.name}", *days, "--settings", self.settings_file]

    def _say_what_failed(self, run: Run, log: TaskLog, log_file: Path, code: int) -> None:
        failed = next((task for task in log.tasks if task.state == "failed"), None)
        where = f", task {failed.name}" if failed and failed.name != run.name else ""
        say = Console(stderr=True, highlight=False, markup=False, soft_wrap=True).print
        say(f"\n✗ {run.label}{where} failed (exit code {code}). The end of what it said:\n", style="bold red")
        for line in log.tail():
            say(f"    {line}")
        say(f"\nWhole log:        {log_file}")
        if failed and failed.by_hand:
            say(f"This task alone:  {failed.by_hand}")
        say("Go on from here:  make run")


def main(settings_file: SettingsFile = None) -> None:
    started = time.monotonic()
    console = Console(highlight=False)
    file = settings_file or os.environ.get("PRECOG_SETTINGS") or DEFAULT_FILE
    settings = load_settings(file)
    # Ending us must end what we started: an exception unwinds, where the signal alone would leave a JVM behind.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    sample = Sample(settings, file, console)
    for each in plan():
        sample.run(each)
    show_result(settings, console)
    for label, seconds in sample.seconds.items():
        console.print(f"{seconds:7.0f} s  {label}")
    console.print(f"{time.monotonic() - started:7.0f} s  in all")


if __name__ == "__main__":
    run(main)
