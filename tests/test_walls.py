"""The walls of the house: who may import whom, how long a file may be, what no file may hold."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[1]
SOURCES = sorted(
    path for folder in ("dags", "jobs", "feature_repo", "model", "benchmarks") for path in (REPO / folder).rglob("*.py")
)
OURS = {"jobs", "model", "dags", "feature_repo", "benchmarks", "tests"}
LONGEST = 320


def imports(path: Path) -> Iterator[str]:
    """Top-level packages that a file imports, anywhere in it."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (name.name.partition(".")[0] for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield (node.module or "").partition(".")[0]


def of(folder: str) -> list[Path]:
    return [path for path in SOURCES if path.relative_to(REPO).parts[0] == folder]


def name(path: Path) -> str:
    return str(path.relative_to(REPO))


@pytest.mark.parametrize("path", of("model"), ids=name)
def test_model_runs_alone_on_a_gpu_host(path: Path) -> None:
    forbidden = (OURS - {"model"}) | {"pyspark", "feast", "airflow", "pydantic", "pydantic_settings", "rich", "typer"}
    assert not forbidden & set(imports(path))


@pytest.mark.parametrize("path", of("model"), ids=name)
def test_model_reads_no_environment(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert not re.search(r"os\.environ|getenv|environ\[", text)


@pytest.mark.parametrize("path", of("jobs"), ids=name)
def test_jobs_do_not_import_dags_nor_benchmarks(path: Path) -> None:
    assert not {"dags", "benchmarks", "tests", "airflow"} & set(imports(path))


@pytest.mark.parametrize("path", of("dags"), ids=name)
def test_dags_import_airflow_and_the_standard_library_alone(path: Path) -> None:
    assert set(imports(path)) <= {"airflow", "spark_task"} | sys.stdlib_module_names


@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_nothing_imports_the_feast_definitions(path: Path) -> None:
    assert "feature_repo" not in set(imports(path))


@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_files_are_short(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) < LONGEST


@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_no_artefact_is_a_pickle(path: Path) -> None:
    """Neither written nor read: no pickle module, no torch.save or load, no NumPy or pandas pickles."""
    assert not {"pickle", "dill", "cloudpickle", "joblib"} & set(imports(path))
    assert not re.search(r"torch\.(save|load)\(|allow_pickle\s*=\s*True|to_pickle|read_pickle", path.read_text("utf-8"))


@pytest.mark.parametrize("path", of("jobs"), ids=name)
def test_no_module_of_jobs_shadows_a_standard_one(path: Path) -> None:
    """spark-submit puts jobs/ itself on the path: jobs/types.py would become everybody's `types`."""
    assert path.parent.name != "jobs" or path.stem not in sys.stdlib_module_names


def test_no_file_names_a_place_of_one_machine() -> None:
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=REPO,
        capture_output=True,
        check=True,
    )
    files = [REPO / file.decode() for file in listed.stdout.split(b"\0") if file]
    homes = re.compile(rb"/(?:home|Users)/[a-z]\w+/|/root/|file:///")
    found = [
        name(file)
        for file in files
        if file.is_file() and file.name != Path(__file__).name and homes.search(file.read_bytes())
    ]
    assert found == []
