"""The whole chain on a small shop, step by step in this process; then every step again, killed once on the way."""

from __future__ import annotations

import datetime as dt
import importlib
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from pyspark.sql import SparkSession

from jobs.common.artefacts import live_model, store
from jobs.common.contracts import daily_table
from jobs.common.feature_store import read_online
from jobs.common.settings import Settings, load_settings
from jobs.common.step import Split
from model.generation import Generation, GenerationStore
from tests.jobs.raw_data import event, film, write_catalogue, write_events

REPO = Path(__file__).parents[1]
USERS, ITEMS, DAYS = 30, 40, 20
FIRST = dt.datetime(2020, 1, 1)
LAST = FIRST + dt.timedelta(days=DAYS - 1)
TOP_K = 5

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
text_batch_size = 4
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

    def newest(self, writes: str) -> Generation:
        generation = store(self.settings, writes).latest()
        assert generation is not None, writes
        return generation

    def online(self) -> list[dict[str, Any]]:
        return read_online(self.settings, [f"u{user:02}" for user in range(USERS)] + ["nobody"])


@pytest.fixture(scope="module")
def shop(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Shop:
    """The chain has run once, undisturbed."""
    lake = tmp_path_factory.mktemp("shop")
    file = lake / "settings.toml"
    file.write_text(SETTINGS.format(lake=lake))
    shop = Shop(str(file), load_settings(str(file)))
    _write_raw(shop.settings)
    for step in CHAIN:
        step.run(shop.settings_file)
    return shop


def test_every_user_reads_k_valid_unseen_items(shop: Shop, spark: SparkSession) -> None:
    events = daily_table(shop.settings, "events").read(spark, None, LAST.date()).where("event_type = 'buy'").collect()
    for user, row in zip([*range(USERS), None], shop.online(), strict=True):
        listed = row["item_ids"]
        assert row["source"] == ("fallback" if user is None else "model")
        assert len(set(listed)) == len(listed) == len(row["item_codes"]) == len(row["scores"])
        assert len(listed) == TOP_K or user is None
        assert not {one.item_id for one in events if user is not None and one.user_id == f"u{user:02}"} & set(listed)


def test_versions_online_are_those_of_the_live_model(shop: Shop) -> None:
    model = live_model(shop.settings)
    row = shop.online()[0]
    assert (row["model_version"], row["codebook_version"]) == (model.identity, model.manifest.parents["codebook"])


def test_evaluation_judges_the_temporal_model_on_cold_items_too(shop: Shop) -> None:
    evaluation = shop.newest("evaluation").manifest
    assert evaluation.parents["challenger"] == "model/temporal/000001"
    assert set(evaluation.metrics["methods"]) == {"challenger", "popularity"}
    additions = store(shop.settings, "codebook_additions", "codebook-temporal-000001").latest()
    assert additions is not None
    assert additions.manifest.counts == {"items": 4}


def test_report_is_one_page(shop: Shop) -> None:
    page = Path(shop.newest("report").path("report.html")).read_text()
    assert "Title number" in page
    assert 'src="http' not in page


def _kill_after_claim(step: Step, shop: Shop) -> None:
    """Start the step as a process of its own, and SIGKILL it a moment after it has claimed what it writes."""
    target = GenerationStore(shop.settings.lake_uri, step.writes)
    claims = len(list(Path(target.uri).glob("*.claim")))
    process = subprocess.Popen(step.command(shop.settings_file), cwd=REPO, start_new_session=True)
    deadline = time.monotonic() + 120
    while len(list(Path(target.uri).glob("*.claim"))) == claims and process.poll() is None:
        assert time.monotonic() < deadline, f"{step.name} claimed nothing"
        time.sleep(0.02)
    time.sleep(random.Random(step.writes).uniform(0, 0.5))
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _published(publication: Generation) -> dict[str, list[str]]:
    """Every row of a publication without its time stamp, sorted."""
    tables = {name: pq.read_table(publication.path(name)) for name in publication.manifest.checksums}
    return {
        name: sorted(map(repr, table.drop_columns(["event_timestamp"]).to_pylist())) for name, table in tables.items()
    }


# One of each kind of writer: a daily table, a training artefact, a model's files, lists, what goes online.
KILLED = ("build_user_histories", "train_tokenizer", "finetune", "recommend", "publish")
KILLED_STEPS = [step for step in CHAIN if step.name in KILLED and "temporal" not in step.writes]


@pytest.mark.slow
@pytest.mark.parametrize("step", KILLED_STEPS, ids=lambda step: step.name)
def test_a_killed_step_run_again_makes_the_same(shop: Shop, step: Step) -> None:
    before, online = shop.newest(step.writes), shop.online()
    _kill_after_claim(step, shop)
    step.run(shop.settings_file)
    after = shop.newest(step.writes)
    assert after.attempt > before.attempt
    if (
        step.name == "publish"
    ):  # its rows bear the number of the publish in their time stamp, and differ in nothing else
        assert _published(after) == _published(before)
    else:
        assert after.manifest.checksums == before.manifest.checksums
    assert after.manifest.counts == before.manifest.counts
    assert [row["item_ids"] for row in shop.online()] == [row["item_ids"] for row in online]
