"""Histories: equal to a plain reference for any stream of events and any split of the days into builds."""

from __future__ import annotations

import datetime as dt
from collections import defaultdict
from functools import reduce
from itertools import pairwise
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from jobs.common.contracts import EVENTS, USER_HISTORY
from jobs.transforms.histories import changed_events, stale_histories, user_histories

MAX_ITEMS = 3
FIRST = dt.datetime(2020, 1, 1, tzinfo=dt.UTC)
DAYS = 4

Event = tuple[str, str, dt.datetime, str, int, dt.date]


def make_event(user: str, item: str, day: int, hour: int, kind: str, seq: int) -> Event:
    time = FIRST + dt.timedelta(days=day, hours=hour)
    return user, item, time, kind, seq, time.date()


# Few values each, so that ties in time are common.
events_of_days = st.lists(
    st.builds(
        make_event,
        st.sampled_from(["u", "v", "w"]),
        st.sampled_from(["a", "b", "c"]),
        st.integers(0, DAYS - 1),
        st.sampled_from([0, 12, 23]),
        st.sampled_from(["buy", "view"]),
        st.integers(0, 1),
    ),
    max_size=40,
    unique=True,
)
cuts = st.sets(st.integers(1, DAYS - 1))


def expected(events: list[Event]) -> dict[tuple[str, dt.date], tuple[Any, ...]]:
    by_user = defaultdict(list)
    for event in events:
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


@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(events=events_of_days, cuts=cuts, order=st.randoms(use_true_random=False))
def test_any_builds_in_any_order_equal_the_reference(
    spark: SparkSession, events: list[Event], cuts: set[int], order: Any
) -> None:
    order.shuffle(events)
    stream = spark.createDataFrame(events, EVENTS)
    bounds = [0, *sorted(cuts), DAYS]
    ranges = [
        (FIRST.date() + dt.timedelta(days=start), FIRST.date() + dt.timedelta(days=end - 1))
        for start, end in pairwise(bounds)
    ]
    order.shuffle(ranges)
    built = [user_histories(stream, start, end, MAX_ITEMS) for start, end in ranges]
    assert collected(reduce(DataFrame.unionByName, built)) == expected(events)


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
