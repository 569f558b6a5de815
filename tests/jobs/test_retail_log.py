"""A shop's transaction log, mapped by an example settings file alone: cancellations, nobody's rows, notes, postage."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from jobs.build_item_text import build_item_text
from jobs.build_user_histories import build_user_histories
from jobs.common.contracts import daily_table
from jobs.common.settings import Settings, load_settings
from jobs.ingest import ingest

EXAMPLE = Path(__file__).parents[2] / "conf" / "retail_log.example.toml"
FIRST, LAST = dt.date(2010, 12, 1), dt.date(2010, 12, 2)
LOG = """InvoiceNo,StockCode,Description,Quantity,InvoiceDate,UnitPrice,CustomerID,Country
536365,85123A,WHITE HANGING HEART T-LIGHT HOLDER,6,12/1/2010 8:26,2.55,17850.0,United Kingdom
536365,71053,WHITE METAL LANTERN,6,12/1/2010 8:26,3.39,17850.0,United Kingdom
536365,71053,WHITE METAL LANTERN,6,12/1/2010 8:26,3.39,17850.0,United Kingdom
536366,71053,WHITE MOROCCAN METAL LANTERN,1,12/1/2010 9:02,3.39,13047.0,United Kingdom
536370,POST,POSTAGE,3,12/1/2010 8:45,18.00,12583.0,France
C536379,D,Discount,-1,12/1/2010 9:41,27.50,14527.0,United Kingdom
536414,22139,,56,12/1/2010 11:52,0.00,,United Kingdom
536414,22139,damaged,-7,12/1/2010 11:52,0.00,,United Kingdom
C536383,85123a,WHITE HANGING HEART T-LIGHT HOLDER,-1,12/2/2010 9:49,4.65,17850.0,United Kingdom
536500,22139,,2,12/2/2010 10:00,4.25,13047.0,United Kingdom
536501,71053,WHITE METAL LANTERN,2,12/2/2010 10:05,3.39,13047.0,United Kingdom
536502,71053,WHITE METAL LANTERN,2,yesterday,3.39,13047.0,United Kingdom
"""


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    log = tmp_path / "raw" / "log"
    log.mkdir(parents=True)
    (log / "part.csv").write_text(LOG)
    example = load_settings(str(EXAMPLE))
    source = example.input.model_copy(update={"events_uri": str(log), "catalogue_uri": str(log)})
    return example.model_copy(update={"lake_uri": str(tmp_path / "lake"), "input": source})


def test_the_log_becomes_events_items_and_quarantine(spark: SparkSession, settings: Settings) -> None:
    counts = ingest(spark, settings, FIRST, LAST).manifest.counts
    assert counts == {
        "rows": 5,
        "events": 5,
        "duplicate": 1,
        "filtered": 4,  # postage, a discount, two rows of nobody
        "quarantined: unknown item": 1,  # sold before anybody wrote down its name
        "quarantined: unparsable event_time": 1,
        "stale histories": 0,
    }
    events = daily_table(settings, "events").read(spark, FIRST, LAST).collect()
    assert sorted((row.user_id, row.item_id, row.event_type, row.ds.day) for row in events) == [
        ("13047", "71053", "buy", 1),
        ("13047", "71053", "buy", 2),
        ("17850", "71053", "buy", 1),
        ("17850", "85123A", "buy", 1),
        ("17850", "85123A", "cancel", 2),
    ]


def test_of_a_days_names_the_newest_counts(spark: SparkSession, settings: Settings) -> None:
    ingest(spark, settings, FIRST, LAST)
    build_user_histories(spark, settings, FIRST, LAST)
    build_item_text(spark, settings, FIRST, LAST)
    titles = daily_table(settings, "item_text").read(spark, FIRST, LAST).collect()
    assert {(row.item_id, row.ds.day): row.title for row in titles} == {
        ("85123A", 1): "WHITE HANGING HEART T-LIGHT HOLDER",
        ("71053", 1): "WHITE MOROCCAN METAL LANTERN",
        ("85123A", 2): "WHITE HANGING HEART T-LIGHT HOLDER",
        ("71053", 2): "WHITE METAL LANTERN",
    }
    rows = daily_table(settings, "user_history").read(spark, LAST, LAST).collect()
    assert {row.user_id: (row.item_ids, row.event_types) for row in rows} == {
        "13047": (["71053", "71053"], ["buy", "buy"]),
        "17850": (["71053", "85123A", "85123A"], ["buy", "buy", "cancel"]),
    }
