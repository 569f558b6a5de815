"""spark_task under Airflow's own runner: a real `airflow dags test`, a real spark-submit, a step of ten lines."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from jobs.cli.sample_airflow import dag_test
from jobs.cli.watch import TaskLog
from tests.dags.conftest import REPO, InAirflow

STEP = """
import json, os, sys
print("progress greet 50% 1/2 step 1 s, 1 s left", flush=True)
with open(os.environ["STEP_ARGS"], "a") as file:
    file.write(json.dumps(sys.argv[1:]) + "\\n")
if "--refuse" in sys.argv:
    print("error: nothing to greet", file=sys.stderr)
    raise SystemExit(2)
"""

DAG_FILE = """
import datetime as dt
from airflow.sdk import DAG, CronDataIntervalTimetable
from spark_task import WAIT_FOR_INPUT, spark_task

midnight = CronDataIntervalTimetable("0 0 * * *", timezone="UTC")
with DAG("greetings", schedule=midnight, start_date=dt.datetime(1990, 1, 1)):
    spark_task("greet") >> spark_task("greet", "--refuse", task_id="refuse", retries=WAIT_FOR_INPUT)
"""


@pytest.fixture
def house(tmp_path: Path) -> Path:
    for folder in ("dags", "jobs"):
        (tmp_path / "house" / folder).mkdir(parents=True)
    shutil.copy(REPO / "dags" / "spark_task.py", tmp_path / "house" / "dags")
    (tmp_path / "house" / "dags" / "greetings.py").write_text(DAG_FILE)
    (tmp_path / "house" / "jobs" / "greet.py").write_text(STEP)
    return tmp_path / "house"


@pytest.fixture
def env(house: Path) -> dict[str, str]:
    return {
        "AIRFLOW__CORE__DAGS_FOLDER": str(house / "dags"),
        "AIRFLOW_CONN_SPARK_DEFAULT": json.dumps({"conn_type": "spark", "host": "local[1]"}),
        "AIRFLOW_VAR_PRECOG_SETTINGS": "conf/other.toml",
        "STEP_ARGS": str(house / "args"),
    }


def seen_by_make_run(output: str) -> TaskLog:
    log = TaskLog()
    for line in output.splitlines():
        log.read(line)
    return log


def test_a_run_submits_its_day_fails_without_waiting_and_goes_on_where_it_stopped(
    house: Path, env: dict[str, str], in_airflow: InAirflow
) -> None:
    assert in_airflow("airflow", "db", "migrate", **env).returncode == 0

    first = in_airflow(*dag_test("greetings", "2016-10-16", []), **env)
    assert first.returncode == 1, first.stdout
    assert "no retries while somebody waits" in first.stdout
    log = seen_by_make_run(first.stdout)
    assert [(task.name, task.state) for task in log.tasks] == [("greet", "success"), ("refuse", "failed")]
    assert log.tasks[0].note == "greet 50% 1/2 step 1 s, 1 s left"
    assert log.tasks[1].by_hand.endswith("python -m jobs.greet --ds 2016-10-16 --refuse --settings conf/other.toml")
    assert "error: nothing to greet" in log.tail()

    second = in_airflow(*dag_test("greetings", "2016-10-16", ["greet"]), **env)
    log = seen_by_make_run(second.stdout)
    assert [(task.name, task.state) for task in log.tasks] == [("greet", "already done"), ("refuse", "failed")]

    submitted = [json.loads(line) for line in (house / "args").read_text().splitlines()]
    greet = ["--ds", "2016-10-16", "--settings", "conf/other.toml"]
    refuse = ["--ds", "2016-10-16", "--refuse", "--settings", "conf/other.toml"]
    assert submitted == [greet, refuse, refuse]


class ScheduledRun:
    triggering_user_name = None


def evaluate(task: Any, message: str) -> str:
    decision = task.retry_policy.evaluate(RuntimeError(message), 1, task.retries, {"dag_run": ScheduledRun()})
    return str(decision.action.value)


def test_a_refusal_is_final_except_for_who_waits_for_input(dags: dict[str, Any]) -> None:
    refused = "Cannot execute: spark-submit --master local[2] jobs/publish.py. Error code is: 2."
    crashed = "Cannot execute: spark-submit --master local[2] jobs/publish.py. Error code is: 1."
    recommend = {task.task_id: task for task in dags["recommend_daily"].tasks}
    assert evaluate(recommend["publish"], refused) == "fail"
    assert evaluate(recommend["publish"], crashed) == "default"
    assert evaluate(recommend["embed_item_text"], refused) == "default"
