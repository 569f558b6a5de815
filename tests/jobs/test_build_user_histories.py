"""The step user histories: the order of builds does not matter, and a day that was not ingested is refused."""

from __future__ import annotations

import datetime as dt

import pytest
from pyspark.sql import Row, SparkSession
from pyspark.sql import functions as F

from jobs.build_user_histories import build_user_histories
from jobs.common.contracts import daily_table
from jobs.common.settings import Settings
from jobs.ingest import ingest
from tests.jobs.raw_data import D1, D2, D3, D4, at, event, film, write_catalogue, write_events


@pytest.fixture
def ingested(spark: SparkSession, settings: Settings) -> Settings:
    write_catalogue(settings, film("a", at(D1)), film("b", at(D1)))
    write_events(
        settings,
        event("u", "a", at(D1)),
        event("u", "b", at(D3)),
        event("v", "b", at(D2)),
        event("v", "a", at(D3)),
        event("w", "a", at(D1)),
    )
    ingest(spark, settings, D1, D3)
    return settings


def histories(spark: SparkSession, settings: Settings) -> list[Row]:
    rows = daily_table(settings, "user_history").read(spark, None, D4)
    return (
        rows.withColumn("event_timestamp", F.col("event_timestamp").cast("string")).orderBy("ds", "user_id").collect()
    )


def test_days_one_by_one_in_any_order_equal_one_build_of_the_range(spark: SparkSession, ingested: Settings) -> None:
    for day in (D3, D1, D2):
        build_user_histories(spark, ingested, day, day)
    one_by_one = histories(spark, ingested)
    assert [(row.ds, row.user_id, row.item_ids, row.events_total, row.event_timestamp) for row in one_by_one] == [
        (D1, "u", ["a"], 1, "2020-01-02 00:00:00"),
        (D1, "w", ["a"], 1, "2020-01-02 00:00:00"),
        (D2, "v", ["b"], 1, "2020-01-03 00:00:00"),
        (D3, "u", ["a", "b"], 2, "2020-01-04 00:00:00"),
        (D3, "v", ["b", "a"], 2, "2020-01-04 00:00:00"),
    ]
    together = build_user_histories(spark, ingested, D1, D3)
    assert histories(spark, ingested) == one_by_one
    again = build_user_histories(spark, ingested, D1, D3)
    assert again.manifest.checksums == together.manifest.checksums
    assert list(together.manifest.parents.values()) == ["events/000001"]


@pytest.mark.parametrize("days", [(D4, D4), (D3, D4)])
def test_a_day_that_was_not_ingested_is_refused_with_the_command(
    spark: SparkSession, ingested: Settings, days: tuple[dt.date, dt.date]
) -> None:
    with pytest.raises(ValueError, match=r"python -m jobs\.ingest --from 2020-01-04 --to 2020-01-04"):
        build_user_histories(spark, ingested, *days)
