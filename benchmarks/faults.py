"""Kills a day's build at named and at random moments; each time the build is run again and must end the same.

python -m benchmarks.faults [--of publish] [--quick]

A small shop has its whole past, a model and published lists; a new day comes. For each kill, lake and online store are
put back to what they were before a step, the step is killed, what readers see is looked at all the while, the step is
run again, and the lake and what apps read are compared with those of a build that nobody disturbed. --of publish kills
inference and publishing alone, over SQLite and over Redis. --quick leaves out the random moments. The moments: see
benchmarks.kill_at.
"""

from __future__ import annotations

import datetime as dt
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Container
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import pyarrow.parquet as pq
import typer
from pyspark.sql import SparkSession
from redis import Redis

from benchmarks.figures import Figure, publish
from benchmarks.online import STORES, online_store
from jobs.cli.sample_airflow import NO_GENERATED_CODE, QUICK_JVM
from jobs.common.contracts import DAILY_TABLES, daily_table
from jobs.common.settings import Settings
from jobs.common.spark import open_spark
from model.progress import track
from tests.jobs.raw_data import event, film, write_catalogue, write_events
from tests.shop import DAYS, ITEMS, LAST, REPO, USERS, Shop, Step, build_shop, lake_state

ROOT = Path("build/faults").absolute()
DAY = LAST + dt.timedelta(days=1)
ON_DAY = {"ds": DAY}
RANDOM_KILLS = 20

What = Literal["features", "publish"]

TABLE = ("before claim", "after claim", "mid write", "before manifest", "after manifest")
"""Moments of a step that writes one table."""
STEPS: list[tuple[Step, list[tuple[str, int]]]] = [
    (
        Step("ingest", "events", ON_DAY),
        # raw_days, catalogue, quarantine, events, the data report
        [*(("after manifest", turn) for turn in (1, 2, 3)), *((moment, 4) for moment in TABLE), ("before manifest", 5)],
    ),
    (Step("build_user_histories", "user_history", ON_DAY), [(moment, 1) for moment in TABLE]),
    (Step("build_item_text", "item_text", ON_DAY), [(moment, 1) for moment in TABLE]),
    (
        Step("materialize", "", ON_DAY),
        [("before online", 1), ("mid online", 1), ("after online", 1), ("mid online", 2), ("after online", 2)],
    ),
    (Step("embed_item_text", "", ON_DAY), [("before manifest", 1), ("after manifest", 1)]),
    (Step("encode_items", "", {**ON_DAY, "append": True}), [("before manifest", 1), ("after manifest", 1)]),
    (
        Step("recommend", "recommendations", ON_DAY),
        [("after manifest", 1), *((moment, 2) for moment in TABLE)],
    ),
    (
        Step("publish", "publications", ON_DAY),
        [
            ("after number", 1),
            ("mid write", 1),
            ("before manifest", 1),
            ("after manifest", 1),
            ("mid online", 2),
            ("after online", 2),
            ("before record", 1),
            ("after record", 1),
        ],
    ),
    (Step("promote", "", {"ds": LAST}), [("before pointer", 1), ("after pointer", 1)]),
]


@dataclass
class Tally:
    lost: list[str] = field(default_factory=list)
    torn: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Readers:
    """What somebody sees who reads while a step writes, dies, and writes again."""

    settings: Settings
    allowed: list[Any]
    """What each app user may read: the list of before the step, or that of after it."""
    lists: Callable[[], list[Any]]

    def look(self) -> str | None:
        """What is wrong, if anything: a table without all of its rows, or a list that was never made."""
        for name in DAILY_TABLES:
            for generation in daily_table(self.settings, name).store.complete():
                files = Path(generation.path("rows")).glob("*.parquet")
                rows = sum(pq.read_metadata(file).num_rows for file in files)
                if rows != generation.manifest.counts["rows"]:
                    return f"{generation.identity} says {generation.manifest.counts['rows']} rows and has {rows}"
        for user, row in enumerate(self.lists()):
            if all(row != state[user] for state in self.allowed):
                return f"an app read a list that is neither the old nor the new one: {row}"
        return None


def write_next_day(settings: Settings) -> None:
    """Most users come back; a new item, a new user, a late event, an event twice, and two that must be refused."""
    moment = DAY.replace(tzinfo=dt.UTC) + dt.timedelta(hours=9)
    visits = [event(f"u{user:02}", f"i{(user * 5) % (ITEMS - 4):02}", moment) for user in range(USERS) if user % 3]
    odd = [event("u01", "nothing", moment), event(None, "i01", moment), visits[0]]
    late = event("u02", "i03", moment - dt.timedelta(days=2))
    write_events(settings, *visits, *odd, late, event("new", "i02", moment), part="next-day")
    write_catalogue(settings, film("fresh", moment, "Title of a new item"), part="next-day")


def kill_at(step: Step, shop: Shop, moment: str, turn: int) -> subprocess.Popen[bytes]:
    _, _, module, *arguments = step.command(shop.settings_file)
    return start([sys.executable, "-m", "benchmarks.kill_at", moment, str(turn), module, *arguments])


def start(command: list[str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(  # noqa: S603  our own steps
        command, cwd=REPO, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT
    )


def try_kill(
    name: str, process: subprocess.Popen[bytes], readers: Readers, tally: Tally, seconds: float | None
) -> None:
    """Wait for the end of a process that kills itself, or kill it after so many seconds."""
    started = time.monotonic()
    while process.poll() is None:
        if seconds is not None and time.monotonic() - started > seconds:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        elif wrong := readers.look():
            tally.torn.append(f"{name}: {wrong}")
        time.sleep(0.1)
    if seconds is None and process.returncode != -signal.SIGKILL:
        raise ValueError(f"{name}: the step ended with {process.returncode} before it came to that moment.")
    if wrong := readers.look():
        tally.torn.append(f"{name}, dead: {wrong}")


class Saved:
    """What lake and online store were before each step and after the last."""

    def __init__(self, lake: Path, redis: Redis | None) -> None:
        self.lake, self.redis = lake, redis
        self.keys: list[dict[Any, Any]] = []

    def save(self) -> None:
        shutil.copytree(self.lake, ROOT / str(len(self.keys)))
        self.keys.append({} if self.redis is None else {key: self.redis.dump(key) for key in self.redis.scan_iter()})

    def put_back(self, number: int) -> None:
        shutil.rmtree(self.lake)
        shutil.copytree(ROOT / str(number), self.lake)
        if self.redis is not None:
            self.redis.flushall()
            for key, value in self.keys[number].items():
                self.redis.restore(key, 0, value)


def undisturbed(shop: Shop, saved: Saved) -> tuple[list[dict[str, Any]], dict[str, float]]:
    """Build the day. Returns the state of the lake before each step and after the last, and each step's seconds as a
    process of its own.
    """
    states, seconds = [lake_state(shop)], {}
    for step, _ in STEPS:
        saved.save()
        started = time.monotonic()
        if start(step.command(shop.settings_file)).wait() != 0:
            raise ValueError(f"{step.label} fails undisturbed.")
        seconds[step.label] = time.monotonic() - started
        states.append(lake_state(shop))
    return states, seconds


def kill_all(spark: SparkSession, names: Container[str], random_kills: int, redis: Redis | None) -> tuple[int, Tally]:
    """Kill the steps of those names in a new lake: at every named moment, and at so many random ones."""
    shutil.rmtree(ROOT, ignore_errors=True)
    lake = ROOT / "lake"
    lake.mkdir(parents=True)
    rng, tally, saved = random.Random(0), Tally(), Saved(lake, redis)
    shop = build_shop(lake)
    write_next_day(shop.settings)
    states, seconds = undisturbed(shop, saved)
    numbers = [number for number, (step, _) in enumerate(STEPS) if step.name in names]
    kills: list[tuple[int, tuple[str, int] | None]] = [
        (number, point) for number in numbers for point in STEPS[number][1]
    ]
    kills += [(rng.choice(numbers), None) for _ in range(random_kills)]
    for number, point in track(kills, "kills", len(kills)):
        step = STEPS[number][0]
        before, after = states[number : number + 2]
        saved.put_back(number)
        spark.catalog.clearCache()  # it goes by paths, and no lake but this one has other files under the same
        readers = Readers(shop.settings, [before["lists"], after["lists"]], shop.lists)
        if point is None:
            delay = rng.uniform(0, seconds[step.label])
            name = f"{step.label}, {delay:.1f} s after its start"
            try_kill(name, start(step.command(shop.settings_file)), readers, tally, delay)
        else:
            name = f"{step.label}, {point[0]} {point[1]}"
            try_kill(name, kill_at(step, shop, *point), readers, tally, None)
        step.run(shop.settings_file)
        if lake_state(shop) != after:
            tally.lost.append(name)
    return len(kills), tally


def main(
    of: Annotated[What, typer.Option(help="features: every step of a day. publish: inference and publishing.")] = (
        "features"
    ),
    quick: Annotated[bool, typer.Option("--quick", help="The named moments only.")] = False,
) -> None:
    os.environ.setdefault("SPARK_SUBMIT_OPTS", f"{QUICK_JVM} {NO_GENERATED_CODE}")
    settings = Settings(
        input={"events_uri": "", "catalogue_uri": ""},
        event_types={"buy": {}},
        spark={"master": "local[2]", "shuffle_partitions": 2},
    )
    names = {step.name for step, _ in STEPS} if of == "features" else {"recommend", "publish"}
    random_kills, lost, torn, kills = 0 if quick else RANDOM_KILLS, [], [], 0
    with open_spark(settings, "faults") as spark:
        for store in ("sqlite",) if of == "features" else STORES:
            with online_store(store) as redis:
                number, tally = kill_all(spark, names, random_kills, redis)
            kills += number
            lost += [f"{store}: {name}" for name in tally.lost]
            torn += [f"{store}: {name}" for name in tally.torn]
    for what, found in (("ended differently", lost), ("readers saw it torn", torn)):
        for name in found:
            print(f"{what}: {name}")
    publish(
        "faults" if of == "features" else "faults-publish",
        f"{kills} kills over the {len(names)} steps of a day, {USERS} users, {DAYS} days",
        [
            Figure(f"{of}.kills", kills),
            Figure(f"{of}.kills_lost", len(lost), "<=0"),
            Figure(f"{of}.torn_reads", len(torn), "<=0"),
        ],
    )


if __name__ == "__main__":
    typer.run(main)
