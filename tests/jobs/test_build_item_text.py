"""The step item text: one row per item and day of an update; its current text is the newest."""

from __future__ import annotations

import pytest
from pyspark.sql import SparkSession

from jobs.build_item_text import build_item_text
from jobs.common.contracts import daily_table
from jobs.common.settings import Settings
from jobs.ingest import ingest
from tests.jobs.raw_data import D1, D2, D3, at, event, film, write_catalogue, write_events


def test_one_row_per_item_and_day_of_an_update(spark: SparkSession, settings: Settings) -> None:
    write_catalogue(
        settings,
        film("a", at(D1, 1), "Morning"),
        film("a", at(D1, 20), "Evening", categories=["x"]),
        film("a", at(D2), "Next day", available=False),
        film("b", at(D1)),
    )
    write_events(settings, event("u", "a", at(D1)))
    ingest(spark, settings, D1, D2)
    built = build_item_text(spark, settings, D1, D2)
    rows = daily_table(settings, "item_text").read(spark, D1, D2).collect()
    assert sorted((str(row.ds), row.item_id, row.text, row.available) for row in rows) == [
        ("2020-01-01", "a", "Evening. x", True),
        ("2020-01-01", "b", "A film", True),
        ("2020-01-02", "a", "Next day", False),
    ]
    assert build_item_text(spark, settings, D1, D2).manifest.checksums == built.manifest.checksums
    with pytest.raises(ValueError, match=r"python -m jobs\.ingest --from 2020-01-03 --to 2020-01-03"):
        build_item_text(spark, settings, D2, D3)
