"""A small shop, and the whole chain of steps that makes its lake: for tests that need everything in place."""

from __future__ import annotations

import datetime as dt
import importlib
import json
import re
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from jobs.common.artefacts import store
from jobs.common.feature_store import open_store, read_online
from jobs.common.settings import Settings, load_settings
from jobs.common.step import Split
from model.generation import MANIFEST, Generation, Manifest
from tests.jobs.raw_data import event, film, write_catalogue, write_events

REPO = Path(__file__).parents[1]
USERS, ITEMS, DAYS = 30, 40, 20
FIRST = dt.datetime(2020, 1, 1)
LAST = FIRST + dt.timedelta(days=DAYS - 1)
TOP_K = 5
SETTINGS_FILE, SECONDS = "settings.toml", "seconds.json"

SETTINGS = f"""
lake_uri = "{{lake}}"
[input]
events_uri = "{{lake}}/raw/events"
catalogue_uri = "{{lake}}/raw/catalogue"
[event_types.buy]
[event_types.view]
target = false
masks_seen = false
[feast]
repo = "{REPO / "feature_repo"}"
[spark]
master = "local[2]"
shuffle_partitions = 2
[promotion]
rule = "always"
holdout_days = 4
max_targets_per_user = 2
[publishing]
valid_for_days = 36500
[model]
history_items = 6
window_items = 12
[model.text_encoder]
max_tokens = 16
[model.behaviour]
dim = 16
epochs = 1
[model.tokenizer]
codes_per_level = 8
input_dim = 8
[model.backbone]
hidden_size = 32
layers = 1
heads = 2
intermediate_size = 32
text_vocabulary = 300
[model.finetune]
epochs = 2
batch_size = 16
shards = 2
accumulation = 2
[model.decoding]
beam_width = 8
top_k = {TOP_K}
"""


@dataclass(frozen=True)
class Step:
    name: str
    writes: str
    """The store whose newest generation is what the step made."""
    options: dict[str, Any]

    @property
    def label(self) -> str:
        return " ".join([self.name, *(str(value) for name, value in self.options.items() if name == "split")])

    def run(self, settings_file: str) -> None:
        importlib.import_module(f"jobs.{self.name}").main(**self.options, settings_file=settings_file)

    def command(self, settings_file: str) -> list[str]:
        names = {"start": "--from", "end": "--to"}
        arguments = [sys.executable, "-m", f"jobs.{self.name}", "--settings", settings_file]
        for name, value in self.options.items():
            text = value.date().isoformat() if isinstance(value, dt.datetime) else str(value)
            arguments += [names.get(name, f"--{name}")] + ([] if value is True else [text])
        return arguments


def _train(split: Split) -> list[Step]:
    """What a split's steps write: the codebook has a code for each item already under `all`, so nothing is added."""
    steps = ("build_training_set", "training_set"), ("train_behaviour", "behaviour"), ("train_tokenizer", "codebook")
    options = {"ds": LAST, "split": split}
    return [
        *(Step(name, f"{writes}/{split}", options) for name, writes in steps),
        Step("encode_items", f"codebook_additions/codebook-{split}-000001", options),
        Step("finetune", f"model/{split}", options),
    ]


DAY = {"ds": LAST}
PAST = {"start": FIRST, "end": LAST}
CHAIN = [
    Step("ingest", "events", PAST),
    Step("build_user_histories", "user_history", PAST),
    Step("build_item_text", "item_text", PAST),
    Step("materialize", "", PAST),
    Step("embed_item_text", "", DAY),
    *_train(Split.temporal),
    Step("evaluate", "evaluation", DAY),
    *_train(Split.all),
    Step("promote", "promotion", DAY),
    Step("encode_items", "", {"ds": LAST, "append": True}),
    Step("recommend", "recommendations", DAY),
    Step("publish", "publications", DAY),
    Step("report", "report", DAY),
]


def _write_raw(settings: Settings) -> None:
    """Everybody walks along the catalogue at a step of their own; the last items come to be in the hold-out only."""

    def moment(day: int) -> dt.datetime:
        return FIRST.replace(tzinfo=dt.UTC) + dt.timedelta(days=day, hours=9)

    released = [DAYS - 3 if item >= ITEMS - 4 else 0 for item in range(ITEMS)]
    items = [film(f"i{item:02}", moment(released[item]), f"Title number {item}") for item in range(ITEMS)]
    visits = [(user, day, (user * 7 + day * (1 + user % 3)) % ITEMS) for user in range(USERS) for day in range(DAYS)]
    visits = [visit for visit in visits if visit[0] % 4 != visit[1] % 4 and released[visit[2]] <= visit[1]]
    kinds = ("view", "buy", "buy")
    events = [event(f"u{u:02}", f"i{item:02}", moment(day), kinds[(u + day) % 3]) for u, day, item in visits]
    write_catalogue(settings, *items)
    write_events(settings, *events)


@dataclass(frozen=True)
class Shop:
    settings_file: str
    settings: Settings

    @property
    def seconds(self) -> dict[str, float]:
        """How long each step of the chain took, by its label."""
        found: dict[str, float] = json.loads(Path(self.settings_file).with_name(SECONDS).read_text())
        return found

    def copy(self, folder: Path, changed: Callable[[str], str] = str) -> Shop:
        """The lake in another folder, with settings that may be others."""
        shutil.copytree(self.settings.lake_uri, folder)
        text = Path(self.settings_file).read_text().replace(self.settings.lake_uri, str(folder))
        (folder / SETTINGS_FILE).write_text(changed(text))
        return shop_in(folder)

    def newest(self, writes: str) -> Generation:
        generation = store(self.settings, writes).latest()
        assert generation is not None, writes
        return generation

    def online(self) -> list[dict[str, Any]]:
        return read_online(self.settings, [f"u{user:02}" for user in range(USERS)] + ["nobody"])

    def lists(self) -> list[tuple[Any, ...]]:
        """What an app shows, user by user."""
        return [(row["item_ids"], row["scores"], row["source"]) for row in self.online()]

    def features(self) -> list[dict[str, Any]]:
        """What else stands online of every user and item."""
        store = open_store(self.settings)
        asked = {
            "user_id": (["user_history:item_ids", "user_history:events_total"], [f"u{n:02}" for n in range(USERS)]),
            "item_id": (["item_text:text_hash", "item_codes:codes"], [f"i{n:02}" for n in range(ITEMS)]),
        }
        return [
            store.get_online_features(features, [{key: one} for one in ids]).to_dict()
            for key, (features, ids) in asked.items()
        ]


def shop_in(lake: Path) -> Shop:
    file = str(lake / SETTINGS_FILE)
    return Shop(file, load_settings(file))


def build_shop(lake: Path) -> Shop:
    """The chain has run once, undisturbed."""
    lake.mkdir()
    (lake / SETTINGS_FILE).write_text(SETTINGS.format(lake=lake))
    shop = shop_in(lake)
    _write_raw(shop.settings)
    seconds = {}
    for step in CHAIN:
        started = time.monotonic()
        step.run(shop.settings_file)
        seconds[step.label] = time.monotonic() - started
    (lake / SECONDS).write_text(json.dumps(seconds))
    return shop


def lake_state(shop: Shop) -> dict[str, Any]:
    """What the lake holds, without the numbers of attempts and publishes, and what apps read."""
    lake = Path(shop.settings.lake_uri)
    state: dict[str, Any] = {}
    for file in sorted(lake.rglob(MANIFEST)):
        *store, _, _ = file.relative_to(lake).parts
        manifest = Manifest.from_json(file.read_text())
        name = re.sub(r"-\d{6}$", "", "/".join(store))  # codes are added under the attempt of their codebook
        if name not in ("publications", "promotion", "report", "data_report"):
            state[f"{name} {manifest.key}"] = manifest.counts, manifest.checksums
    publication = shop.newest("publications")
    for name in publication.manifest.checksums:
        rows = pq.read_table(publication.path(name)).drop_columns(["event_timestamp"]).to_pylist()
        state[name] = sorted(repr({k: v for k, v in row.items() if not k.endswith("_version")}) for row in rows)
    state["lists"], state["features"] = shop.lists(), shop.features()
    return state
