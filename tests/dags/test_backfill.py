"""`airflow backfill create` under a real scheduler: newest day first, two days at once, into a lake that is empty."""

from __future__ import annotations

import datetime as dt
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import SparkSession
from rich.console import Console

from jobs.build_item_text import build_item_text
from jobs.build_user_histories import build_user_histories
from jobs.cli.backfill import backfill
from jobs.cli.sample_airflow import NO_GENERATED_CODE, QUICK_JVM
from jobs.common.contracts import daily_table
from jobs.common.settings import Settings, load_settings
from jobs.ingest import ingest
from tests.conftest import settings_on
from tests.dags.conftest import REPO
from tests.jobs.raw_data import D1, D2, D3, D4, at, event, film, write_catalogue, write_events

DAYS = [D1, D2, D3, D4]
MINUTES = 60
BIN = Path(sys.executable).parent

Run = tuple[dt.date, str, str, str]
"""Day, state, start and end."""


def write_raw(settings: Settings) -> None:
    """u comes on the first and the third day, v on the others; an item of the second day is bought on the last."""
    write_catalogue(settings, film("a", at(D1)), film("b", at(D1)), film("new", at(D2)))
    write_events(
        settings,
        *(event("u", "a", at(day)) for day in (D1, D3)),
        *(event("v", "b", at(day)) for day in (D2, D4)),
        event("v", "new", at(D4, 13)),
    )


@pytest.fixture
def airflow(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[dict[str, str]]:
    """The environment of a running `airflow standalone` that schedules nothing by itself."""
    if not request.config.getoption("--airflow-services"):
        pytest.skip("minutes: asked for by --airflow-services")
    settings = tmp_path / "settings.toml"
    settings.write_text(
        f"""
        lake_uri = "{tmp_path}/lake"
        input = {{ events_uri = "{tmp_path}/raw/events", catalogue_uri = "{tmp_path}/raw/catalogue" }}
        event_types = {{ buy = {{}} }}
        feast = {{ repo = "{REPO / "feature_repo"}" }}
        spark = {{ shuffle_partitions = 2 }}
        """
    )
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    env = os.environ | {
        "AIRFLOW_HOME": str(tmp_path / "airflow"),
        "AIRFLOW__CORE__DAGS_FOLDER": str(REPO / "dags"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION": "False",
        "AIRFLOW__CORE__PARALLELISM": "2",
        "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"http://127.0.0.1:{port}/execution/",
        "AIRFLOW__API__PORT": str(port),
        "AIRFLOW__API__WORKERS": "1",
        "AIRFLOW__SCHEDULER__USE_JOB_SCHEDULE": "False",
        "AIRFLOW_CONN_SPARK_DEFAULT": json.dumps({"conn_type": "spark", "host": "local[1]"}),
        "AIRFLOW_VAR_PRECOG_SETTINGS": str(settings),
        "SPARK_SUBMIT_OPTS": f"{QUICK_JVM} {NO_GENERATED_CODE}",
        "SPARK_LOCAL_IP": "127.0.0.1",
        "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
    }
    log = tmp_path / "airflow.log"
    with log.open("w") as output:
        services = subprocess.Popen(
            [BIN / "airflow", "standalone"], env=env, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
    try:
        wait_until(lambda: "Airflow is ready" in log.read_text(), 3 * MINUTES, log)
        wait_until(lambda: "features_daily" in said(env, "dags", "list"), 2 * MINUTES, log)
        yield env
    finally:
        os.killpg(services.pid, signal.SIGINT)
        try:
            services.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(services.pid, signal.SIGKILL)


def wait_until(done: Any, seconds: float, log: Path) -> None:
    deadline = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < deadline, log.read_text()[-5000:]
        time.sleep(2)


def said(env: dict[str, str], *command: str) -> str:
    done = subprocess.run([BIN / "airflow", *command], env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def runs(env: dict[str, str]) -> list[Run]:
    lines = said(env, "dags", "list-runs", "features_daily", "--output", "json").splitlines()
    found = json.loads(lines[-1])  # Airflow's own warnings stand before it
    return sorted(
        (dt.date.fromisoformat(one["logical_date"][:10]), one["state"], one["start_date"], one["end_date"])
        for one in found
    )


def rows(spark: SparkSession, settings: Settings) -> dict[str, list[str]]:
    names = ("events", "quarantine", "user_history", "item_text")
    return {name: sorted(map(str, daily_table(settings, name).read(spark, None, D4).collect())) for name in names}


@pytest.mark.slow
def test_days_backwards_and_side_by_side_make_the_lake_that_days_in_order_make(
    airflow: dict[str, str], spark: SparkSession, tmp_path: Path
) -> None:
    settings = load_settings(airflow["AIRFLOW_VAR_PRECOG_SETTINGS"])
    write_raw(settings)
    said(
        airflow,
        *("backfill", "create", "--dag-id", "features_daily", "--run-backwards", "--max-active-runs", "2"),
        *("--from-date", D1.isoformat(), "--to-date", D4.isoformat()),
    )
    log = tmp_path / "airflow.log"
    wait_until(lambda: {state for _, state, *_ in runs(airflow)} <= {"success", "failed"}, 8 * MINUTES, log)
    found = runs(airflow)
    assert [(day, state) for day, state, *_ in found] == [(day, "success") for day in DAYS]
    starts, ends = [start for *_, start, _ in found], [end for *_, end in found]
    assert starts == sorted(starts, reverse=True)
    assert any(later_start < ends[day + 1] for day, later_start in enumerate(starts[:-1])), "no two at once"

    # What a day's histories could not know yet when it was built is found and built again.
    backfill(spark, settings, D1, D4, Console(quiet=True))
    in_order = settings_on(tmp_path / "in_order").model_copy(update={"event_types": settings.event_types})
    write_raw(in_order)
    for day in DAYS:
        for step in (ingest, build_user_histories, build_item_text):
            step(spark, in_order, day, day)
    assert rows(spark, settings) == rows(spark, in_order)
