"""Validation: every kind of bad input ends where it should, with its reason."""

from __future__ import annotations

import datetime as dt
import json
from collections import Counter
from typing import Any

import pytest
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from jobs.common.contracts import RAW_CATALOGUE, RAW_EVENT
from jobs.transforms.validate import (
    Source,
    check_catalogue,
    check_events,
    in_days,
    map_columns,
    quarantined,
    with_event_day,
)

D1, D2 = dt.date(2020, 1, 1), dt.date(2020, 1, 2)
RAW = "who string, item_id string, at string, event_type string, event_seq string, price double, arrived_at string"
MAPPING = {"user_id": "who", "event_time": "at"}


def events_source(**changes: Any) -> Source:
    fields = {
        "uri": "raw/events",
        "uri_setting": "input.events_uri",
        "contract": RAW_EVENT,
        "expressions": MAPPING,
        "columns_setting": "input.event_columns",
        "keep_setting": "input.event_filter",
    }
    return Source(**fields | changes)


def catalogue_source() -> Source:
    return Source("raw/catalogue", "input.catalogue_uri", RAW_CATALOGUE, {}, "input.catalogue_columns")


@pytest.fixture(scope="module")
def checked(spark: SparkSession) -> DataFrame:
    """Rows whose price names what is wrong with them, all on 2020-01-01 unless they have no time."""
    good = {
        "who": "u",
        "item_id": "i",
        "at": "2020-01-01 10:00:00",
        "event_type": "buy",
        "event_seq": "1",
        "price": 1.0,
        "arrived_at": None,
    }
    rows = [
        good,
        good | {"who": None, "price": 2.0},
        good | {"who": "  ", "price": 3.0},
        good | {"item_id": None, "price": 4.0},
        good | {"at": "yesterday", "price": 5.0},
        good | {"at": None, "price": 6.0},
        good | {"event_type": "steal", "price": 7.0},
        good | {"event_type": None, "price": 8.0},
        good | {"event_seq": "first", "price": 9.0},
        good | {"item_id": "unheard of", "price": 10.0},
        good | {"item_id": "tomorrow's", "price": 11.0},
        good | {"price": 12.0},
        good | {"price": -1.0},
        good | {"event_seq": None, "price": 13.0},
        good | {"event_seq": "0", "price": 14.0},
        good | {"at": "2020-01-02 12:00:00", "arrived_at": "2020-01-01 10:00:00", "price": 15.0},
        good | {"at": "2020-01-01 10:59:00", "arrived_at": "2020-01-01 10:00:00", "price": 16.0},
    ]
    known = spark.createDataFrame([("i", D1), ("tomorrow's", D2)], "item_id string, first_ds date")
    mapped = map_columns(spark.createDataFrame(rows, RAW), events_source(keep="price > 0"))
    return check_events(with_event_day(mapped, 60), ["buy", "view"], known).persist()


def test_every_event_has_its_outcome(checked: DataFrame) -> None:
    outcomes = Counter(row.outcome for row in checked.select("outcome").collect())
    assert outcomes == {
        "valid": 3,
        "duplicate": 2,  # the same event again; a sequence number of null and one of 0
        "filtered": 1,
        "null user_id": 2,
        "null item_id": 1,
        "unparsable event_time": 2,
        "unknown event_type": 1,
        "null event_type": 1,
        "unparsable event_seq": 1,
        "unknown item": 2,
        "event_time ahead of arrival": 1,
    }


def test_quarantine_keeps_the_raw_row_and_its_day(checked: DataFrame) -> None:
    rows = {json.loads(row.record)["price"]: row for row in quarantined(checked, "events", D2).collect()}
    assert {price: row.reason for price, row in rows.items()} == {
        2.0: "null user_id",
        3.0: "null user_id",
        4.0: "null item_id",
        5.0: "unparsable event_time",
        6.0: "unparsable event_time",
        7.0: "unknown event_type",
        8.0: "null event_type",
        9.0: "unparsable event_seq",
        10.0: "unknown item",
        11.0: "unknown item",
        15.0: "event_time ahead of arrival",
    }
    assert json.loads(rows[5.0].record) == {
        "who": "u",
        "item_id": "i",
        "at": "yesterday",
        "event_type": "buy",
        "event_seq": "1",
        "price": 5.0,
        "arrived_at": None,
    }
    assert rows[2.0].ds == D1
    assert rows[15.0].ds == D1, "an event ahead of its arrival stands under the day on which it arrived"
    assert rows[5.0].ds == D2, "a row without a time stands under the last day of the run"
    assert {row.source for row in rows.values()} == {"events"}


def test_good_rows_carry_no_record(checked: DataFrame) -> None:
    assert checked.where(
        F.col("outcome").isin("valid", "filtered", "duplicate") & F.col("record").isNotNull()
    ).isEmpty()


def test_days_are_half_open_and_rows_without_a_time_belong_to_every_run(spark: SparkSession) -> None:
    times = [
        "2019-12-31 23:59:59.999999",
        "2020-01-01 00:00:00",
        "2020-01-02 23:59:59.999999",
        "2020-01-03 00:00:00",
        None,
    ]
    df = spark.createDataFrame([(time,) for time in times], "at string")
    chosen = df.where(in_days(F.col("at").try_cast("timestamp"), D1, D2)).collect()
    assert [row["at"] for row in chosen] == [times[1], times[2], None]


@pytest.fixture(scope="module")
def raw(spark: SparkSession) -> DataFrame:
    return spark.createDataFrame([], RAW)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"expressions": {}}, ["raw/events", "user_id, event_time", "who, item_id, at", "input.event_columns"]),
        ({"expressions": {"user": "who"}}, ["input.event_columns", "user", "user_id"]),
        (
            {"expressions": MAPPING | {"user_id": "whom"}},
            ["input.event_columns.user_id = 'whom'", "raw/events", "who, item_id"],
        ),
        (
            {"expressions": MAPPING | {"user_id": "who +"}},
            ["input.event_columns.user_id = 'who +'", "Syntax error", "raw/events"],
        ),
        ({"expressions": MAPPING | {"event_time": "array(at)"}}, ["input.event_columns.event_time", "TIMESTAMP"]),
        ({"keep": "cost > 0"}, ["input.event_filter = 'cost > 0'", "price"]),
    ],
)
def test_mistakes_of_the_whole_source_name_it_and_the_setting(raw: DataFrame, changes: dict, words: list[str]) -> None:
    with pytest.raises(ValueError, match=r".") as error:
        map_columns(raw, events_source(**changes))
    for word in words:
        assert word in str(error.value)


def test_catalogue_of_wrong_type_is_a_mistake_of_the_source(spark: SparkSession) -> None:
    csv = spark.createDataFrame(
        [], "item_id string, title string, categories string, available string, updated_at string"
    )
    with pytest.raises(ValueError, match=r"input\.catalogue_columns\.categories.*raw/catalogue"):
        map_columns(csv, catalogue_source())


def test_every_catalogue_row_has_its_outcome(spark: SparkSession) -> None:
    columns = "item_id string, title string, categories array<string>, available string, updated_at string"
    rows = [
        ("i", "Old", ["x", None, "y"], "true", "2020-01-01 08:00:00"),
        ("i", "New", None, "false", "2020-01-01 09:00:00"),
        ("i", "Newest", ["x", None, "y"], "true", "2020-01-02 09:00:00"),
        (None, "Title", [], "true", "2020-01-01 08:00:00"),
        ("j", None, [], "true", "2020-01-01 08:00:00"),
        ("k", "<br/> &nbsp;", [], "true", "2020-01-01 08:00:00"),
        ("l", "Title", [], "perhaps", "2020-01-01 08:00:00"),
        ("m", "Title", [], "true", "soon"),
    ]
    checked = check_catalogue(map_columns(spark.createDataFrame(rows, columns), catalogue_source())).collect()
    assert {(row.item_id, row.title): row.outcome for row in checked} == {
        ("i", "Old"): "superseded",
        ("i", "New"): "valid",
        ("i", "Newest"): "valid",
        (None, "Title"): "null item_id",
        ("j", None): "null title",
        ("k", "<br/> &nbsp;"): "null title",
        ("l", "Title"): "unparsable available",
        ("m", "Title"): "unparsable updated_at",
    }
    categories = {row.title: row.categories for row in checked if row.outcome == "valid"}
    assert categories == {"New": [], "Newest": ["x", "y"]}
