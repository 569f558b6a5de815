"""How every task of the three DAGs runs: one step of jobs/, submitted to Spark by its path.

What differs between sites comes from Airflow, never from these files:

    connection spark_default         the master: local[2], yarn, spark://…, k8s://…
    Variable precog_settings         TOML settings file (absent: $PRECOG_SETTINGS, else conf/sample.toml)
    Variable precog_py_files         our wheel or zip, where the executors do not have the package installed
    Variable precog_spark_properties file of Spark properties: executors, memory, GPU discovery, credentials
    Variable precog_driver_memory    default 2g
    pool gpu                         as many slots as GPU jobs may run at once: airflow pools set gpu 1 "GPU jobs"

Variables are read when a task runs, never when a DAG file is parsed.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from airflow.providers.apache.spark.operators.spark_submit import SparkSubmitOperator
from airflow.sdk import RetryDecision, RetryPolicy

if TYPE_CHECKING:
    from airflow.sdk import Context

JOBS = Path(__file__).resolve().parents[1] / "jobs"
DEFAULT_POOL = "default_pool"
GPU_POOL = "gpu"


@dataclass(frozen=True)
class Retries:
    """A named answer to "what if this task fails": how often it is tried again, how soon, and why."""

    reason: str
    times: int = 0
    delay: timedelta = timedelta(minutes=1)
    backoff: float = 0
    """Each delay is so many times the one before; 0 keeps it."""
    mistakes_too: bool = False
    """Whether exit code 2, "what I was given is wrong", may come right by itself."""


TRANSIENT = Retries(
    "An executor was lost or the storage had a hiccup: every step may be run again, the same rows come out.",
    times=2,
    delay=timedelta(minutes=2),
    backoff=2,
)
WAIT_FOR_INPUT = Retries(
    "The day's features may still be on their way: features_daily starts at the same moment. Six hours, then a person.",
    times=36,
    delay=timedelta(minutes=10),
    mistakes_too=True,
)
GATE = Retries("A refused gate is an answer, not a fault. Asking again would only hide it.")


class RetryFaults(RetryPolicy):
    """Retry faults, not answers: exit code 2 is a step's word that the same input will be refused again.

    Under `airflow dags test` somebody sits and waits, and nothing is tried again. Where Spark hides the exit code
    (cluster deploy mode) the task's plain number of retries applies.
    """

    def __init__(self, mistakes_too: bool) -> None:
        self.mistakes_too = mistakes_too

    def evaluate(
        self, exception: BaseException, try_number: int, max_tries: int, context: Context | None = None
    ) -> RetryDecision:
        if context is not None and context["dag_run"].triggering_user_name == "dag_test":
            return RetryDecision.fail("airflow dags test: no retries while somebody waits")
        if not self.mistakes_too and "Error code is: 2." in str(exception):
            return RetryDecision.fail("exit code 2: the step refused what it was given")
        return RetryDecision.default()


def spark_task(
    step: str,
    *args: str,
    task_id: str = "",
    retries: Retries = TRANSIENT,
    pool: str = DEFAULT_POOL,
    timeout: timedelta = timedelta(hours=2),
) -> SparkSubmitOperator:
    """The task that runs jobs/<step>.py for the day `ds`, whose interval is [ds, ds + 1 day).

    `args` follow on the step's command line. `task_id` defaults to the step's name. `timeout` ends a task that hangs.
    """
    return SparkSubmitOperator(
        task_id=task_id or step,
        application=str(JOBS / f"{step}.py"),
        application_args=["--ds", "{{ ds }}", *args, "--settings", "{{ var.value.get('precog_settings', '') }}"],
        name=f"precog.{task_id or step}.{{{{ ds }}}}",
        conn_id="spark_default",
        conf={"spark.driver.memory": "{{ var.value.get('precog_driver_memory', '2g') }}"},
        py_files="{{ var.value.get('precog_py_files', '') }}",
        properties_file="{{ var.value.get('precog_spark_properties', '') }}",
        pool=pool,
        execution_timeout=timeout,
        retries=retries.times,
        retry_delay=retries.delay,
        retry_exponential_backoff=retries.backoff,
        retry_policy=RetryFaults(retries.mistakes_too),
        doc_md=f"`jobs/{step}.py`. Retries: {retries.times}. {retries.reason}",
    )
