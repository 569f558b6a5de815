"""Histories: equal to a plain reference for any stream of events and any split of the days into builds."""

from __future__ import annotations

import datetime as dt
from collections import defaultdict
from functools import reduce
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from jobs.common.contracts import EVENTS, RAW_EVENT, USER_HISTORY
from jobs.transforms import histories
from jobs.transforms.histories import changed_events, of_users, stale_histories, user_histories
from jobs.transforms.validate import OUTCOME, VALID, Source, check_events, map_columns, with_event_day

MAX_ITEMS = 3
FIRST = dt.datetime(2020, 1, 1, tzinfo=dt.UTC)
DAYS = 4

ITEMS, KINDS = ["a", "b", "c"], ["buy", "view"]
Event = tuple[str, str, dt.datetime, str, int, dt.date]


def make_event(user: str, item: str, day: int, hour: int, kind: str, seq: int) -> Event:
    time = FIRST + dt.timedelta(days=day, hours=hour)
    return user, item, time, kind, seq, time.date()


def day(number: int) -> dt.date:
    return FIRST.date() + dt.timedelta(days=number)


# Few values each, so that ties in time and duplicates are common.
events_of_days = st.lists(
    st.builds(
        make_event,
        st.sampled_from(["u", "v", "w"]),
        st.sampled_from(ITEMS),
        st.integers(0, DAYS - 1),
        st.sampled_from([0, 12, 23]),
        st.sampled_from(KINDS),
        st.integers(0, 1),
    ),
    max_size=40,
)
cuts = st.sets(st.integers(1, DAYS - 1))


def expected(events: list[Event]) -> dict[tuple[str, dt.date], tuple[Any, ...]]:
    by_user = defaultdict(list)
    for event in set(events):
        by_user[event[0]].append(event)
    rows = {}
    for user, own in by_user.items():
        own.sort(key=lambda event: (event[2], event[4], event[1], event[3]))
        for day in {event[5] for event in own}:
            past = [event for event in own if event[5] <= day]
            newest = past[-MAX_ITEMS:]
            times = [past[0][2], *(event[2] for event in past)]
            gaps = [round((later - earlier).total_seconds()) for earlier, later in pairwise(times)]
            rows[user, day] = (
                [event[1] for event in newest],
                [event[3] for event in newest],
                [f"{event[2]:%F %T}" for event in newest],
                gaps[-MAX_ITEMS:],
                len(past),
                f"{day + dt.timedelta(days=1)} 00:00:00",
            )
    return rows


def collected(histories: DataFrame) -> dict[tuple[str, dt.date], tuple[Any, ...]]:
    as_text = histories.withColumns(
        {
            "event_times": F.transform("event_times", lambda time: time.cast("string")),
            "event_timestamp": F.col("event_timestamp").cast("string"),
        }
    )
    rows = as_text.collect()
    found = {(row.user_id, row.ds): tuple(row)[1:-1] for row in rows}
    assert len(found) == len(rows)
    return found


def ingested(spark: SparkSession, events: list[Event]) -> DataFrame:
    """The events as ingest would take them, duplicates dropped."""
    raw = spark.createDataFrame([event[:5] for event in events], EVENTS[:5])
    source = Source("raw", "events_uri", RAW_EVENT, {}, "event_columns")
    known = spark.createDataFrame([(item, FIRST.date()) for item in ITEMS], "item_id string, first_ds date")
    checked = check_events(with_event_day(map_columns(raw, source), 0), KINDS, known)
    return checked.where(F.col(OUTCOME) == VALID).select(*EVENTS.fieldNames())


@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(events=events_of_days, late=st.sets(st.integers(0, 39)), cuts=cuts, order=st.randoms(use_true_random=False))
def test_any_builds_in_any_order_equal_the_reference(
    spark: SparkSession, events: list[Event], late: set[int], cuts: set[int], order: Any
) -> None:
    """Days are built in any order and grouping; then late events arrive, and what they made stale is built again."""
    on_time = [event for place, event in enumerate(events) if place not in late]
    order.shuffle(events)
    before, after = (ingested(spark, stream).persist() for stream in (on_time, events))
    bounds = [0, *sorted(cuts), DAYS]
    ranges = [(day(start), day(end - 1)) for start, end in pairwise(bounds)]
    order.shuffle(ranges)
    built = [user_histories(before, start, end, MAX_ITEMS) for start, end in ranges]
    histories = reduce(DataFrame.unionByName, built).persist()
    assert collected(histories) == expected(on_time)

    changed = changed_events(before, after)
    stale = stale_histories(histories, changed).select("ds").union(changed.select(F.col("first_ds").alias("ds")))
    again = [row.ds for row in stale.distinct().collect()]
    order.shuffle(again)
    rebuilt = [user_histories(after, one, one, MAX_ITEMS) for one in again]
    repaired = reduce(DataFrame.unionByName, [histories.where(~F.col("ds").isin(again)), *rebuilt])
    assert collected(repaired) == expected(events)


def test_columns_are_those_of_the_table(spark: SparkSession) -> None:
    histories = user_histories(spark.createDataFrame([], EVENTS), FIRST.date(), FIRST.date(), MAX_ITEMS)
    assert [(name, kind) for name, kind in histories.dtypes] == [
        (field.name, field.dataType.simpleString()) for field in USER_HISTORY
    ]


def test_late_and_vanished_events_make_later_rows_of_their_users_stale(spark: SparkSession) -> None:
    kept, vanished, late = (make_event(user, "a", 0, 1, "buy", 0) for user in ("kept", "vanished", "late"))
    days = [FIRST.date() + dt.timedelta(days=day) for day in (0, 2)]
    rows = [(user, day) for user in ("kept", "vanished", "late", "other") for day in days]
    histories = spark.createDataFrame(rows, "user_id string, ds date")
    before, after = (spark.createDataFrame(events, EVENTS) for events in ([kept, vanished], [kept, late]))
    stale = stale_histories(histories, changed_events(before, after)).collect()
    assert sorted(map(tuple, stale)) == [(user, day) for user in ("late", "vanished") for day in days]


def test_rows_of_users_are_found_whether_or_not_hashes_collide(
    spark: SparkSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = spark.createDataFrame([(f"u{n}", n) for n in range(60)], "user_id string, n int")
    users = spark.createDataFrame([("u3",), ("u3",), ("u44",), ("nobody",)], "user_id string")
    for hashes in (histories.HASHES, 2):
        monkeypatch.setattr(histories, "HASHES", hashes)
        assert sorted(map(tuple, of_users(rows, users).collect())) == [("u3", 3), ("u44", 44)]
