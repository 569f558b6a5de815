"""The whole chain on a small shop; then steps again, killed once on the way, or on a cluster."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from pyspark.sql import SparkSession

from jobs.common.artefacts import live_model, store
from jobs.common.contracts import daily_table
from model.generation import Generation, GenerationStore
from tests.shop import CHAIN, LAST, REPO, TOP_K, USERS, Shop, Step


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
