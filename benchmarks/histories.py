"""What user histories cost: a day beside the whole past, ten times the events, and DuckDB computing the same.

python -m benchmarks.histories [--quick]

One year of events; on its last day 1% of the users are active. The lake is laid out as ingest leaves it: one
generation for all days but the last, one for the last. Spark runs on local[2] and is started and warmed up beforehand,
DuckDB has two threads and the same memory; both write Parquet, and must write the same rows.
"""

from __future__ import annotations

import datetime as dt
import os
import resource
import shutil
from pathlib import Path
from typing import Annotated

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import typer
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from benchmarks.figures import Figure, interleaved_seconds, publish
from jobs.build_user_histories import build_user_histories
from jobs.common.contracts import daily_table
from jobs.common.settings import Settings
from jobs.common.spark import open_spark
from jobs.ingest import write_events
from model.generation import Manifest
from model.progress import Progress

ROOT = Path("build/histories")
FIRST, DAYS = dt.date(2023, 1, 1), 365
LAST = FIRST + dt.timedelta(days=DAYS - 1)
EVENTS_PER_VISIT, ACTIVE_SHARE, ITEMS, MAX_ITEMS = 8, 0.01, 200_000, 50
MEMORY = "8g"


def settings_of(name: str) -> Settings:
    return Settings(
        lake_uri=str(ROOT / name),
        input={"events_uri": "", "catalogue_uri": ""},
        event_types={"buy": {}},
        histories={"max_items": MAX_ITEMS},
        spark={"master": "local[2]", "shuffle_partitions": 32, "driver_memory": MEMORY},
    )


def make_events(spark: SparkSession, settings: Settings, events: int) -> None:
    """A lake with so many events: every day ACTIVE_SHARE of the users, drawn at random, make EVENTS_PER_VISIT each."""
    visits = events // (DAYS * EVENTS_PER_VISIT)
    users = round(visits / ACTIVE_SHARE)
    raw = Path(settings.lake_uri, "raw")
    raw.mkdir(parents=True)
    progress = Progress("events", DAYS)
    for day in range(DAYS):
        rng = np.random.default_rng(day)
        user = np.repeat(rng.choice(users, visits, replace=False), EVENTS_PER_VISIT)
        second = rng.integers(86_400, size=len(user))
        midnight = np.datetime64(FIRST + dt.timedelta(days=day), "us")
        item = rng.zipf(1.2, len(user)) % ITEMS
        columns = {
            "user_id": pa.array(np.char.add("u", user.astype(str))),
            "item_id": pa.array(np.char.add("i", item.astype(str))),
            "event_time": pa.array(midnight + second * np.timedelta64(1_000_000, "us"), pa.timestamp("us", tz="UTC")),
        }
        pq.write_table(pa.table(columns), raw / f"{day:03}.parquet")
        progress.advance()
    progress.close()
    rows = spark.read.parquet(str(raw)).selectExpr(
        "*", "'buy' AS event_type", "0L AS event_seq", "date(event_time) AS ds"
    )
    for start, end in ((FIRST, LAST - dt.timedelta(days=1)), (LAST, LAST)):
        write_events(settings, rows.where(F.col("ds").between(F.lit(start), F.lit(end))), start, end, Manifest())
    shutil.rmtree(raw)


def files_of(settings: Settings, table: str) -> list[str]:
    return [f"{one.path('rows')}/*.parquet" for one, _, _ in daily_table(settings, table).owners(None, LAST)]


def connect() -> duckdb.DuckDBPyConnection:
    return duckdb.connect(config={"threads": 2, "memory_limit": MEMORY.upper() + "B"})


def rebuild_by_duckdb(settings: Settings) -> None:
    """The same rows from the same files: each user's newest events at the end of each active day."""
    with connect() as connection:
        connection.execute(
            f"""
            COPY (
                SELECT user_id, ds, events_total, (ds + 1)::TIMESTAMP AS event_timestamp,
                    list_transform(newest, lambda e: e.item_id) AS item_ids,
                    list_transform(newest, lambda e: e.event_type) AS event_types,
                    list_transform(newest, lambda e: e.event_time) AS event_times,
                    list_transform(newest, lambda e: e.gap) AS seconds_since_previous
                FROM (
                    SELECT user_id, ds, events_total, next_ds,
                        list(event) OVER (PARTITION BY user_id ORDER BY events_total
                            ROWS BETWEEN {MAX_ITEMS - 1} PRECEDING AND CURRENT ROW) AS newest
                    FROM (
                        SELECT user_id, ds, row_number() OVER w AS events_total, lead(ds) OVER w AS next_ds,
                            {{'item_id': item_id, 'event_type': event_type, 'event_time': event_time,
                              'gap': coalesce(epoch(event_time) - lag(epoch(event_time)) OVER w, 0)::BIGINT}} AS event
                        FROM read_parquet({files_of(settings, "events")})
                        WINDOW w AS (PARTITION BY user_id ORDER BY event_time, event_seq, item_id, event_type)
                    )
                )
                WHERE next_ds IS NULL OR next_ds > ds
            ) TO '{by_duckdb(settings)}' (FORMAT parquet)
            """  # noqa: S608  our own paths
        )


def by_duckdb(settings: Settings) -> str:
    return f"{settings.lake_uri}/duckdb.parquet"


def require_same_rows(settings: Settings) -> None:
    columns = "user_id, ds, events_total, item_ids, event_types, seconds_since_previous"
    with connect() as connection:
        sides = [
            connection.execute(f"SELECT count(*), sum(hash({columns})) FROM read_parquet({files})").fetchone()  # noqa: S608
            for files in (files_of(settings, "user_history"), [by_duckdb(settings)])
        ]
    if sides[0] != sides[1]:
        raise ValueError(f"Spark and DuckDB wrote different rows (how many, sum of their hashes): {sides}.")


def main(quick: Annotated[bool, typer.Option("--quick", help="A tenth of the events.")] = False) -> None:
    large, rounds = (3_000_000, 1) if quick else (30_000_000, 3)
    small = large // 10
    shutil.rmtree(ROOT, ignore_errors=True)
    lakes = {events: settings_of(str(events)) for events in (large, small)}
    with open_spark(lakes[large], "histories") as spark:
        for events, settings in lakes.items():
            make_events(spark, settings, events)
        for start in (FIRST, LAST, LAST, LAST):  # the first queries of a JVM pay for its classes and its compiler
            build_user_histories(spark, lakes[small], start, LAST)
        bytes_read: dict[str, int] = {}

        def build(events: int, start: dt.date, name: str) -> None:
            before = _bytes_read(spark)
            build_user_histories(spark, lakes[events], start, LAST)
            bytes_read[name] = _bytes_read(spark) - before

        day, full, full_small, duck = interleaved_seconds(
            rounds,
            lambda: build(large, LAST, "day"),
            lambda: build(large, FIRST, "full"),
            lambda: build(small, FIRST, "full_small"),
            lambda: rebuild_by_duckdb(lakes[large]),
        )
        jvm_peak = int(_of_jvm(spark, "status", "VmHWM:")) / 2**20
    require_same_rows(lakes[large])
    print(f"a day {day:.1f} s, all days {full:.1f} s ({full_small:.1f} s for a tenth), DuckDB {duck:.1f} s")
    publish(
        "histories",
        f"{large:,} and {small:,} events over {DAYS} days, {ACTIVE_SHARE:.0%} of the users a day, local[2]",
        [
            Figure("histories.day_share", day / full, "" if quick else "<=0.05"),
            Figure("histories.day_bytes_share", bytes_read["day"] / bytes_read["full"]),
            Figure("histories.day_mib_read", bytes_read["day"] / 2**20),
            Figure("histories.growth", (full / large) / (full_small / small), "<=1.25"),
            Figure("histories.vs_duckdb", full / duck, "<=2"),
            Figure("histories.jvm_peak_gib", jvm_peak),
            Figure("histories.duckdb_and_driver_peak_gib", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20),
        ],
    )


def _bytes_read(spark: SparkSession) -> int:
    """Bytes that the JVM has read so far, shuffles too. (Spark's own count misses the Parquet reader's.)"""
    return int(_of_jvm(spark, "io", "rchar:"))


def _of_jvm(spark: SparkSession, file: str, field: str) -> str:
    """A value that Linux keeps of the JVM."""
    pid = spark.sparkContext._jvm.java.lang.ProcessHandle.current().pid()  # type: ignore[union-attr]
    return Path(f"/proc/{pid}/{file}").read_text().split(field)[1].split()[0]


if __name__ == "__main__":
    os.environ.setdefault("SPARK_LOCAL_IP", "127.0.0.1")
    typer.run(main)
