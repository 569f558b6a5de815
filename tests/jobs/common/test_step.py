"""The command line of a step: a mistake is one message and exit code 2, never a trace."""

from __future__ import annotations

import subprocess
import sys

import pytest


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
