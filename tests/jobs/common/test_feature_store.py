"""Environment, registration and errors of the way to Feast. What goes online is tested beside the steps."""

from __future__ import annotations

import datetime as dt
import os
from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from jobs.common.contracts import daily_table
from jobs.common.feature_store import environment, open_store, register_view, register_views, run_feast
from jobs.common.settings import Feast, Settings
from model.generation import Manifest

DAY = dt.date(2024, 5, 1)


def with_feast(settings: Settings, **changes: str) -> Settings:
    return settings.model_copy(update={"feast": Feast(**changes)})


def test_the_environment_is_what_the_yaml_reads(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    ours = with_feast(settings, project="shop", user_key="customer_id")
    for name, value in environment(ours).items():
        monkeypatch.setenv(name, value)  # open_store sets them too; this takes them away again
    store = open_store(ours)
    assert store.project == "shop"
    assert store.config.online_store.path == f"{settings.lake_uri}/feast/online.db"
    assert environment(ours)["PRECOG_FEAST_USER_KEY"] == "customer_id"
    assert Path(os.environ["FEAST_FS_YAML_FILE_PATH"]).is_absolute()


def test_a_wrong_yaml_is_named(settings: Settings) -> None:
    with pytest.raises(ValueError, match=r"feature_repo/none\.yaml does not exist: look at the settings"):
        open_store(with_feast(settings, config="none.yaml"))


def test_feasts_own_error_is_shown(settings: Settings) -> None:
    with pytest.raises(ValueError, match=r"(?s)feast no-such-command failed.*No such command"):
        run_feast(settings, "no-such-command", quiet=True)


def test_views_bear_the_teams_join_keys(spark: SparkSession, settings: Settings) -> None:
    rows = spark.createDataFrame([("ann",)], "user_id string")
    register_view(with_feast(settings, user_key="customer_id"), "keyed", rows)
    assert spark.table("keyed").columns == ["customer_id"]


def test_views_hold_the_days_up_to_one(spark: SparkSession, settings: Settings) -> None:
    table = daily_table(settings, "user_history")
    for day in (DAY, DAY + dt.timedelta(days=1)):
        end = dt.datetime.combine(day + dt.timedelta(days=1), dt.time(), tzinfo=dt.UTC)
        rows = [("ann", ["i1"], ["buy"], [end], [0], 1, end, day)]
        table.write(spark.createDataFrame(rows, table.schema), day, day, Manifest())
    register_views(spark, settings, DAY)
    assert [row.ds for row in spark.table("user_history").select("ds").collect()] == [DAY]
    assert spark.table("item_text").count() == 0
