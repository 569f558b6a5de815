"""The sample's own Airflow: a home in .airflow/, no service, and JVMs that start fast."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import subprocess
import sys
from collections.abc import Collection
from functools import cache
from pathlib import Path

REPO = Path(__file__).resolve().parents[2]
HOME = REPO / ".airflow"
BIN = Path(sys.executable).parent
CACHE = REPO / ".cache"

QUICK_JVM = "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC -Xlog:disable"
"""For JVMs that live for seconds: one compiler tier, one collector thread. Halves the CPU time of an empty session."""

NO_GENERATED_CODE = "-Dspark.sql.codegen.wholeStage=false -Dspark.sql.codegen.factoryMode=NO_CODEGEN"
"""For queries over little data: to write and compile Java for each takes longer than to interpret it."""


def environment(settings_file: str, record_classes: bool = False) -> dict[str, str]:
    """What Airflow and the steps of the sample run with. The user's own SPARK_*, OMP_* win.

    With `record_classes` the JVM leaves the class archive at its end; `keep_classes` puts it in use.
    """
    if class_archive().is_file():
        classes = f" -XX:SharedArchiveFile={class_archive()}"
    else:
        CACHE.mkdir(exist_ok=True)
        classes = f" -XX:ArchiveClassesAtExit={_recording()}" if record_classes else ""
    defaults = {
        "SPARK_SUBMIT_OPTS": f"{QUICK_JVM} {NO_GENERATED_CODE}{classes}",
        "SPARK_LOCAL_IP": "127.0.0.1",
        "GOMP_SPINCOUNT": "20000",  # threads that wait spin for microseconds, then sleep: fast alone and beside others
    }
    sample = {
        "AIRFLOW_HOME": str(HOME),
        "AIRFLOW__CORE__DAGS_FOLDER": str(REPO / "dags"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__USAGE_DATA_COLLECTION__ENABLED": "False",
        "AIRFLOW_CONN_SPARK_DEFAULT": json.dumps({"conn_type": "spark", "host": "local[2]"}),
        "AIRFLOW_VAR_PRECOG_SETTINGS": settings_file,
        "PATH": f"{BIN}{os.pathsep}{os.environ.get('PATH', '')}",
    }
    return {**defaults, **os.environ, **sample}


@cache
def class_archive() -> Path:
    """Spark's classes as one JVM left them, for the next to map: seconds less CPU time for each (JEP 350, JEP 310).

    Named after the Java and the Spark that it fits.
    """
    home = os.environ.get("JAVA_HOME")
    java = f"{home}/bin/java" if home else "java"
    said = subprocess.run([java, "-version"], capture_output=True, text=True, check=True).stderr  # noqa: S603  our own
    fits = f"{said}{importlib.metadata.version('pyspark')}{BIN}"
    return CACHE / f"spark-classes-{hashlib.sha256(fits.encode()).hexdigest()[:16]}.jsa"


def keep_classes() -> None:
    """Put the archive of a JVM that ended well in use. One that was killed leaves a part, which never gets the name."""
    if _recording().is_file():
        _recording().rename(class_archive())


def _recording() -> Path:
    return class_archive().with_suffix(".new")


def dag_test(dag_id: str, day: str, finished_tasks: Collection[str]) -> list[str]:
    """The command that runs a DAG for a day in one process, without the tasks that finished before."""
    skip = ["--mark-success-pattern", "|".join(finished_tasks)] if finished_tasks else []
    return [str(BIN / "airflow"), "dags", "test", *skip, dag_id, day]


def prepare(env: dict[str, str]) -> None:
    """Make Airflow's database and the GPU pool, once for each version of Airflow. ValueError when that fails."""
    ready = HOME / f"ready-{importlib.metadata.version('apache-airflow')}"
    if ready.is_file():
        return
    for command in (["db", "migrate"], ["pools", "set", "gpu", "1", "GPU jobs at once"]):
        done = subprocess.run(  # noqa: S603  our own arguments
            [str(BIN / "airflow"), *command],
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            raise ValueError(f"airflow {' '.join(command)} failed. Remove {HOME} and run again.\n{done.stdout.strip()}")
    ready.touch()
