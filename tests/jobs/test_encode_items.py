"""Appending codes: one writer at a time, and what it says about the room that is left."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pyarrow.dataset
import pytest
from pyspark.sql import SparkSession

from jobs import encode_items
from jobs.common.artefacts import additions_store, store
from jobs.common.contracts import ITEM_VECTOR, daily_table
from jobs.common.item_vectors import vectors_store
from jobs.common.ledger import LeaseHeldError
from jobs.common.publishing import ledger_of
from jobs.common.settings import Settings, load_settings
from jobs.common.tables import write_rows
from jobs.encode_items import warn_of_reserve
from model.config import TokenizerConfig
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


def commit_live_codebook(settings: Settings, text_NE: np.ndarray) -> Generation:
    """The live model's codebook, of the known items; its training set ended with DAY."""
    trained_on = Manifest(key={"to": DAY.isoformat()}, parents={"item_text[0]": "item_text/000001"})
    training_set = store(settings, "training_set", "all").begin().commit(trained_on)
    nobody_N = np.zeros(len(KNOWN), bool)
    codebook = Codebook.train(TOKENIZER, KNOWN, text_NE, text_NE, nobody_N)
    x_NP = codebook.inputs(text_NE, text_NE, nobody_N)
    codes_NL = codebook.assign(KNOWN, x_NP, np.empty((0, TOKENIZER.levels), np.int64))
    draft = store(settings, "codebook", "all").begin()
    codebook.save(draft.uri)
    write_item_codes(draft.path(ITEMS_FILE), KNOWN, KNOWN, codes_NL)
    made_with = {"levels": TOKENIZER.levels, "codes_per_level": TOKENIZER.codes_per_level}
    committed = draft.commit(
        Manifest(settings={"tokenizer": made_with}, parents={"training_set": training_set.identity})
    )
    models = store(settings, "model", "all")
    models.point_to(models.begin().commit(Manifest(parents={"codebook": committed.identity})))
    return committed


def test_who_comes_while_another_gives_codes_gives_none(spark: SparkSession, settings_file: str) -> None:
    """Two at once would read the same free codes, and could give one to two items, or two to one."""
    settings = load_settings(settings_file)
    text_NE = np.random.default_rng(0).normal(size=(len(KNOWN + NEW), 6)).astype(np.float32)
    codebook = commit_live_codebook(settings, text_NE[: len(KNOWN)])
    additions = additions_store(settings, codebook)
    item_text = daily_table(settings, "item_text")
    for day, item_ids in ((DAY, KNOWN), (NEXT_DAY, NEW)):
        rows = [(item, item, item, item, True, utc(day), day) for item in item_ids]
        item_text.write(spark.createDataFrame(rows, item_text.schema), day, day, Manifest())
    vectors = vectors_store(settings).begin()
    embedded = [(item, vector.tolist()) for item, vector in zip(KNOWN + NEW, text_NE, strict=True)]
    write_rows(spark.createDataFrame(embedded, ITEM_VECTOR), vectors, "rows")
    vectors.commit(Manifest())

    def append() -> None:
        encode_items.main(utc(NEXT_DAY), append=True, settings_file=settings_file)

    with ledger_of(settings).lease("encode_items"):
        with pytest.raises(LeaseHeldError, match=r"encode_items \(process \d+ on .*\) holds the lease"):
            append()
        assert not Path(additions.uri).exists()

    for _ in range(2):  # the second finds nothing new
        append()
    (added,) = additions.complete()
    files = [codebook.path(ITEMS_FILE), added.path(ITEMS_FILE)]
    coded = pyarrow.dataset.dataset(files).to_table().to_pylist()
    assert [row["item_id"] for row in coded] == KNOWN + NEW
    assert [row["item_index"] for row in coded] == list(range(len(coded)))
    assert len({tuple(row[f"code_{level}"] for level in range(TOKENIZER.levels)) for row in coded}) == len(coded)


def test_a_nearly_full_prefix_is_named(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        warn_of_reserve(ROOM)
        assert not caplog.records
        warn_of_reserve(ROOM | {"nearly_full": 2})
    assert "2 of 40 prefixes" in caplog.text
    assert "3-1-4: 12" in caplog.text
