"""The Spark session that every step opens, what its stages may ask for, and how far they have come."""

from __future__ import annotations

import math
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pyspark import StatusTracker
from pyspark.resource import ExecutorResourceRequests, ResourceProfile, ResourceProfileBuilder, TaskResourceRequests
from pyspark.sql import SparkSession

from jobs.common.settings import Settings
from model.progress import Progress

LOGGING = Path(__file__).resolve().with_name("log4j2.properties")


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
        # A worker holds one batch of rows at a time: bounded in bytes, whatever the length of their lists.
        .config("spark.sql.execution.arrow.maxBytesPerBatch", "32m")
        # A task has one core: more threads in each worker would fight over the same cores.
        .config("spark.executorEnv.OMP_NUM_THREADS", "1")
        .config("spark.executorEnv.HF_HUB_DISABLE_PROGRESS_BARS", "1")  # nobody watches a worker's log
        .config("spark.ui.enabled", "false")
        .config("spark.ui.showConsoleProgress", "false")
    )
    if settings.spark.master:
        builder = builder.master(settings.spark.master)
    if "SPARK_ENV_LOADED" not in os.environ:  # by hand, not by spark-submit: the JVM is ours to size
        builder = builder.config("spark.driver.memory", settings.spark.driver_memory)
        builder = builder.config("spark.driver.defaultJavaOptions", f"-Dlog4j2.configurationFile={LOGGING.as_uri()}")
    spark = builder.getOrCreate()
    spark.sparkContext.setLogLevel("WARN")
    try:
        yield spark
    finally:
        spark.stop()


def inference_profile(spark: SparkSession, settings: Settings) -> ResourceProfile | None:
    """What the tasks of an inference stage need beyond a core: None without GPUs, and where tasks cannot ask for them.

    With dynamic allocation the cluster is asked for executors with a GPU, as large as the others, for this stage alone.
    Else the session's executors must have GPUs (spark.executor.resource.gpu.amount), and this stage's tasks share them.
    """
    gpus = settings.inference.gpus_per_task
    conf = spark.sparkContext.getConf()
    if not gpus or conf.get("spark.master", "").startswith("local"):
        return None
    builder = ResourceProfileBuilder().require(TaskResourceRequests().cpus(1).resource("gpu", gpus))
    if conf.get("spark.dynamicAllocation.enabled", "false") == "true":
        executor = ExecutorResourceRequests().resource(
            "gpu", math.ceil(gpus), conf.get("spark.executor.resource.gpu.discoveryScript", ""), "nvidia.com"
        )
        builder.require(executor.cores(int(conf.get("spark.executor.cores", "1"))))
    return builder.build


@contextmanager
def watched(spark: SparkSession, label: str) -> Iterator[None]:
    """Show how many partitions of each stage are done, for as long as the block runs."""
    ended = threading.Event()
    watcher = threading.Thread(target=_watch, args=(spark.sparkContext.statusTracker(), label, ended), daemon=True)
    watcher.start()
    try:
        yield
    finally:
        ended.set()
        watcher.join()


def _watch(tracker: StatusTracker, label: str, ended: threading.Event) -> None:
    shown: dict[int, tuple[Progress, int]] = {}
    over = False
    while not over:
        over = ended.wait(1)  # and one last look
        for stage in filter(None, map(tracker.getStageInfo, sorted({*shown, *tracker.getActiveStageIds()}))):
            if stage.stageId not in shown:
                shown[stage.stageId] = Progress(f"{label}, stage {stage.stageId}", stage.numTasks, "partition"), 0
            progress, done = shown[stage.stageId]
            if stage.numCompletedTasks > done:
                progress.advance(stage.numCompletedTasks - done)
                shown[stage.stageId] = progress, stage.numCompletedTasks
    for progress, _ in shown.values():
        progress.close()
