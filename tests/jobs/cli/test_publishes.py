"""The list of publishes, in each state that one can be in."""

from __future__ import annotations

import datetime as dt
import shutil
import subprocess
import sys
from pathlib import Path

from jobs.common.ledger import Kind
from jobs.common.publishing import ledger_of
from jobs.common.settings import Settings
from model.generation import Manifest
from tests.shop import REPO


def publish(settings: Settings, day: int, kind: Kind, users: int | None = None, finished: bool = True) -> str:
    """A publish of that day in May, without rows. Where its publication lies."""
    ledger = ledger_of(settings)
    with ledger.lease(kind) as lease:
        begun, draft = ledger.begin(lease, kind, dt.datetime(2024, 5, day + 1, tzinfo=dt.UTC))
        if finished:
            parents = {"model": f"model/all/00000{day}", "recommendations": f"recommendations/00000{day}"}
            counts = {"users_with_list": users} if users is not None else {}
            publication = draft.commit(Manifest({"ds": f"2024-05-0{day}"}, counts, parents=parents))
            ledger.finish(lease, begun, publication, parents["recommendations"])
    return draft.uri


def publishes(settings_file: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "jobs.cli.publishes", "--settings", str(settings_file)]
    return subprocess.run(command, cwd=REPO, capture_output=True, text=True, check=False)


def test_each_publish_is_listed_with_what_became_of_it(settings: Settings, settings_file: Path) -> None:
    shutil.rmtree(publish(settings, 1, "publish", 7))
    publish(settings, 2, "publish", 1234)
    publish(settings, 3, "publish", 8)
    publish(settings, 2, "rollback", 1234)
    publish(settings, 2, "retract")
    publish(settings, 4, "publish", finished=False)
    lines = [[cell.strip() for cell in line.split("│")[1:-1]] for line in publishes(settings_file).stdout.splitlines()]
    made_by = ["model/all/000002", "recommendations/000002"]
    assert [cells for cells in lines if cells] == [
        ["6", "publish", "", "not finished", "", "", ""],
        ["5", "retract", "2024-05-02", "done", "", *made_by],
        ["4", "rollback", "2024-05-02", "online", "1,234", *made_by],
        ["3", "publish", "2024-05-03", "replaced", "8", "model/all/000003", "recommendations/000003"],
        ["2", "publish", "2024-05-02", "replaced", "1,234", *made_by],
        ["1", "publish", "", "deleted", "", "", ""],
    ]


def test_a_lake_without_publishes_says_which_step_is_missing(settings: Settings, settings_file: Path) -> None:
    answer = publishes(settings_file)
    assert answer.returncode == 2
    assert answer.stderr == f"error: Nothing was published in {settings.lake_uri} yet. Run jobs.publish first.\n"
