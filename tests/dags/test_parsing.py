"""DAG files parse wherever Airflow and its Spark provider are, fast, and without reading anything of ours."""

from __future__ import annotations

import sys

from tests.dags.conftest import REPO, InAirflow

REFUSE_ALL_BUT_AIRFLOW = """
import sys

OURS = {"jobs", "model", "feature_repo", "benchmarks"}
HEAVY = {
    "faiss", "feast", "gguf", "matplotlib", "numpy", "pandas", "peft", "petastorm", "py4j", "pyarrow",
    "pydantic_settings", "pyspark", "redis", "safetensors", "scipy", "torch", "transformers",
}

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in OURS | HEAVY:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Absent())

from airflow.dag_processing.dagbag import DagBag

bag = DagBag(dag_folder=sys.argv[1])
print("errors", bag.import_errors)
print("dags", sorted(bag.dags))
"""


def test_they_parse_where_only_airflow_and_its_spark_provider_are(in_airflow: InAirflow) -> None:
    done = in_airflow(sys.executable, "-c", REFUSE_ALL_BUT_AIRFLOW, str(REPO / "dags"))
    assert "errors {}" in done.stdout, done.stdout
    assert "dags ['features_daily', 'recommend_daily', 'train']" in done.stdout


def test_parsing_reads_no_variable_and_no_connection(in_airflow: InAirflow) -> None:
    """They are read when a task runs: here they would reach for a database that does not exist."""
    done = in_airflow(
        sys.executable,
        "-c",
        REFUSE_ALL_BUT_AIRFLOW,
        str(REPO / "dags"),
        AIRFLOW__DATABASE__SQL_ALCHEMY_CONN="sqlite:////nowhere/airflow.db",
    )
    assert "errors {}" in done.stdout, done.stdout


def test_airflow_lists_no_import_errors(in_airflow: InAirflow) -> None:
    assert in_airflow("airflow", "db", "migrate").returncode == 0
    done = in_airflow("airflow", "dags", "list-import-errors", "--local")
    assert done.returncode == 0, done.stdout
    assert "No data found" in done.stdout
