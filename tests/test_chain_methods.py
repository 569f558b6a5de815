"""A lake whose live model is Semantic Convergence's changes to another method: the same steps, judged and served."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from pyspark.sql import SparkSession

from jobs.common.artefacts import live_model
from jobs.common.contracts import daily_table
from jobs.common.feature_store import open_store
from model.recommender.backbone import PRECOG
from model.recommender.methods.base import LANGUAGE_MODEL
from tests.shop import CHAIN, ITEMS, LAST, TOP_K, USERS, Shop

TTDS = """
[model.ttds]
epochs = 1
renewals = 2
strings = 8
"""
TOWERS = """[model.tokenizer]
epochs = 20
latent_dim = 8
hidden_dim = 16
batch_size = 32
"""
RSLLM = """
[model.rsllm]
title_tokens = 4
"""
STEPS = ("train_tokenizer", "encode_items", "finetune", "evaluate", "promote", "recommend", "publish", "report")


def made_again(shop: Shop, folder: Path, changed: Callable[[str], str]) -> Shop:
    """The shop's lake with all steps from the tokenizer on made again by other settings."""
    other = shop.copy(folder / "lake", changed)
    for step in CHAIN:
        if step.name in STEPS:
            step.run(other.settings_file)
    return other


@pytest.fixture(scope="module")
def changed(shop: Shop, tmp_path_factory: pytest.TempPathFactory) -> Shop:
    """To TTDS."""

    def settings(text: str) -> str:
        return 'method = "ttds"\n' + text.replace("[model.tokenizer]\n", TOWERS) + TTDS

    return made_again(shop, tmp_path_factory.mktemp("ttds"), settings)


@pytest.fixture(scope="module")
def by_vectors(shop: Shop, tmp_path_factory: pytest.TempPathFactory) -> Shop:
    """To RSLLM."""
    return made_again(shop, tmp_path_factory.mktemp("rsllm"), lambda text: 'method = "rsllm"\n' + text + RSLLM)


def test_the_new_method_was_judged_beside_the_old_one_and_is_live(shop: Shop, changed: Shop) -> None:
    evaluation = changed.newest("evaluation").manifest
    assert evaluation.parents["champion"] == "model/temporal/000001"  # the live one's, which saw nothing of the test
    assert evaluation.parents["challenger"] == "model/temporal/000002"
    assert {"challenger", "champion"} <= set(evaluation.metrics["methods"])
    assert evaluation.metrics["problems"]["challenger"] == evaluation.metrics["problems"]["champion"] == {}
    model = live_model(changed.settings).manifest
    assert model.settings["method"] == "ttds"
    assert live_model(shop.settings).manifest.settings["method"] == "semantic_convergence"


def test_a_codebooks_manifest_says_what_it_was_trained_with(changed: Shop) -> None:
    codebook = changed.newest("codebook/temporal")
    used = json.loads(Path(codebook.path("codebook.json")).read_text())
    assert used["kind"] == "dual_autoencoder"
    assert codebook.manifest.settings["tokenizer"] == used
    stage = json.loads(Path(codebook.path(f"{LANGUAGE_MODEL}/{PRECOG}")).read_text())["config"]
    assert codebook.manifest.settings["finetune"] == stage["finetune"]


def test_later_items_have_codes_by_the_states_of_their_texts(changed: Shop) -> None:
    additions = changed.newest("codebook_additions/codebook-temporal-000002")
    assert additions.manifest.counts == {"items": 4}
    codes = pq.read_table(additions.path("items.parquet"))
    assert codes.num_rows == 4
    assert pq.read_table(changed.newest("codebook/temporal").path("items.parquet")).num_rows == ITEMS - 4


def test_apps_read_lists_and_teams_read_codes_of_users(changed: Shop, spark: SparkSession) -> None:
    model = live_model(changed.settings)
    rows = changed.online()
    assert all(row["model_version"] == model.identity for row in rows[:-1])
    assert all(row["source"] == "model" for row in rows[:-1])
    ids = [f"u{user:02}" for user in range(USERS)] + ["nobody"]
    features = ["user_codes:codes", "user_codes:codebook_version"]
    found = open_store(changed.settings).get_online_features(features, [{"user_id": one} for one in ids]).to_dict()
    stored = daily_table(changed.settings, "recommendations").read(spark, LAST.date(), LAST.date())
    expected = {row.user_id: row.user_codes for row in stored.collect()}
    assert found["codes"] == [*(expected[one] for one in ids[:-1]), None]
    assert all(len(code.split("-")) == 4 for code in found["codes"][:-1])
    assert set(found["codebook_version"][:-1]) == {model.manifest.parents["codebook"]}


def test_the_report_shows_how_the_index_moved(changed: Shop) -> None:
    page = Path(changed.newest("report").path("report.html")).read_text()
    assert "How the index moved" in page


def test_a_model_that_reads_the_teachers_vectors_is_judged_and_served_like_any(
    by_vectors: Shop, spark: SparkSession
) -> None:
    model = live_model(by_vectors.settings)
    assert model.manifest.settings["method"] == "rsllm"
    evaluation = by_vectors.newest("evaluation").manifest
    assert {"challenger", "champion"} <= set(evaluation.metrics["methods"])
    assert evaluation.metrics["problems"]["challenger"] == evaluation.metrics["problems"]["champion"] == {}
    verdict = by_vectors.newest("promotion").manifest.metrics
    assert any("loss on all data" in reason["text"] for reason in verdict["reasons"])
    rows = by_vectors.online()
    assert all((row["model_version"], row["source"]) == (model.identity, "model") for row in rows[:-1])
    assert all(len(set(row["item_codes"])) == len(row["item_ids"]) == TOP_K for row in rows[:-1])


def test_items_that_came_after_its_training_can_be_on_its_lists(by_vectors: Shop) -> None:
    """They have no behaviour in the judged model's training set: their texts stand for them."""
    additions = by_vectors.newest("codebook_additions/codebook-temporal-000002")
    assert additions.manifest.counts == {"items": 4}
    texts = pq.read_table(additions.path("texts.parquet"))
    assert texts.column_names == ["item_index", "title", "text"]
    assert set(texts["title"].to_pylist()) == {f"Title number {item}" for item in range(ITEMS - 4, ITEMS)}
