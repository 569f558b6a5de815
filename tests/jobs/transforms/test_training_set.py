"""Training sequences: the context comes first, every event of a day is a target once, nothing else is."""

from __future__ import annotations

import datetime as dt
import random
from typing import Any

import pytest
from pyspark.sql import SparkSession

from jobs.common.contracts import EVENTS
from jobs.transforms import training_set
from jobs.transforms.training_set import (
    active_days,
    before_last_targets,
    day_sequences,
    drawn_windows,
    last_days,
    training_items,
    validation_cases,
    windows,
    with_later,
    without_last_target,
)

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


WINDOW = "user_id string, ds string, k int, items array<int>, targets array<int>"


def test_later_is_all_that_a_user_takes_from_the_day_on(spark: SparkSession, monkeypatch: pytest.MonkeyPatch) -> None:
    """Random pasts, in which items come again, against sets in Python; some are too many to name, some just not."""
    most = 8
    monkeypatch.setattr(training_set, "LATER_ITEMS", most)
    draw = random.Random(0)
    taken = {
        f"u{n}": [(draw.randrange(12), draw.choice(items), draw.choice(["buy", "view"])) for _ in range(4 * len(items))]
        for n, items in enumerate(draw.sample(range(30), size) for size in (1, 3, 7, 8, 9, 12, 25))
    }
    first = dt.datetime(2020, 1, 1, tzinfo=dt.UTC)
    events = [
        (user, f"i{item:02}", first + dt.timedelta(days=day), kind, 0, (first + dt.timedelta(days=day)).date())
        for user, own in taken.items()
        for day, item, kind in own
    ]
    unknown = ("u0", "unknown", first, "buy", 0, first.date())
    items = spark.createDataFrame([(n, f"i{n:02}") for n in range(30)], "item_index int, item_id string")
    cut = [(user, f"2020-01-{day + 1:02}", 0, [0], [1]) for user in taken for day in range(12)]
    days = last_days(spark.createDataFrame([*events, unknown], EVENTS), items)
    rows = with_later(spark.createDataFrame(cut, WINDOW), days).collect()
    assert len(rows) == len(cut)
    overflows = 0
    for row in rows:
        day = int(row.ds[-2:]) - 1
        future = sorted({item for then, item, _ in taken[row.user_id] if then >= day})
        too_many = len(future) > most
        overflows += too_many
        named = [-2] if too_many else future
        assert row.later == named + [-1] * (most - len(named)), (row.user_id, day)
    assert 0 < overflows < len(rows)


NEWEST_WINDOWS = [
    ("long", "2020-01-01", 0, [1, 2, 3, 4], [1, 1, 1, 1]),
    ("long", "2020-01-02", 0, [3, 4, 5, 6], [0, 0, 1, 1]),
    ("long", "2020-01-02", 1, [5, 6, 7, 8], [0, 0, 1, 1]),
    ("views", "2020-01-05", 0, [1, 2, 3, 4], [1, 1, 0, 0]),
    ("short", "2020-01-03", 0, [1, 2, -1, -1], [1, 1, 0, 0]),
    ("one", "2020-01-01", 0, [1, 2, -1, -1], [1, 1, 0, 0]),
    ("one", "2020-01-02", 0, [1, 2, 3, -1], [0, 0, 1, 0]),
]
CASES = {"long": ([6, 7], 8), "views": ([1, -1], 2), "short": ([1, -1], 2)}


def test_a_drawn_users_newest_window_ends_before_its_last_target(spark: SparkSession) -> None:
    df = spark.createDataFrame(NEWEST_WINDOWS, WINDOW)
    drawn = drawn_windows(df, 10)
    assert {tuple(row) for row in drawn.collect()} == {
        ("long", "2020-01-02", 1),
        ("views", "2020-01-05", 0),
        ("short", "2020-01-03", 0),
    }, "who has one target in the newest window keeps it"
    left = {
        (row.user_id, row.ds, row.k): (row["items"], row.targets) for row in without_last_target(df, drawn).collect()
    }
    changed = {
        ("long", "2020-01-02", 1): ([5, 6, 7, -1], [0, 0, 1, 0]),
        ("views", "2020-01-05", 0): ([1, -1, -1, -1], [1, 0, 0, 0]),
        ("short", "2020-01-03", 0): ([1, -1, -1, -1], [1, 0, 0, 0]),
    }
    assert left == {row[:3]: row[3:] for row in NEWEST_WINDOWS} | changed
    cases = validation_cases(df, drawn, history_items=2).collect()
    assert sorted((row["items"], row.target) for row in cases) == sorted(CASES.values())


def test_users_who_were_active_last_are_drawn(spark: SparkSession) -> None:
    rows = [(f"u{n}", f"2020-01-{1 + n * 7 % 20:02}", 0, [1, 2, -1, -1], [1, 1, 0, 0]) for n in range(20)]
    drawn = drawn_windows(spark.createDataFrame(rows, WINDOW).repartition(3), 4)
    assert [row.ds for row in drawn.collect()] == ["2020-01-20", "2020-01-19", "2020-01-18", "2020-01-17"]


def test_the_same_users_are_drawn_first_however_many(spark: SparkSession) -> None:
    rows = [(f"u{n}", "2020-01-01", 0, [1, 2, -1, -1], [1, 1, 0, 0]) for n in range(20)]
    df = spark.createDataFrame(rows, WINDOW)
    few, more, none = ({row.user_id for row in drawn_windows(df.repartition(3), most).collect()} for most in (4, 9, 0))
    assert (len(few), len(more), len(none)) == (4, 9, 0)
    assert few < more
    assert few != {f"u{n}" for n in range(4)}


def test_moments_are_the_midnights_of_active_days(spark: SparkSession) -> None:
    events = [("u", "a", MIDNIGHT + dt.timedelta(hours=hour), "buy", 0, DAY) for hour in (1, 2)]
    moments = active_days(spark.createDataFrame(events, EVENTS)).selectExpr("user_id", "string(event_timestamp) AS t")
    assert [tuple(row) for row in moments.collect()] == [("u", "2020-01-02 00:00:00")]


def test_items_are_numbered_in_the_order_of_their_ids(spark: SparkSession) -> None:
    rows = [(item, "T", "text", "hash") for item in ("b", "10", "9", "a")]
    items = training_items(spark.createDataFrame(rows, "item_id string, title string, text string, text_hash string"))
    assert {row.item_id: row.item_index for row in items.collect()} == {"10": 0, "9": 1, "a": 2, "b": 3}
