"""Appending codes: one writer at a time, and what it says about the room that is left."""

from __future__ import annotations

import datetime as dt
import logging
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.dataset
import pytest
from pyspark.sql import SparkSession

from jobs import encode_items
from jobs.common.artefacts import additions_store, code_files, store
from jobs.common.contracts import ITEM_VECTOR, daily_table
from jobs.common.item_vectors import encoders_in_use, vectors_store
from jobs.common.ledger import LeaseHeldError
from jobs.common.promotions import verdicts
from jobs.common.publishing import ledger_of
from jobs.common.settings import Settings, load_settings
from jobs.common.step import Split
from jobs.common.tables import write_rows
from jobs.encode_items import warn_of_reserve
from jobs.evaluate import require_codes
from model.config import TextEncoderConfig, TokenizerConfig
from model.data.files import ITEMS_FILE
from model.generation import Generation, Manifest
from model.tokenizer.codebook import Codebook
from model.tokenizer.train import write_item_codes
from tests.jobs.conftest import DAY, NEXT_DAY, utc

ROOM = {"prefixes": 40, "full": 0, "nearly_full": 0, "tightest": [{"prefix": "3-1-4", "free": 12}]}
KNOWN = [f"i{n:02}" for n in range(20)]
NEW = ["new1", "new2"]
TOKENIZER = TokenizerConfig(levels=3, codes_per_level=8, input_dim=4)
LEASE_SECONDS = 0.5
LATER = NEXT_DAY + dt.timedelta(days=1)


@pytest.fixture
def settings_file(tmp_path: Path) -> str:
    file = tmp_path / "settings.toml"
    file.write_text(
        f'lake_uri = "{tmp_path}/lake"\n'
        '[input]\nevents_uri = ""\ncatalogue_uri = ""\n'
        "[event_types.buy]\n"
        f"[publishing]\nlease_seconds = {LEASE_SECONDS}\n"
    )
    return str(file)


def encoder(settings: Settings, dim: int) -> TextEncoderConfig:
    """One for each length of vectors."""
    return replace(settings.model.text_encoder, max_tokens=dim)


def vectors_of(item_ids: list[str], dim: int) -> np.ndarray:
    """[N,E]; an item's is always the same."""
    everything = KNOWN + NEW
    vectors = np.random.default_rng(0).normal(size=(len(everything), dim)).astype(np.float32)
    return vectors[[everything.index(item) for item in item_ids]]


def commit_codebook(
    settings: Settings, split: str, item_ids: list[str], until: dt.date, ds: dt.date, dim: int
) -> Generation:
    """A codebook of day `ds`, of a training set that ended with `until`."""
    trained_on = Manifest(key={"to": until.isoformat()}, parents={"item_text[0]": "item_text/000001"})
    training_set = store(settings, "training_set", split).begin().commit(trained_on)
    nobody_N, text_NE = np.zeros(len(item_ids), bool), vectors_of(item_ids, dim)
    codebook = Codebook.train(TOKENIZER, item_ids, text_NE, text_NE, nobody_N)
    x_NP = codebook.inputs(text_NE, text_NE, nobody_N)
    codes_NL = codebook.assign(item_ids, x_NP, np.empty((0, TOKENIZER.levels), np.int64))
    draft = store(settings, "codebook", split).begin()
    codebook.save(draft.uri)
    write_item_codes(draft.path(ITEMS_FILE), item_ids, item_ids, codes_NL)
    made_with = {
        "tokenizer": {"levels": TOKENIZER.levels, "codes_per_level": TOKENIZER.codes_per_level},
        "text_encoder": asdict(encoder(settings, dim)),
    }
    key, parents = {"ds": ds.isoformat()}, {"training_set": training_set.identity}
    return draft.commit(Manifest(key, settings=made_with, parents=parents))


def commit_model(settings: Settings, split: str, codebook: Generation) -> Generation:
    return store(settings, "model", split).begin().commit(Manifest(parents={"codebook": codebook.identity}))


def commit_texts(spark: SparkSession, settings: Settings, days: dict[dt.date, list[str]], dims: Sequence[int]) -> None:
    """Item text of days, and its vectors by the encoder of each length."""
    item_text = daily_table(settings, "item_text")
    for day, item_ids in days.items():
        rows = [(item, item, item, item, True, utc(day), day) for item in item_ids]
        item_text.write(spark.createDataFrame(rows, item_text.schema), day, day, Manifest())
    everything = [item for item_ids in days.values() for item in item_ids]
    for dim in dims:
        vectors = vectors_store(settings, encoder(settings, dim)).begin()
        embedded = [(item, row.tolist()) for item, row in zip(everything, vectors_of(everything, dim), strict=True)]
        write_rows(spark.createDataFrame(embedded, ITEM_VECTOR), vectors, "rows")
        vectors.commit(Manifest())


def coded(settings: Settings, codebook: Generation) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pyarrow.dataset.dataset(code_files(settings, codebook)).to_table().to_pylist()
    return rows


def test_who_comes_while_another_gives_codes_gives_none(spark: SparkSession, settings_file: str) -> None:
    """Two at once would read the same free codes, and could give one to two items, or two to one."""
    settings = load_settings(settings_file)
    codebook = commit_codebook(settings, "all", KNOWN, DAY, DAY, dim=6)
    store(settings, "model", "all").point_to(commit_model(settings, "all", codebook))
    additions = additions_store(settings, codebook)
    commit_texts(spark, settings, {DAY: KNOWN, NEXT_DAY: NEW}, [6])

    def append() -> None:
        encode_items.main(utc(NEXT_DAY), append=True, settings_file=settings_file)

    with ledger_of(settings).lease("encode_items"):
        with pytest.raises(LeaseHeldError, match=r"encode_items \(process \d+ on .*\) holds the lease"):
            append()
        assert not Path(additions.uri).exists()

    for _ in range(2):  # the second finds nothing new
        append()
    assert len(additions.complete()) == 1
    rows = coded(settings, codebook)
    assert [row["item_id"] for row in rows] == KNOWN + NEW
    assert [row["item_index"] for row in rows] == list(range(len(rows)))
    assert len({tuple(row[f"code_{level}"] for level in range(TOKENIZER.levels)) for row in rows}) == len(rows)


def test_an_older_champion_gets_codes_for_what_came_since(spark: SparkSession, settings_file: str) -> None:
    """It is judged beside a challenger that was trained with the new items; its own text encoder was another."""
    settings = load_settings(settings_file)
    old = {split: commit_codebook(settings, split, KNOWN, DAY, DAY, dim=6) for split in ("temporal", "all")}
    champion = {split: commit_model(settings, split, codebook) for split, codebook in old.items()}
    parents = {"live": champion["all"].identity, "twin": champion["temporal"].identity}
    verdicts(settings).begin().commit(Manifest(metrics={"promoted": True}, parents=parents))
    store(settings, "model", "all").point_to(champion["all"])
    assert encoders_in_use(settings) == [settings.model.text_encoder, encoder(settings, 6)]
    commit_texts(spark, settings, {DAY: KNOWN, NEXT_DAY: NEW[:1], LATER: NEW[1:]}, [6, 8])
    newest = commit_codebook(settings, "temporal", KNOWN + NEW[:1], NEXT_DAY, LATER, dim=8)
    models = {"challenger": commit_model(settings, "temporal", newest), "champion": champion["temporal"]}
    items = daily_table(settings, "item_text").read(spark, None, LATER).select("item_id")
    for role, lacking in (("champion", 2), ("challenger", 1)):
        told = f"of the {role} {models[role].identity}, has no code for {lacking} items"
        with pytest.raises(ValueError, match=told):
            require_codes(spark, settings, {role: models[role]}, items, LATER)

    encode_items.main(utc(LATER), split=Split.temporal, settings_file=settings_file)
    require_codes(spark, settings, models, items, LATER)
    for codebook in (old["temporal"], newest):
        assert [row["item_id"] for row in coded(settings, codebook)] == KNOWN + NEW
    assert not additions_store(settings, old["all"]).complete()


def test_a_nearly_full_prefix_is_named(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        warn_of_reserve(ROOM)
        assert not caplog.records
        warn_of_reserve(ROOM | {"nearly_full": 2})
    assert "2 of 40 prefixes" in caplog.text
    assert "3-1-4: 12" in caplog.text
