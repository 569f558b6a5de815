"""Ingest: what ends in events, catalogue and quarantine, and what a person is told when the input is wrong."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from jobs.build_user_histories import build_user_histories
from jobs.common.artefacts import store
from jobs.common.contracts import EVENTS, daily_table
from jobs.common.settings import Settings
from jobs.ingest import ingest
from tests.jobs.raw_data import D1, D2, D3, D4, at, event, film, write_catalogue, write_events


def events_of(spark: SparkSession, settings: Settings) -> list[tuple[str, str, str]]:
    rows = daily_table(settings, "events").read(spark, None, D4).collect()
    return sorted((str(row.ds), row.user_id, row.item_id) for row in rows)


def test_days_are_selected_by_event_time_and_every_outcome_is_counted(spark: SparkSession, settings: Settings) -> None:
    write_catalogue(settings, film("a", at(D1)), film("b", at(D2)), film("c", at(D3)), film("d", at(D1), title=None))
    write_events(
        settings,
        event("u", "a", at(D1)),
        event("u", "a", at(D1)),
        event("u", "b", at(D2), "view"),
        event("u", "b", at(D1)),  # in the catalogue a day later
        event("u", "c", at(D3)),  # outside of the range
        event("v", "a", None),
        event(None, "a", at(D1)),
        event("v", "a", at(D2), "return"),
    )
    generation = ingest(spark, settings, D1, D2)
    assert events_of(spark, settings) == [("2020-01-01", "u", "a"), ("2020-01-02", "u", "b")]
    assert generation.manifest.key == {"from": "2020-01-01", "to": "2020-01-02"}
    assert generation.manifest.counts == {
        "rows": 2,
        "events": 2,
        "duplicate": 1,
        "stale histories": 0,
        "quarantined: null user_id": 1,
        "quarantined: unknown event_type": 1,
        "quarantined: unknown item": 1,
        "quarantined: unparsable event_time": 1,
    }
    catalogue = daily_table(settings, "catalogue").store.latest()
    assert catalogue is not None
    assert catalogue.manifest.counts == {"rows": 2, "items": 2, "quarantined: null title": 1}
    quarantine = daily_table(settings, "quarantine").read(spark, D1, D2).collect()
    assert sorted((str(row.ds), row.source, row.reason) for row in quarantine) == [
        ("2020-01-01", "catalogue", "null title"),
        ("2020-01-01", "events", "null user_id"),
        ("2020-01-01", "events", "unknown item"),
        ("2020-01-02", "events", "unknown event_type"),
        ("2020-01-02", "events", "unparsable event_time"),
    ]


def test_the_same_day_again_gives_the_same_rows_and_an_empty_day_is_a_finished_one(
    spark: SparkSession, settings: Settings
) -> None:
    write_catalogue(settings, film("a", at(D1)))
    write_events(settings, *(event(f"u{n}", "a", at(D1, n), seq=n) for n in range(20)))
    first, again = (ingest(spark, settings, D1, D1) for _ in range(2))
    assert first.manifest.checksums == again.manifest.checksums
    assert first.manifest.counts == again.manifest.counts
    assert len(events_of(spark, settings)) == 20

    empty = ingest(spark, settings, D2, D2)
    assert empty.manifest.counts == {"rows": 0, "events": 0, "stale histories": 0}
    histories = build_user_histories(spark, settings, D2, D2)
    assert histories.manifest.counts == {"rows": 0}
    # Of the parents only the catalogue's generations differ: the inputs are the same ones.
    for name in ("input.events_uri", "input.catalogue_uri"):
        assert first.manifest.parents[name] == empty.manifest.parents[name]


def test_a_changed_input_shows_in_the_manifest(spark: SparkSession, settings: Settings) -> None:
    write_catalogue(settings, film("a", at(D1)))
    write_events(settings, event("u", "a", at(D1)))
    before = ingest(spark, settings, D1, D1)
    write_events(settings, event("v", "a", at(D1)), part="part-1")
    after = ingest(spark, settings, D1, D1)
    assert before.manifest.parents["input.events_uri"] != after.manifest.parents["input.events_uri"]
    assert before.manifest.checksums != after.manifest.checksums


def test_a_late_event_is_reported_with_the_command_that_mends_it(
    spark: SparkSession, settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    write_catalogue(settings, film("a", at(D1)))
    write_events(settings, *(event(user, "a", at(day)) for user in "uv" for day in (D1, D2, D3)))
    ingest(spark, settings, D1, D3)
    build_user_histories(spark, settings, D1, D3)
    write_events(settings, event("u", "a", at(D1, 1)), part="late")
    with caplog.at_level(logging.WARNING, logger="ingest"):
        generation = ingest(spark, settings, D1, D1)
    assert generation.manifest.counts["stale histories"] == 2
    assert "build_user_histories --from 2020-01-02 --to 2020-01-03" in caplog.text


def test_csv_with_other_names_is_mapped_by_settings(spark: SparkSession, settings: Settings) -> None:
    folder = Path(settings.input.events_uri).parent
    folder.mkdir(parents=True)
    Path(folder, "sales.csv").write_text(
        "CustomerID,Stock,When,Quantity\n17,a,2020-01-01 08:00,2\n17,a,2020-01-01 09:00,-2\n17,a,no time,1\n"
    )
    Path(folder, "stock.csv").write_text("Stock,Name,Groups\na,Lamp,light;home\n")
    mapped = {
        "events_uri": str(folder / "*sales.csv"),
        "catalogue_uri": str(folder / "stock.csv"),
        "format": "csv",
        "options": {"header": "true"},
        "event_columns": {"user_id": "CustomerID", "item_id": "Stock", "event_time": "When", "event_type": "'buy'"},
        "event_filter": "Quantity > 0",
        "catalogue_columns": {
            "item_id": "Stock",
            "title": "Name",
            "categories": "split(Groups, ';')",
            "available": "true",
            "updated_at": "'2020-01-01'",
        },
    }
    settings = Settings(**settings.model_dump() | {"input": mapped})
    generation = ingest(spark, settings, D1, D1)
    assert {
        key: generation.manifest.counts[key] for key in ("events", "filtered", "quarantined: unparsable event_time")
    } == {
        "events": 1,
        "filtered": 1,
        "quarantined: unparsable event_time": 1,
    }
    (item,) = daily_table(settings, "catalogue").read(spark, D1, D1).collect()
    assert (item.title, item.categories, item.description, item.available) == ("Lamp", ["light", "home"], None, True)


def test_input_that_is_not_there_names_itself_and_its_setting(spark: SparkSession, settings: Settings) -> None:
    write_catalogue(settings, film("a", at(D1)))
    with pytest.raises(ValueError, match=rf"{settings.input.events_uri} .*input\.events_uri"):
        ingest(spark, settings, D1, D1)
    write_events(settings, event("u", "a", at(D1)))
    shutil.rmtree(settings.input.catalogue_uri)
    with pytest.raises(ValueError, match=rf"{settings.input.catalogue_uri} .*input\.catalogue_uri"):
        ingest(spark, settings, D1, D1)
    assert not daily_table(settings, "catalogue").store.complete(), "nothing is written before the input is known"


def test_a_missing_column_stops_before_anything_is_written(spark: SparkSession, settings: Settings) -> None:
    write_catalogue(settings, film("a", at(D1)))
    spark.createDataFrame([("u",)], "customer string").write.parquet(settings.input.events_uri)
    with pytest.raises(ValueError, match=r"user_id.*customer.*input\.event_columns"):
        ingest(spark, settings, D1, D1)
    assert not daily_table(settings, "catalogue").store.complete()


def test_stored_schema_is_the_contract(spark: SparkSession, settings: Settings) -> None:
    write_catalogue(settings, film("a", at(D1)))
    write_events(settings, event("u", "a", at(D1)))
    stored = spark.read.parquet(ingest(spark, settings, D1, D1).path("rows"))
    assert stored.dtypes == [(field.name, field.dataType.simpleString()) for field in EVENTS]


def test_a_day_of_unusual_volume_stops_at_the_gate(spark: SparkSession, settings: Settings) -> None:
    quality = settings.quality.model_copy(update={"volume_days": 2, "max_volume_ratio": 3.0})
    settings = settings.model_copy(update={"quality": quality})
    write_catalogue(settings, film("a", at(D1)))
    write_events(settings, *(event("u", "a", at(day, hour)) for day in (D1, D2) for hour in (1, 2)))
    ingest(spark, settings, D1, D2)
    write_events(settings, *(event("u", "a", at(D3, 1, minute)) for minute in range(7)), part="much")
    with pytest.raises(ValueError, match=r"7 events, 3.50 times the mean of the 2 days before.*--accept-volume"):
        ingest(spark, settings, D3, D3)
    assert not daily_table(settings, "events").owners(D3, D3)
    assert ingest(spark, settings, D3, D3, accept_volume=True).manifest.counts["events"] == 7
    with pytest.raises(ValueError, match=r"0 events, 0\.00 times the mean"):
        ingest(spark, settings, D4, D4)


def test_the_data_report_counts_shows_and_names_nobody(spark: SparkSession, settings: Settings) -> None:
    write_catalogue(settings, film("a", at(D1)), film("b", at(D1), title=None))
    refused = [event("somebody", "a", at(D2, hour), "return") for hour in range(5)]
    write_events(settings, event("u", "a", at(D1)), event("u", "a", at(D2)), *refused)
    ingest(spark, settings, D1, D1)
    ingest(spark, settings, D2, D2)
    report = store(settings, "data_report").latest()
    assert report is not None
    content = json.loads(Path(report.path("report.json")).read_text())
    assert content["volumes"] == {"2020-01-01": 1, "2020-01-02": 1}
    assert content["outcomes"]["events"]["events"] == 1
    (rule,) = content["refused"]
    assert (rule["source"], rule["reason"], rule["rows"]) == ("events", "unknown event_type", 5)
    assert [json.loads(example)["event_type"] for example in rule["examples"]] == ["return"] * 3
    page = Path(report.path("report.html")).read_text()
    assert "unknown event_type (5)" in page
    assert "somebody" not in page + json.dumps(content)
