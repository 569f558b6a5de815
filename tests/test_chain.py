"""The whole chain on a small shop; then steps again, killed once on the way, or on a cluster."""

from __future__ import annotations

import datetime as dt
import math
import os
import random
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
import torch
from pyspark.sql import SparkSession
from safetensors.torch import load_file, save_file

from jobs.common.artefacts import additions_store, live_model, store
from jobs.common.contracts import daily_table
from jobs.common.item_vectors import vectors_store
from jobs.report import SHOWN_USERS, _users
from tests.shop import CHAIN, LAST, REPO, TOP_K, USERS, Shop, Step, lake_state


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
    methods = {"challenger", "popularity", "cooccurrence"}
    assert set(evaluation.metrics["methods"]) == set(evaluation.metrics["beyond"]) == methods
    found = evaluation.metrics["beyond"]["challenger"]
    assert evaluation.metrics["problems"] == {method: {} for method in methods}
    by_length = [one["cases"] for one in found["segments"] if one["segment"].startswith("history")]
    assert sum(by_length) == evaluation.metrics["cases"]
    additions = store(shop.settings, "codebook_additions", "codebook-temporal-000001").latest()
    assert additions is not None
    assert additions.manifest.counts == {"items": 4}


def test_report_is_one_page(shop: Shop) -> None:
    page = Path(shop.newest("report").path("report.html")).read_text()
    assert "Title number" in page
    segments = shop.newest("evaluation").manifest.metrics["beyond"]["challenger"]["segments"]
    assert all(f"<td>{segment['segment']}<td" in page for segment in segments)
    assert "First code" in page
    assert 'src="http' not in page


def _lists(shop: Shop, spark: SparkSession) -> dict[str, tuple[dt.date, list[str]]]:
    rows = daily_table(shop.settings, "recommendations").read(spark, LAST.date(), LAST.date()).collect()
    return {row.user_id: (row.made_ds, row.item_ids) for row in rows}


def test_only_changed_users_are_ranked_again(shop: Shop, spark: SparkSession) -> None:
    everyone = _lists(shop, spark)
    events = daily_table(shop.settings, "events").read(spark, LAST.date(), LAST.date()).collect()
    changed = {event.user_id for event in events}
    before = LAST - dt.timedelta(days=1)
    for day in (before, LAST):
        Step("recommend", "recommendations", {"ds": day}).run(shop.settings_file)
    manifest = shop.newest("recommendations").manifest
    assert 0 < manifest.counts["used again"] == len(everyone) - len(changed) < len(everyone)
    made = {user: LAST if user in changed else before for user in everyone}
    assert _lists(shop, spark) == {user: (made[user].date(), items) for user, (_, items) in everyone.items()}


def test_the_report_tells_what_changed_since_the_day_before(shop: Shop) -> None:
    """The days before have lists since the test above."""
    Step("report", "report", {"ds": LAST}).run(shop.settings_file)
    page = Path(shop.newest("report").path("report.html")).read_text()
    before = (LAST - dt.timedelta(days=1)).date()
    assert f"<h2>Since {before}</h2>" in page
    rows = re.findall(r"<tr><td>(.+?)<td class=\"number\">(.+?)<td class=\"number\">(.+?)<td", page)
    lists = next((then, now) for name, then, now in rows if name == "users with a list")
    assert all(int(count) > 0 for count in lists)
    shown = page.split("<h2>Ten users</h2>")[1].split("</table>")[0]
    assert f"<th>Before, {before}" in shown
    users = shown.count('<td data-label="User ">')
    assert users > 0
    assert shown.count("<ol>") == 3 * users


def test_the_report_shows_users_ranked_anew_first(shop: Shop, spark: SparkSession) -> None:
    """Of the lists since the tests above."""
    anew = [items for made, items in _lists(shop, spark).values() if made == LAST.date()]
    assert SHOWN_USERS <= len(anew) < USERS
    titles = [[f"Title number {int(item[1:])}" for item in items] for items in anew]
    assert all(user["recommended"] in titles for user in _users(spark, shop.settings, LAST.date(), None))


@pytest.mark.slow
def test_a_model_whose_weights_are_no_numbers_gets_a_verdict_that_refuses_it(shop: Shop, tmp_path: Path) -> None:
    broken = shop.copy(tmp_path / "lake", lambda text: text.replace('rule = "always"', 'rule = "gate"'))
    weights = broken.newest("model/temporal").path("model.safetensors")
    nothing = {name: torch.full_like(tensor, math.nan) for name, tensor in load_file(weights).items()}
    save_file(nothing, weights, metadata={"format": "pt"})
    before = broken.newest("promotion")
    for name in ("evaluate", "promote"):
        next(step for step in CHAIN if step.name == name).run(broken.settings_file)
    verdict = broken.newest("promotion")
    assert verdict.attempt > before.attempt
    assert not verdict.manifest.metrics["promoted"]
    cases = broken.newest("evaluation").manifest.metrics["cases"]
    failed = [reason["text"] for reason in verdict.manifest.metrics["reasons"] if not reason["passed"]]
    assert f"lists of model/temporal/000001 for which the scores are no numbers: {cases} of {cases}" in failed


def _files(shop: Shop) -> set[Path]:
    return set(Path(shop.settings.lake_uri).rglob("*"))


def _kill(step: Step, shop: Shop) -> None:
    """Start the step as a process of its own, and SIGKILL it at a random moment after it has begun to write."""
    files = _files(shop)
    process = subprocess.Popen(step.command(shop.settings_file), cwd=REPO, start_new_session=True)
    deadline = time.monotonic() + 120
    while _files(shop) == files:
        assert process.poll() is None, f"{step.name} had nothing to write"
        assert time.monotonic() < deadline, f"{step.name} writes nothing"
        time.sleep(0.05)
    time.sleep(random.Random(f"{step}").uniform(0, shop.seconds[step.label]))
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


# One of each kind of writer: a daily table, a training artefact, a model's files, lists, what goes online.
ONE_OF_EACH_KIND = ("build_user_histories", "train_tokenizer all", "finetune all", "recommend", "publish")
NOTHING_TO_WRITE = ("encode_items all", "encode_items")
"""Of a catalogue that the codebook knows whole."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "killed" in metafunc.fixturenames:
        every = metafunc.config.getoption("--kill-every-step")
        names = [step.label for step in CHAIN if step.label not in NOTHING_TO_WRITE]
        metafunc.parametrize("killed", [name for name in names if every or name in ONE_OF_EACH_KIND])


@pytest.mark.slow
def test_a_killed_step_run_again_makes_the_same(shop: Shop, killed: str) -> None:
    step = next(step for step in CHAIN if step.label == killed)
    if step.name == "evaluate":  # now that a model is live, it judges that one beside
        step.run(shop.settings_file)
    before = lake_state(shop)
    if step.name == "embed_item_text":  # a text that has its vector is not embedded again
        shutil.rmtree(vectors_store(shop.settings, shop.settings.model.text_encoder).uri)
    if killed == "encode_items temporal":
        shutil.rmtree(additions_store(shop.settings, shop.newest("codebook/temporal")).uri, ignore_errors=True)
    _kill(step, shop)
    step.run(shop.settings_file)
    assert lake_state(shop) == before
