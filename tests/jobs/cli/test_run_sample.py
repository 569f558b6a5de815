"""`make run`: what it starts again, how it shows a failure, and that ending it ends all that it started."""

from __future__ import annotations

import datetime as dt
import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from rich.console import Console

from jobs.cli.run_records import LIVE_MODEL, RAW, Record, fingerprint
from jobs.cli.run_sample import Run, Sample, plan
from jobs.cli.watch import Task, TaskLog, run_watched
from jobs.common.artefacts import store
from jobs.common.settings import Settings, load_settings
from model.generation import Manifest

DAY = dt.date(2016, 10, 16)


@pytest.fixture
def settings_file(tmp_path: Path) -> Path:
    file = tmp_path / "settings.toml"
    file.write_text(
        f"""
        lake_uri = "{tmp_path}/lake"
        [input]
        events_uri = "{tmp_path}/lake/raw/events"
        catalogue_uri = "{tmp_path}/lake/raw/catalogue"
        [event_types.liked]
        [event_types.watched]
        """
    )
    return file


@pytest.fixture
def said() -> io.StringIO:
    return io.StringIO()


@pytest.fixture
def sample(settings_file: Path, said: io.StringIO) -> Sample:
    return Sample(load_settings(str(settings_file)), str(settings_file), Console(file=said, width=200))


def test_every_step_and_dag_of_the_plan_exists(sample: Sample) -> None:
    for run in plan():
        folder = "dags" if run.day else "jobs"
        assert Path(folder, f"{run.name}.py").is_file()
        assert fingerprint(sample.settings, [run.label], run.reads, run.reads_until)


def test_a_finished_run_is_skipped_until_its_inputs_change(sample: Sample, said: io.StringIO, tmp_path: Path) -> None:
    run = Run("sample_data", ())
    sample.run(run)
    raw = tmp_path / "lake" / "raw" / "events"
    written = raw.stat().st_mtime_ns
    sample.run(run)
    assert "sample_data: unchanged, skipped" in said.getvalue()
    assert raw.stat().st_mtime_ns == written
    assert list(sample.seconds) == ["sample_data"]


def test_a_failure_names_the_task_shows_its_words_and_exits_non_zero(
    sample: Sample, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "lake" / "raw" / "events").mkdir(parents=True)  # where the sample wants to put a file
    with pytest.raises(SystemExit) as stop:
        sample.run(Run("sample_data", ()))
    assert stop.value.code == 1
    shown = capfd.readouterr().err
    assert "sample_data failed (exit code 2)" in shown
    assert "is a folder; the sample is one file" in shown
    assert "Go on from here:  make run" in shown
    log_file = tmp_path / "lake" / "logs" / "sample_data" / "past.log"
    assert str(log_file) in shown
    assert "is a folder" in log_file.read_text()


def take_fingerprint(settings: Settings) -> str:
    return fingerprint(settings, ["train 2016-10-16"], (RAW, "events", LIVE_MODEL), DAY)


def write_events(settings: Settings, day: str, checksum: str) -> None:
    draft = store(settings, "events").begin()
    draft.commit(Manifest(key={"from": day, "to": day}, checksums={"rows": checksum}))


def test_a_fingerprint_follows_raw_files_manifests_live_model_and_settings(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    seen = [take_fingerprint(settings)]

    def assert_changed() -> None:
        now = take_fingerprint(settings)
        assert now not in seen
        assert now == take_fingerprint(settings)
        seen.append(now)

    (tmp_path / "raw" / "events").write_bytes(b"rows")
    assert_changed()
    write_events(settings, "2016-10-15", "a")
    assert_changed()
    write_events(settings, "2016-10-15", "b")
    assert_changed()
    models = store(settings, "model", "all")
    models.point_to(models.begin().commit(Manifest()))
    assert_changed()
    assert take_fingerprint(settings.model_copy(update={"catalogue_id": "other"})) not in seen


def test_a_fingerprint_ignores_days_to_come_and_generations_that_were_replaced(settings: Settings) -> None:
    write_events(settings, "2016-10-15", "old")
    write_events(settings, "2016-10-15", "new")
    before = take_fingerprint(settings)
    write_events(settings, "2016-10-17", "tomorrow")
    assert take_fingerprint(settings) == before


def test_a_broken_run_remembers_its_finished_tasks_while_nothing_changes(sample: Sample) -> None:
    run = Run("train", (RAW,), DAY)
    file = sample.lake / "runs" / "train" / "2016-10-16.json"
    now = fingerprint(sample.settings, [run.label], run.reads, DAY)
    Record(now, finished_tasks=["embed_item_text"]).save(file)
    assert sample._record(run, file).finished_tasks == ["embed_item_text"]
    Record("another fingerprint", finished_tasks=["embed_item_text"], complete=True).save(file)
    assert sample._record(run, file) == Record(now)


def test_progress_of_a_step_is_shown_where_there_is_no_terminal(tmp_path: Path, said: io.StringIO) -> None:
    step = "print('progress SASRec 45% 9/20 epoch 3 s, 4 s left loss 3.21', flush=True); print('done')"
    log = TaskLog(Task("train_behaviour"))
    code = run_watched([sys.executable, "-c", step], os.environ, tmp_path / "log", log, Console(file=said, width=200))
    assert code == 0
    assert "SASRec 45% 9/20 epoch 3 s, 4 s left loss 3.21" in said.getvalue()
    assert log.tasks[0].state == "success"
    assert (tmp_path / "log").read_text().endswith("done\n")


WATCHER = """
import os, signal, sys
from pathlib import Path
from rich.console import Console
from jobs.cli.watch import Task, TaskLog, run_watched

signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
grandchild = "import subprocess, sys; subprocess.run([sys.executable, '-c', sys.argv[1]])"
sleeper = "import os, time; print('pid', os.getpid(), flush=True); time.sleep(600)"
run_watched([sys.executable, "-c", grandchild, sleeper], os.environ, Path(sys.argv[1]), TaskLog(Task("x")), Console())
"""


def test_ending_make_run_ends_all_that_it_started(tmp_path: Path) -> None:
    log_file = tmp_path / "log"
    watcher = subprocess.Popen([sys.executable, "-c", WATCHER, str(log_file)])
    pid = int(wait_for(log_file, "pid ").split()[1])
    watcher.send_signal(signal.SIGTERM)
    assert watcher.wait(timeout=30) == 143
    for _ in range(100):
        if not running(pid):
            return
        time.sleep(0.1)
    os.kill(pid, signal.SIGKILL)
    pytest.fail("what the step had started outlived make run")


def wait_for(file: Path, text: str) -> str:
    for _ in range(300):
        if file.is_file() and text in file.read_text():
            return file.read_text()
        time.sleep(0.1)
    raise AssertionError(f"{text!r} never came")


def running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    status = Path(f"/proc/{pid}/stat")
    return not status.is_file() or status.read_text().rpartition(")")[2].split()[0] != "Z"


def test_records_are_json(tmp_path: Path) -> None:
    Record("f", ["a"]).save(tmp_path / "r.json")
    assert json.loads((tmp_path / "r.json").read_text()) == {
        "fingerprint": "f",
        "finished_tasks": ["a"],
        "complete": False,
    }
