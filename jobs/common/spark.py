"""The Spark session that every step opens, and nothing else that is global."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from pyspark.sql import SparkSession

from jobs.common.settings import Settings


@contextmanager
def open_spark(settings: Settings, name: str) -> Iterator[SparkSession]:
    """A session in UTC, stopped at the end; one that is open already is used and left open.

    spark-submit's own options win over ours where both speak.
    """
    active = SparkSession.getActiveSession()
    if active is not None:
        yield active
        return
    # Workers must run in this environment: Feast's engine and our model code are imported there.
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    builder = (
        SparkSession.builder.appName(f"precog.{name}")
        .config("spark.sql.session.timeZone", "UTC")
        .config("spark.sql.shuffle.partitions", settings.spark.shuffle_partitions)
        .config("spark.sql.execution.arrow.pyspark.enabled", "true")
        .config("spark.sql.sources.partitionColumnTypeInference.enabled", "false")
        # A task has one core: more threads in each worker would fight over the same cores.
        .config("spark.executorEnv.OMP_NUM_THREADS", "1")
        .config("spark.ui.enabled", "false")
        .config("spark.ui.showConsoleProgress", "false")
    )
    if settings.spark.master:
        builder = builder.master(settings.spark.master)
    if "SPARK_ENV_LOADED" not in os.environ:  # by hand, not by spark-submit: the JVM is ours to size
        builder = builder.config("spark.driver.memory", settings.spark.driver_memory)
    spark = builder.getOrCreate()
    spark.sparkContext.setLogLevel("WARN")
    try:
        yield spark
    finally:
        spark.stop()
