"""Training sequences: the context comes first, every event of a day is a target once, nothing else is."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pytest
from pyspark.sql import SparkSession

from jobs.common.contracts import EVENTS
from jobs.transforms.training_set import active_days, before_last_targets, day_sequences, training_items, windows

DAY = dt.date(2020, 1, 2)
MIDNIGHT = dt.datetime(2020, 1, 2, tzinfo=dt.UTC)


def reference_windows(context: list[int], own: list[int], h: int, w: int) -> list[tuple[list[int], list[int]]]:
    """Plain-Python cut: fill a window up, go on behind its last event, with the h items before that as context."""
    total, done, cut = context + own, len(context), []
    while done < len(total):
        first = max(done - h, 0)
        items = total[first : first + w]
        targets = [int(first + i >= done) for i in range(len(items))]
        done = first + len(items)
        padding = w - len(items)
        cut.append((items + [-1] * padding, targets + [0] * padding))
    return cut


@pytest.mark.parametrize(("h", "w"), [(3, 6), (2, 7), (4, 5)])
def test_windows_equal_the_reference_and_cover_each_event_once(spark: SparkSession, h: int, w: int) -> None:
    cases = {f"{c}-{n}": (list(range(100, 100 + c)), list(range(n))) for c in range(h + 1) for n in range(1, 3 * w)}
    rows = [
        (name, DAY, [(i, item, item >= 100, item < 100) for i, item in enumerate(context + own)], len(context))
        for name, (context, own) in cases.items()
    ]
    entry = "struct<position: int, item_index: int, is_context: boolean, is_target: boolean>"
    df = spark.createDataFrame(rows, f"user_id string, ds date, entries array<{entry}>, context int")
    found: dict[str, list[Any]] = {name: [] for name in cases}
    for row in windows(df, h, w).collect():
        assert row.ds == "2020-01-02"
        found[row.user_id].append((row["items"], row.targets))
    for name, (context, own) in cases.items():
        cut = sorted(found[name], key=lambda window: max(i for i, hit in zip(*window, strict=True) if hit))
        assert cut == reference_windows(context, own, h, w), name
        hits = [item for items, targets in cut for item, hit in zip(items, targets, strict=True) if hit]
        assert hits == own, name


def test_a_window_without_a_target_is_left_out(spark: SparkSession) -> None:
    entries = [(i, i, False, i == 0) for i in range(4)]
    entry = "struct<position: int, item_index: int, is_context: boolean, is_target: boolean>"
    df = spark.createDataFrame(
        [("u", DAY, entries, 0)], f"user_id string, ds date, entries array<{entry}>, context int"
    )
    (window,) = windows(df, 1, 2).collect()
    assert (window["items"], window.targets) == ([0, 1], [1, 0])


def test_context_then_events_in_order_without_unknown_items(spark: SparkSession) -> None:
    def event(user: str, item: str, hour: int, kind: str = "buy", seq: int = 0) -> tuple[Any, ...]:
        return user, item, MIDNIGHT + dt.timedelta(hours=hour), kind, seq, DAY

    events = [
        event("new", "b", 5),
        event("new", "a", 5),
        event("new", "c", 5, seq=-1),
        event("old", "unknown", 1),
        event("old", "b", 2, "view"),
        event("old", "c", 3),
    ]
    histories = [("old", MIDNIGHT, ["c", "a", "unknown", "b"]), ("new", MIDNIGHT, None)]
    items = spark.createDataFrame([(0, "a"), (1, "b"), (2, "c")], "item_index int, item_id string")
    sequences = day_sequences(
        spark.createDataFrame(events, EVENTS),
        spark.createDataFrame(histories, "user_id string, event_timestamp timestamp, item_ids array<string>"),
        items,
        ["buy"],
        history_items=3,
    )
    rows = {row.user_id: row for row in sequences.collect()}
    shown = {
        user: [(entry.item_index, entry.is_context, entry.is_target) for entry in row.entries]
        for user, row in rows.items()
    }
    assert shown == {
        "new": [(2, False, True), (0, False, True), (1, False, True)],
        "old": [(0, True, False), (1, True, False), (1, False, False), (2, False, True)],
    }
    assert {user: row.context for user, row in rows.items()} == {"new": 0, "old": 2}


def test_the_last_targets_and_all_behind_them_are_held_out(spark: SparkSession) -> None:
    kinds = {"u": ["view", "buy", "view", "buy", "view", "buy", "view"], "v": ["buy", "view"], "w": ["view"]}
    events = [
        (user, f"i{hour}", MIDNIGHT + dt.timedelta(hours=hour), kind, 0, DAY)
        for user, own in kinds.items()
        for hour, kind in enumerate(own)
    ]
    kept = before_last_targets(spark.createDataFrame(events, EVENTS), ["buy"], held_out=2)
    assert sorted((row.user_id, row.item_id) for row in kept.collect()) == [("u", "i0"), ("u", "i1"), ("u", "i2")]


def test_moments_are_the_midnights_of_active_days(spark: SparkSession) -> None:
    events = [("u", "a", MIDNIGHT + dt.timedelta(hours=hour), "buy", 0, DAY) for hour in (1, 2)]
    moments = active_days(spark.createDataFrame(events, EVENTS)).selectExpr("user_id", "string(event_timestamp) AS t")
    assert [tuple(row) for row in moments.collect()] == [("u", "2020-01-02 00:00:00")]


def test_items_are_numbered_in_the_order_of_their_ids(spark: SparkSession) -> None:
    rows = [(item, "T", "text", "hash") for item in ("b", "10", "9", "a")]
    items = training_items(spark.createDataFrame(rows, "item_id string, title string, text string, text_hash string"))
    assert {row.item_id: row.item_index for row in items.collect()} == {"10": 0, "9": 1, "a": 2, "b": 3}
