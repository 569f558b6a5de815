"""The command line of a step: a mistake is one message and exit code 2, never a trace."""

from __future__ import annotations

import importlib
import subprocess
import sys
from collections.abc import Iterator

import fsspec
import pyarrow as pa
import pytest
from pyspark.errors import PythonException
from pyspark.sql import SparkSession

from jobs.common.step import TryAgainError, run


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["ingest", "--ds", "yesterday"], ["--ds", "yesterday", "%Y-%m-%d"]),
        (["ingest"], ["--ds DAY", "--from DAY and --to DAY"]),
        (["recommend"], ["Missing option", "--ds"]),
        (["finetune", "--ds", "2016-10-16", "--split", "some"], ["--split", "some", "temporal"]),
        (["rollback", "--to-publish", "first"], ["--to-publish", "integer"]),
        (["publish", "--ds", "2016-10-16", "--settings", "nowhere.toml"], ["nowhere.toml", "does not exist"]),
        (["cli.backfill", "--from", "2016-10-16"], ["--from DAY and --to DAY"]),
        (["cli.features", "plan", "--settings", "nowhere.toml"], ["nowhere.toml", "does not exist"]),
    ],
    ids=" ".join,
)
def test_a_mistake_is_told_without_a_trace(arguments: list[str], words: list[str]) -> None:
    step, *options = arguments
    done = subprocess.run([sys.executable, "-m", f"jobs.{step}", *options], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    for word in words:
        assert word in done.stderr


def test_a_mistake_that_a_worker_of_sparks_meets_is_told_too(
    spark: SparkSession, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        raise ValueError("the model has another teacher.\nName it.")
        yield from batches

    def fail(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        try:
            yield from refuse(batches)
        except ValueError as error:
            raise KeyError("ours") from error

    def main(fails: bool = False) -> None:
        spark.range(1).mapInArrow(fail if fails else refuse, "id long").collect()

    monkeypatch.setattr(sys, "argv", ["recommend"])
    with pytest.raises(SystemExit) as end:
        run(main)
    assert end.value.code == 2
    assert capsys.readouterr().err.endswith("error: the model has another teacher.\nName it.\n")
    monkeypatch.setattr(sys, "argv", ["recommend", "--fails"])
    with pytest.raises(PythonException, match="KeyError: 'ours'"):
        run(main)


def test_a_file_system_that_is_not_installed_is_told_and_a_missing_module_of_ours_is_not(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def main(ours: bool = False) -> None:
        if ours:
            importlib.import_module("model.nowhere")
        fsspec.url_to_fs("gdrive://lake")

    monkeypatch.setattr(sys, "argv", ["ingest"])
    with pytest.raises(SystemExit) as end:
        run(main)
    assert end.value.code == 2
    assert "error: " in capsys.readouterr().err
    monkeypatch.setattr(sys, "argv", ["ingest", "--ours"])
    with pytest.raises(ModuleNotFoundError, match="nowhere"):
        run(main)


def test_what_may_come_right_by_itself_has_an_exit_code_of_its_own(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def main() -> None:
        raise TryAgainError("publish is writing online")

    monkeypatch.setattr(sys, "argv", ["materialize"])
    with pytest.raises(SystemExit) as end:
        run(main)
    assert end.value.code == 75, "Airflow retries it: only 2 says that it is of no use"
    assert "error: publish is writing online" in capsys.readouterr().err
