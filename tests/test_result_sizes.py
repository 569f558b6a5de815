"""No step brings user-sized data to the driver: what tasks send it, as Spark's own event log says, does not grow with
the users."""

from __future__ import annotations

import datetime as dt
import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.jobs.raw_data import event, write_events
from tests.shop import CHAIN, FIRST, REPO, Shop, Step

FACTOR = 20
"""So many more users on the larger side."""
STEPS = {step.name: step for step in CHAIN if step.name in ("ingest", "build_user_histories", "recommend")}


def sent_to_driver(step: Step, settings_file: str, log: Path) -> int:
    """Bytes of all task results of a step."""
    log.mkdir(parents=True)
    listening = (
        f"-Dspark.eventLog.enabled=true -Dspark.eventLog.dir=file://{log} -Dspark.eventLog.rolling.enabled=false"
    )
    env = os.environ | {"SPARK_SUBMIT_OPTS": f"{os.environ.get('SPARK_SUBMIT_OPTS', '')} {listening}"}
    done = subprocess.run(step.command(settings_file), cwd=REPO, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    events = (json.loads(line) for file in log.glob("[!.]*") for line in file.read_text().splitlines())
    results = [one["Task Metrics"]["Result Size"] for one in events if one["Event"] == "SparkListenerTaskEnd"]
    assert results, "the event log holds no task"
    return sum(results)


def _with_more_users(shop: Shop, folder: Path) -> str:
    """The settings file of a copy of the shop's lake whose raw data hold FACTOR times as many users."""
    shutil.copytree(Path(shop.settings_file).parent, folder)
    file = folder / "settings.toml"
    file.write_text(Path(shop.settings_file).read_text().replace(str(Path(shop.settings_file).parent), str(folder)))
    settings = shop.settings.model_copy(
        update={"input": shop.settings.input.model_copy(update={"events_uri": f"{folder}/raw/events"})}
    )
    moments = [FIRST.replace(tzinfo=dt.UTC) + dt.timedelta(days=day, hours=12) for day in range(3)]
    users = range(30 * (FACTOR - 1))
    more = [event(f"more{user}", f"i{user % 30:02}", moment) for user in users for moment in moments]
    write_events(settings, *more, part="more")
    return str(file)


@pytest.mark.slow
def test_results_do_not_grow_with_the_users(shop: Shop, tmp_path: Path) -> None:
    few = {name: sent_to_driver(step, shop.settings_file, tmp_path / "few" / name) for name, step in STEPS.items()}
    settings_file = _with_more_users(shop, tmp_path / "many")
    many = {name: sent_to_driver(step, settings_file, tmp_path / "logs" / name) for name, step in STEPS.items()}
    for name, size in few.items():
        assert many[name] < 1.5 * size, f"{name}: {size} bytes for few users, {many[name]} for {FACTOR} times as many"
