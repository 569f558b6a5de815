"""SIGKILL every task of the sample once, at a random moment, start again each time, and compare with a run left alone.

python -m benchmarks.kills [--seed N]

Both sides run what `make run` runs, with a smaller model, on lakes of their own under build/kills/. Compared are the
checksums of everything that is in the killed lake's newest generations, and every user's list as read online.
"""

from __future__ import annotations

import os
import random
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import psutil
import typer

from benchmarks.figures import Figure, publish
from jobs.cli.sample_result import newest_users
from jobs.common.feature_store import quiet, read_online
from jobs.common.settings import Settings, load_settings
from model.generation import MANIFEST, Manifest

LAKES = Path("build/kills")
SMALL = {
    "PRECOG_MODEL__BEHAVIOUR__EPOCHS": "1",
    "PRECOG_MODEL__BACKBONE__HIDDEN_SIZE": "32",
    "PRECOG_MODEL__BACKBONE__LAYERS": "1",
    "PRECOG_MODEL__BACKBONE__INTERMEDIATE_SIZE": "64",
    "PRECOG_MODEL__FINETUNE__EPOCHS": "1",
    "PRECOG_PROMOTION__MAX_TEST_USERS": "40",
}
RUN, TASK = re.compile(r"^▶ (.+)$"), re.compile(r"^  (\w+)  (\d+) s  (started|success|failed)")
NOT_ROWS = ("runs", "logs", "ledger", "feast", "raw", "report", "publications", "promotion")
"""Not compared by checksum: they name attempts and times. What a publication holds is compared as read online."""


@dataclass
class Side:
    """One lake, and what running the sample on it has shown so far."""

    name: str
    seconds: dict[tuple[str, str], float] = field(default_factory=dict)
    """(run, task) -> how long it took when it was left alone."""
    killed: dict[tuple[str, str], float] = field(default_factory=dict)
    """(run, task) -> seconds after its start at which it was killed."""

    @property
    def environment(self) -> dict[str, str]:
        lake = str(LAKES / self.name)
        inputs = {
            "PRECOG_INPUT__EVENTS_URI": f"{lake}/raw/events",
            "PRECOG_INPUT__CATALOGUE_URI": f"{lake}/raw/catalogue",
        }
        return {"PRECOG_LAKE_URI": lake, **inputs, **SMALL}

    def settings(self) -> Settings:
        os.environ.update(self.environment)
        return load_settings()

    def start(self, on_start: Callable[[subprocess.Popen[str], tuple[str, str]], None]) -> int:
        """Run the sample once to its end or failure. `on_start` hears of every task that starts."""
        process = subprocess.Popen(
            [sys.executable, "-m", "jobs.cli.run_sample"],
            env=os.environ | self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        run = ""
        assert process.stdout is not None
        for line in process.stdout:
            print(line, end="", flush=True)
            if found := RUN.match(line):
                run = found[1]
            elif found := TASK.match(line):
                task = (run, found[1])
                if found[3] == "started":
                    on_start(process, task)
                elif found[3] == "success":
                    self.seconds[task] = float(found[2])
        return process.wait()


def kill_task(sample: psutil.Process) -> bool:
    """SIGKILL all that the running task consists of: spark-submit, the JVM, the driver, workers. Airflow lives on."""
    below = [each for each in sample.children(recursive=True) if "airflow" not in each.name()]
    for process in below:
        process.send_signal(signal.SIGKILL)
    return bool(below)


def run_with_kills(side: Side, seconds: Mapping[tuple[str, str], float], rng: random.Random) -> None:
    """Run the sample until it ends well; each task is killed once on the way."""
    timers: list[threading.Timer] = []

    def kill_once(process: subprocess.Popen[str], task: tuple[str, str]) -> None:
        if task in side.killed or task not in seconds:
            return
        delay = rng.uniform(0, seconds[task])

        def strike() -> None:
            if task not in side.seconds and process.poll() is None and kill_task(psutil.Process(process.pid)):
                side.killed[task] = delay

        timers.append(threading.Timer(delay, strike))
        timers[-1].start()

    for _ in range(2 * len(seconds)):
        code = side.start(kill_once)
        for timer in timers:
            timer.cancel()
        if code == 0:
            return
    raise SystemExit("It did not come to its end after so many starts.")


def contents(lake: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """(store, counts and checksums) of each store's newest finished generation of every key."""
    newest: dict[str, Manifest] = {}
    for file in sorted(lake.rglob(MANIFEST)):
        store = file.relative_to(lake).parts[:-2]
        if store[0] not in NOT_ROWS:
            manifest = Manifest.from_json(file.read_text())
            name = re.sub(r"-\d{6}$", "", "/".join(store))  # additions name the attempt of their codebook
            newest[f"{name} {manifest.key}"] = manifest
    for name, manifest in sorted(newest.items()):
        yield name, {"counts": manifest.counts, "checksums": manifest.checksums}


def lists_online(settings: Settings) -> dict[str, Any]:
    """Every user's list as an app reads it, without the versions, which name attempts."""
    users = newest_users(settings, sys.maxsize)
    with quiet():
        rows = read_online(settings, users)
    names = ("item_ids", "item_codes", "scores", "source")
    return {user: [row[name] for name in names] for user, row in zip(users, rows, strict=True)}


def main(seed: Annotated[int, typer.Option(help="Draws the moments of the kills.")] = 0) -> None:
    shutil.rmtree(LAKES, ignore_errors=True)
    alone, killed = Side("alone"), Side("killed")
    if alone.start(lambda *_: None) != 0:
        raise SystemExit("The run without kills failed: see above.")
    run_with_kills(killed, alone.seconds, random.Random(seed))

    kept, again = (dict(contents(LAKES / side.name)) for side in (alone, killed))
    different = sorted(name for name in kept.keys() | again.keys() if kept.get(name) != again.get(name))
    lists, lists_again = lists_online(alone.settings()), lists_online(killed.settings())
    unlike = sum(lists_again.get(user) != row for user, row in lists.items())
    for (run, task), seconds in killed.killed.items():
        print(f"killed after {seconds:4.1f} of {alone.seconds[run, task]:3.0f} s   {run}, {task}")
    for name in different:
        print(f"different: {name}: {kept.get(name)} is now {again.get(name)}")
    publish(
        "kills",
        f"the sample's {len(alone.seconds)} tasks with a smaller model, {len(kept)} stores, {len(lists)} users",
        [
            Figure("kills.tasks_killed_share", len(killed.killed) / len(alone.seconds), ">=0.9"),
            Figure("kills.same_stores_share", 1 - len(different) / len(kept), ">=1"),
            Figure("kills.same_lists_share", 1 - unlike / len(lists), ">=1"),
        ],
    )


if __name__ == "__main__":
    typer.run(main)
