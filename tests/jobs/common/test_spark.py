"""What every session is set to, and what a person sees of a long stage."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator

import pyarrow as pa
import pytest
from pyspark.sql import SparkSession

from jobs.common.spark import watched
from tests.shop import REPO


def test_a_worker_gets_batches_that_are_bounded_in_bytes(spark: SparkSession) -> None:
    def count(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            yield pa.record_batch({"bytes": [batch.nbytes]})

    rows = spark.range(0, 80, 1, 1).selectExpr("repeat('x', 1000000) AS text")
    sizes = [row.bytes for row in rows.mapInArrow(count, "bytes long").collect()]
    assert sum(sizes) > 80_000_000
    assert max(sizes) < 40_000_000


def test_a_stage_shows_how_many_partitions_are_done(
    spark: SparkSession, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def slowly(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        time.sleep(1.5)
        yield from batches

    monkeypatch.setattr("model.progress.LOG_EVERY_SECONDS", 0.0)
    with watched(spark, "rank users"):
        spark.range(0, 8, 1, 4).mapInArrow(slowly, "id long").collect()
    lines = capsys.readouterr().out.splitlines()
    assert all(line.startswith("progress rank users, stage ") for line in lines)
    assert len(lines) > 1, "nothing was shown before the end"
    assert " 100% 4/4 partition " in lines[-1]


def test_what_runs_on_executors_needs_no_settings_library() -> None:
    code = "import sys, jobs.transforms.ranking; assert not {'pydantic', 'typer', 'feast', 'torch'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=REPO, check=True)
