"""The command line of a step: a mistake is one message and exit code 2, never a trace."""

from __future__ import annotations

import subprocess
import sys

import pytest

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
