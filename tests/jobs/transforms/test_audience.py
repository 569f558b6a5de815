"""The audience: newest rows of active users, the newest items, everything seen."""

from __future__ import annotations

import datetime as dt

import pytest
from pyspark.sql import Row, SparkSession

from jobs.transforms.audience import audience

END = dt.datetime(2020, 2, 1, tzinfo=dt.UTC)


def history(user: str, days_before_end: int, *items: str) -> Row:
    return Row(user_id=user, item_ids=list(items), event_timestamp=END - dt.timedelta(days=days_before_end))


def event(user: str, item: str, kind: str) -> Row:
    return Row(user_id=user, item_id=item, event_type=kind)


@pytest.fixture
def users(spark: SparkSession) -> dict[str, Row]:
    histories = [history("a", 9, "1"), history("a", 2, "1", "2", "3"), history("b", 0, "4"), history("gone", 30, "5")]
    events = [event("a", "2", "buy"), event("a", "1", "buy"), event("a", "3", "view"), event("a", "1", "buy")]
    rows = audience(
        spark.createDataFrame(histories),
        spark.createDataFrame(events),
        interval_end=END,
        active_window_days=30,
        history_items=2,
        masking_types=["buy"],
    ).collect()
    return {row.user_id: row for row in rows}


def test_users_without_an_event_in_the_window_are_left_out(users: dict[str, Row]) -> None:
    assert set(users) == {"a", "b"}


def test_history_is_the_newest_items_of_the_newest_row(users: dict[str, Row]) -> None:
    assert users["a"].history == ["2", "3"]
    assert users["b"].history == ["4"]


def test_seen_holds_each_item_of_a_masking_event_once(users: dict[str, Row]) -> None:
    assert users["a"].seen == ["1", "2"]
    assert users["b"].seen == []
