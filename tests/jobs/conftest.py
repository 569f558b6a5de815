"""A small lake whose lists go online, once in SQLite and once in a real Redis."""

from __future__ import annotations

import datetime as dt
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyspark.sql import SparkSession

from jobs.common.contracts import daily_table
from jobs.common.feature_store import apply, open_store, read_online
from jobs.common.ledger import Ledger, Record
from jobs.common.publishing import ledger_of
from jobs.common.settings import Settings
from jobs.publish import publish
from jobs.retract_items import retract
from jobs.rollback import find_target, rollback
from model.generation import GenerationStore, Manifest

REPO = Path(__file__).parents[2] / "feature_repo"
EMPTY = Manifest()
MODEL = "model/all/000001"
CODEBOOK = "codebook/all/000001"
YAML = {"sqlite": "feature_store.yaml", "redis": "feature_store_redis.yaml"}


def code_of(item_id: str) -> str:
    """The code that the test codebook gives to item "i7": "7-0-0-1"."""
    return f"{item_id[1:]}-0-0-1"


def utc(day: dt.date, hour: int = 0) -> dt.datetime:
    return dt.datetime.combine(day, dt.time(hour), tzinfo=dt.UTC)


@dataclass(frozen=True)
class OnlineLake:
    """Writes the tables that publishing reads, publishes, and reads as an app does."""

    spark: SparkSession
    settings: Settings

    @property
    def ledger(self) -> Ledger:
        return ledger_of(self.settings)

    def write(self, table: str, day: dt.date, rows: Sequence[tuple[Any, ...]], manifest: Manifest = EMPTY) -> None:
        target = daily_table(self.settings, table)
        frame = self.spark.createDataFrame([(*row, day) for row in rows], target.schema)
        target.write(frame, day, day, manifest)

    def write_catalogue(self, day: dt.date, available: Mapping[str, bool]) -> None:
        rows = [(item_id, item_id, None, [], shown, utc(day, 1)) for item_id, shown in available.items()]
        self.write("catalogue", day, rows)

    def write_purchases(self, day: dt.date, counts: Mapping[str, int]) -> None:
        """So many purchases of each item, each by another user: what the popularity list counts."""
        items = [item_id for item_id, count in counts.items() for _ in range(count)]
        self.write("events", day, [(f"u{n}", item_id, utc(day, 2), "buy", 0) for n, item_id in enumerate(items)])

    def write_codebook(self, item_ids: Sequence[str]) -> None:
        draft = GenerationStore(self.settings.lake_uri, "codebook/all").begin()
        codes = [[int(part) for part in code_of(item_id).split("-")] for item_id in item_ids]
        levels = {f"code_{level}": [code[level] for code in codes] for level in range(4)}
        Path(draft.uri).mkdir(parents=True)
        pq.write_table(pa.table({"item_id": list(item_ids), **levels}), draft.path("items.parquet"))
        assert draft.commit(Manifest()).identity == CODEBOOK

    def write_lists(
        self, day: dt.date, lists: Mapping[str, Sequence[str]], user_codes: Mapping[str, str] | None = None
    ) -> None:
        """Each user's items, best first; an empty list is flagged as a fallback. `user_codes`: of some of the users."""
        rows = []
        for user_id, item_ids in lists.items():
            row = {
                "user_id": user_id,
                "item_codes": [code_of(item_id) for item_id in item_ids],
                "item_ids": list(item_ids),
                "scores": [-float(place) for place in range(len(item_ids))],
                "user_codes": (user_codes or {}).get(user_id),
                "source": "model" if item_ids else "fallback",
                "problem": None,
                "input_hash": 0,
                "made_ds": day,
            }
            rows.append(tuple(row.values()))
        parents = {"model": MODEL, "codebook": CODEBOOK}
        self.write("recommendations", day, rows, Manifest(parents=parents))

    def publish(self, day: dt.date) -> Record | None:
        """Publish a day; the newest record afterwards."""
        with self.ledger.lease("publish") as lease:
            publish(self.spark, self.settings, self.ledger, lease, day)
        return next(self.ledger.records(), None)

    def roll_back(self, number: int) -> None:
        with self.ledger.lease("rollback") as lease:
            rollback(self.spark, self.settings, self.ledger, lease, find_target(self.ledger, number))

    def retract(self, *item_ids: str, undo: bool = False) -> None:
        with self.ledger.lease("retract_items") as lease:
            retract(self.spark, self.settings, self.ledger, lease, item_ids, undo=undo)

    def features(self, names: list[str], **key: str) -> dict[str, Any]:
        """Stored features, as Feast serves them by name."""
        columns = open_store(self.settings).get_online_features(names, [key]).to_dict()
        return {name: values[0] for name, values in columns.items()}

    def user_code(self, user_id: str) -> tuple[str | None, str | None]:
        """(code, codebook) of the user, as another team reads them."""
        row = self.features(["user_codes:codes", "user_codes:codebook_version"], user_id=user_id)
        return row["codes"], row["codebook_version"]

    def read(self, user_id: str, exclude: Sequence[str] = ()) -> dict[str, Any]:
        return read_online(self.settings, [user_id], exclude)[0]

    def shown(self, user_id: str, exclude: Sequence[str] = ()) -> tuple[list[str], str]:
        """(items, source) of what an app shows to the user."""
        answer = self.read(user_id, exclude)
        assert answer["item_codes"] == [code_of(item_id) for item_id in answer["item_ids"]]
        assert len(answer["scores"]) == len(answer["item_ids"])
        return answer["item_ids"], answer["source"]


@pytest.fixture(scope="session")
def redis_address() -> Iterator[str]:
    """A redis-server of the test's own on a free port. Skips without one, except in CI, where it must be there."""
    server = shutil.which("redis-server")
    if server is None:
        message = "redis-server is not on PATH"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = subprocess.Popen([server, "--port", str(port), "--save", ""], stdout=subprocess.DEVNULL)
    try:
        _wait_until_listening(port)
        yield f"127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(timeout=10)


def _wait_until_listening(port: int) -> None:
    for _ in range(100):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise TimeoutError(f"redis-server does not listen on {port}")


@pytest.fixture(scope="session")
def registrations() -> dict[str, Path]:
    """Of each online store the folder that `registered` made: pytest forgets a parameter's when the next one is up."""
    return {}


@pytest.fixture(scope="session", params=["sqlite", pytest.param("redis", marks=pytest.mark.redis)])
def registered(
    request: pytest.FixtureRequest, registrations: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, Path]:
    """(online store, a lake's feast folder) with the definitions registered, which costs seconds: done once."""
    store = request.param
    if store == "redis":
        os.environ["PRECOG_REDIS"] = request.getfixturevalue("redis_address")
    if store not in registrations:
        lake = tmp_path_factory.mktemp(f"registered_{store}")
        apply(_settings(lake, store))
        registrations[store] = lake / "feast"
    return store, registrations[store]


OPEN = {"min_full_share": 0, "min_list_overlap": 0, "max_popular_share": 1}
"""Lists as short and as different as the tests write them pass the gate."""


def _settings(lake: Path, store: str) -> Settings:
    return Settings(
        lake_uri=str(lake),
        input={"events_uri": "", "catalogue_uri": ""},
        event_types={"buy": {}, "view": {"weight": 0.1, "target": False, "masks_seen": False}},
        feast={"repo": str(REPO), "config": YAML[store]},
        publishing={"valid_for_days": 36500, "lease_seconds": 2, **OPEN},
    )


ITEMS = ("i1", "i2", "i3", "i4", "i5")
DAY = dt.date(2024, 5, 1)
NEXT_DAY = dt.date(2024, 5, 2)


@pytest.fixture
def shop(online_lake: OnlineLake) -> OnlineLake:
    """A lake of two ingested days with five items, all available and coded; i5, i4, i3 are popular, in that order."""
    online_lake.write_catalogue(DAY, dict.fromkeys(ITEMS, True))
    online_lake.write_purchases(DAY, {"i5": 3, "i4": 2, "i3": 1})
    online_lake.write_codebook(ITEMS)
    return online_lake


@pytest.fixture
def online_lake(registered: tuple[str, Path], spark: SparkSession, tmp_path: Path) -> OnlineLake:
    """An empty lake, whose definitions are registered and whose online store is empty."""
    store, feast = registered
    shutil.copytree(feast, tmp_path / "feast")
    if store == "redis":
        from redis import Redis

        host, port = os.environ["PRECOG_REDIS"].split(":")
        Redis(host, int(port)).flushall()
    return OnlineLake(spark, _settings(tmp_path, store))
