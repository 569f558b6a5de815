"""The shape of the three DAGs: tasks, order, what each submits, when they run, what happens when a task fails."""

from __future__ import annotations

import datetime as dt
import importlib
import itertools
from pathlib import Path
from typing import Any

import pytest
import typer

STAGES = ["build_training_set", "train_behaviour", "train_tokenizer", "encode_items", "finetune"]
EDGES = {
    "features_daily": {
        ("ingest", "build_user_histories"),
        ("ingest", "build_item_text"),
        ("build_user_histories", "materialize"),
        ("build_item_text", "materialize"),
    },
    "train": [
        "embed_item_text",
        *(f"{stage}_temporal" for stage in STAGES),
        "evaluate",
        *(f"{stage}_all" for stage in STAGES),
        "promote",
    ],
    "recommend_daily": ["embed_item_text", "encode_items", "recommend", "publish", "report"],
}
ON_GPU = {
    "embed_item_text",
    "train_behaviour_temporal",
    "train_tokenizer_temporal",
    "finetune_temporal",
    "evaluate",
    "train_behaviour_all",
    "train_tokenizer_all",
    "finetune_all",
    "recommend",
}


def tasks_of(dags: dict[str, Any]) -> list[Any]:
    return [task for dag in dags.values() for task in dag.tasks]


def test_there_are_three_dags(dags: dict[str, Any]) -> None:
    assert set(dags) == set(EDGES)


@pytest.mark.parametrize("dag_id", EDGES)
def test_tasks_and_their_order(dags: dict[str, Any], dag_id: str) -> None:
    expected = EDGES[dag_id]
    if isinstance(expected, list):
        expected = set(itertools.pairwise(expected))
    found = {(task.task_id, below) for task in dags[dag_id].tasks for below in task.downstream_task_ids}
    assert found == expected


def test_every_task_submits_a_step_that_accepts_its_command_line(dags: dict[str, Any]) -> None:
    for task in tasks_of(dags):
        step = Path(task.application)
        assert step.is_file(), f"{task.task_id} submits {step}, which does not exist"
        assert step.parent.name == "jobs"
        rendered = [arg.replace("{{ ds }}", "2016-10-16") for arg in task.application_args]
        app = typer.Typer(add_completion=False)
        app.command()(importlib.import_module(f"jobs.{step.stem}").main)
        context = typer.main.get_command(app).make_context(step.stem, rendered)
        assert context.params["ds"] == dt.datetime(2016, 10, 16)


def test_the_split_is_in_the_task_id_and_on_the_command_line(dags: dict[str, Any]) -> None:
    for task in dags["train"].tasks:
        for split in ("temporal", "all"):
            if task.task_id.endswith(f"_{split}"):
                at = task.application_args.index("--split")
                assert task.application_args[at + 1] == split


def test_gpu_work_waits_for_the_gpu_pool_and_nothing_else_does(dags: dict[str, Any]) -> None:
    assert {task.task_id for task in tasks_of(dags) if task.pool == "gpu"} == ON_GPU
    assert {task.pool for task in tasks_of(dags) if task.task_id not in ON_GPU} == {"default_pool"}


def test_every_task_ends_and_says_why_it_is_retried(dags: dict[str, Any]) -> None:
    for task in tasks_of(dags):
        assert task.execution_timeout is not None
        assert type(task.retry_policy).__name__ == "RetryFaults"
        assert f"Retries: {task.retries}." in task.doc_md
        assert task.owner == "precog"


def test_steps_that_train_a_language_model_have_a_day(dags: dict[str, Any]) -> None:
    """TTDS trains it with the tokenizer, before the fine-tuning."""
    found = {task.task_id for task in tasks_of(dags) if task.execution_timeout >= dt.timedelta(hours=24)}
    assert found == {f"{step}_{split}" for step in ("train_tokenizer", "finetune") for split in ("temporal", "all")}


def test_only_the_gate_is_never_retried(dags: dict[str, Any]) -> None:
    assert {task.task_id for task in tasks_of(dags) if task.retries == 0} == {"promote"}


def test_a_day_that_waits_for_features_gives_them_hours(dags: dict[str, Any]) -> None:
    for dag_id in ("train", "recommend_daily"):
        (first,) = dags[dag_id].roots
        assert first.retries * first.retry_delay >= dt.timedelta(hours=4)
        assert first.retry_policy.mistakes_too


def test_nothing_runs_for_the_past_and_models_run_one_at_a_time(dags: dict[str, Any]) -> None:
    assert not any(dag.catchup for dag in dags.values())
    assert dags["train"].max_active_runs == dags["recommend_daily"].max_active_runs == 1
    assert all(dag.doc_md and dag.tags for dag in dags.values())


@pytest.mark.parametrize(
    ("dag_id", "starts", "ds"),
    [
        ("features_daily", "2026-03-04", "2026-03-03"),
        ("recommend_daily", "2026-03-04", "2026-03-03"),
        ("train", "2026-03-09", "2026-03-08"),  # a Monday, and the Sunday before
    ],
)
def test_a_scheduled_run_starts_when_its_day_is_over(dags: dict[str, Any], dag_id: str, starts: str, ds: str) -> None:
    import pendulum
    from airflow.serialization.encoders import coerce_to_core_timetable
    from airflow.timetables.base import TimeRestriction

    timetable = coerce_to_core_timetable(dags[dag_id].timetable)
    earliest = pendulum.datetime(2026, 3, 3)
    info = timetable.next_dagrun_info(
        last_automated_data_interval=None, restriction=TimeRestriction(earliest=earliest, latest=None, catchup=True)
    )
    assert info is not None
    assert info.run_after == pendulum.parse(starts)
    assert info.logical_date is not None
    assert info.logical_date.strftime("%Y-%m-%d") == ds


def test_the_sample_days_lie_after_the_start_date(dags: dict[str, Any]) -> None:
    """Airflow gives a run before its DAG's start date no tasks, and calls it a success."""
    for dag in dags.values():
        assert dag.start_date < dt.datetime(1995, 1, 1, tzinfo=dt.UTC)
