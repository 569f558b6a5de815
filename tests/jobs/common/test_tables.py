"""Daily tables: each day is read from the newest finished generation that covers it."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import pytest
from pyspark.sql import SparkSession
from pyspark.sql.types import StringType, StructField, StructType

from jobs.common.tables import DailyTable
from model.generation import Manifest

DAY = [dt.date(2020, 1, day) for day in range(1, 8)]


@pytest.fixture
def table(spark: SparkSession, tmp_path: Path) -> DailyTable:
    schema = spark.createDataFrame([], "user_id string, value int, ds date").schema
    return DailyTable(str(tmp_path), "visits", schema)


def write(spark: SparkSession, table: DailyTable, value: int, *days: dt.date) -> str:
    rows = spark.createDataFrame([("u", value, day) for day in days], table.schema)
    return table.write(rows, days[0], days[-1], Manifest()).identity


def values(spark: SparkSession, table: DailyTable, start: dt.date | None, end: dt.date) -> dict[int, int]:
    return {row.ds.day: row.value for row in table.read(spark, start, end).collect()}


def test_a_rebuilt_day_replaces_only_itself(spark: SparkSession, table: DailyTable) -> None:
    bootstrap = write(spark, table, 1, *DAY[:5])
    rebuilt = write(spark, table, 2, DAY[2])
    assert values(spark, table, None, DAY[6]) == {1: 1, 2: 1, 3: 2, 4: 1, 5: 1}
    assert values(spark, table, DAY[2], DAY[3]) == {3: 2, 4: 1}
    assert set(table.parents(None, DAY[6]).values()) == {bootstrap, rebuilt}
    assert set(table.parents(DAY[3], DAY[6]).values()) == {bootstrap}


def test_an_unfinished_rebuild_is_not_seen(spark: SparkSession, table: DailyTable) -> None:
    write(spark, table, 1, *DAY[:2])
    draft = table.store.begin()
    spark.createDataFrame([("u", 9, DAY[0])], table.schema).write.parquet(draft.path("rows"))
    assert values(spark, table, None, DAY[1]) == {1: 1, 2: 1}


def test_an_empty_day_hides_the_older_rows(spark: SparkSession, table: DailyTable) -> None:
    write(spark, table, 1, *DAY[:3])
    empty = spark.createDataFrame([], table.schema)
    generation = table.write(empty, DAY[1], DAY[1], Manifest())
    assert generation.manifest.counts == {"rows": 0}
    assert values(spark, table, None, DAY[2]) == {1: 1, 3: 1}


def test_nothing_written_reads_as_no_rows(spark: SparkSession, table: DailyTable) -> None:
    assert values(spark, table, None, DAY[6]) == {}


def test_a_column_that_older_rows_lack_reads_as_null(spark: SparkSession, table: DailyTable, tmp_path: Path) -> None:
    write(spark, table, 1, *DAY[:3])
    now = DailyTable(str(tmp_path), "visits", StructType([*table.schema, StructField("code", StringType())]))
    now.write(spark.createDataFrame([("u", 2, DAY[1], "7-7")], now.schema), DAY[1], DAY[1], Manifest())
    assert {row.ds.day: row.code for row in now.read(spark, None, DAY[6]).collect()} == {1: None, 2: "7-7", 3: None}
    assert [row.code for row in now.read(spark, DAY[2], DAY[2]).collect()] == [None]


def test_checksum_follows_rows_not_their_order(spark: SparkSession, table: DailyTable) -> None:
    rows = [(f"u{i}", i, DAY[0]) for i in range(50)]
    first, second = (
        table.write(spark.createDataFrame(some, table.schema).repartition(3), DAY[0], DAY[0], Manifest()).manifest
        for some in (rows, rows[::-1])
    )
    other = table.write(spark.createDataFrame(rows[1:], table.schema), DAY[0], DAY[0], Manifest()).manifest
    assert first.checksums == second.checksums != other.checksums
    assert first.counts == {"rows": 50}


def test_as_it_was_among_the_generations_of_then(spark: SparkSession, table: DailyTable) -> None:
    then = [write(spark, table, 1, *DAY[:3])]
    write(spark, table, 2, DAY[1])
    assert {row.ds.day: row.value for row in table.read(spark, None, DAY[6], then).collect()} == {1: 1, 2: 1, 3: 1}
    assert [owner.identity for owner, _, _ in table.owners(None, DAY[6], then)] == then


def test_what_was_read_stays_so_until_a_day_is_written(spark: SparkSession, table: DailyTable) -> None:
    write(spark, table, 1, *DAY[:4])
    read = list(table.parents(None, DAY[2]).values())
    assert table.was_read(read, until=DAY[2], end=DAY[1])
    assert not table.was_read(read, until=DAY[2], end=DAY[3]), "the generation goes on behind what was read of it"
    write(spark, table, 2, DAY[5])
    assert table.was_read(read, until=DAY[6], end=DAY[4])
    assert not table.was_read(read, until=DAY[6], end=DAY[5])
    write(spark, table, 3, DAY[0])
    assert not table.was_read(read, until=DAY[2], end=DAY[2])
