"""Held-out cases: each later target with exactly the past before it."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pytest
from pyspark.sql import DataFrame, Row, SparkSession

from jobs.transforms.holdout import holdout_cases, training_counts

START = dt.datetime(2020, 1, 10, tzinfo=dt.UTC)
OPTIONS: dict[str, Any] = {
    "start": START,
    "target_types": ["buy"],
    "masking_types": ["buy"],
    "history_items": 2,
    "max_users": 100,
    "max_targets_per_user": 100,
}


@pytest.fixture(scope="module")
def events(spark: SparkSession) -> DataFrame:
    def event(user: str, day: int, item: str, kind: str = "buy", seq: int = 0) -> Row:
        when = START + dt.timedelta(days=day)
        return Row(user_id=user, event_time=when, event_seq=seq, item_id=item, event_type=kind)

    old = [event("a", -3, "1"), event("a", -2, "2", "view"), event("a", -1, "1")]
    ties = [event("a", 0, "9", seq=1), event("a", 0, "3", "view", seq=2), event("a", 0, "4", seq=3)]
    first_timer = [event("new", 1, "5"), event("new", 2, "6")]
    outside = [event("early", -5, "1"), event("early", -4, "2")]
    crowd = [event(f"u{user}", day, str(day)) for user in range(5) for day in range(6)]
    return spark.createDataFrame([*old, *ties, *first_timer, *outside, *crowd]).repartition(3)


def cases(events: DataFrame, **options: Any) -> dict[str, Row]:
    return {row.key: row for row in holdout_cases(events, **{**OPTIONS, **options}).collect()}


def test_targets_are_later_events_with_a_past(events: DataFrame) -> None:
    found = cases(events)
    assert {key for key in found if not key.startswith("u")} == {"a#4", "a#6", "new#2"}


def test_history_and_seen_hold_nothing_but_the_past(events: DataFrame) -> None:
    found = cases(events)
    assert (found["a#4"].target, found["a#4"].history, sorted(found["a#4"].seen)) == ("9", ["2", "1"], ["1"])
    assert (found["a#6"].target, found["a#6"].history, sorted(found["a#6"].seen)) == ("4", ["9", "3"], ["1", "9"])
    assert (found["new#2"].target, found["new#2"].history) == ("6", ["5"])
    assert [found[key].history_length for key in ("a#4", "a#6", "new#2")] == [3, 5, 1]


def test_limits_draw_the_same_cases_every_time(events: DataFrame) -> None:
    found = cases(events, max_users=3, max_targets_per_user=2)
    assert len({row.user_id for row in found.values()}) == 3
    assert all(sum(row.user_id == user for row in found.values()) <= 2 for user in {r.user_id for r in found.values()})
    assert found == cases(events.repartition(1), max_users=3, max_targets_per_user=2)


def test_training_counts_are_of_targets_alone(spark: SparkSession) -> None:
    items = spark.createDataFrame([(0, "x"), (1, "y"), (2, "z")], "item_index int, item_id string")
    windows = spark.createDataFrame(
        [([0, 1, 1, -1], [0, 1, 1, 0]), ([1, 0], [1, 0])], "items array<int>, targets array<int>"
    )
    counts = {row.item_id: row["count"] for row in training_counts(items, windows).collect()}
    assert counts == {"x": 0, "y": 3, "z": 0}
