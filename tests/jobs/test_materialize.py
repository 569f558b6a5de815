"""User histories and item text online, over SQLite and Redis."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pytest

from jobs.materialize import materialize
from tests.jobs.conftest import DAY, NEXT_DAY, OnlineLake, utc


def write_day(lake: OnlineLake, day: dt.date, items: dict[str, list[str]], titles: dict[str, str]) -> None:
    end = utc(day + dt.timedelta(days=1))
    histories = [
        (
            user,
            item_ids,
            ["buy"] * len(item_ids),
            [utc(day, 3)] * len(item_ids),
            [0] * len(item_ids),
            len(item_ids),
            end,
        )
        for user, item_ids in items.items()
    ]
    lake.write("user_history", day, histories)
    lake.write("item_text", day, [(item_id, title, title, "0" * 64, True, end) for item_id, title in titles.items()])


def run(lake: OnlineLake, start: dt.date, end: dt.date) -> None:
    with lake.ledger.lease("materialize") as lease:
        materialize(lake.spark, lake.settings, lease, start, end)


def history(lake: OnlineLake, user_id: str) -> dict[str, Any]:
    names = ["item_ids", "event_types", "event_times", "seconds_since_previous", "events_total"]
    return lake.features([f"user_history:{name}" for name in names], user_id=user_id)


def title(lake: OnlineLake, item_id: str) -> Any:
    return lake.features(["item_text:title"], item_id=item_id)["title"]


def test_online_stands_the_newest_row_whatever_is_built_when(online_lake: OnlineLake) -> None:
    write_day(online_lake, DAY, {"ann": ["i1"], "bob": ["i1", "i2"]}, {"i1": "One", "i2": "Two"})
    run(online_lake, DAY, DAY)
    assert history(online_lake, "bob") == {
        "user_id": "bob",
        "item_ids": ["i1", "i2"],
        "event_types": ["buy", "buy"],
        "event_times": [utc(DAY, 3), utc(DAY, 3)],
        "seconds_since_previous": [0, 0],
        "events_total": 2,
    }
    assert history(online_lake, "nobody")["item_ids"] is None

    write_day(online_lake, NEXT_DAY, {"ann": ["i1", "i3"]}, {"i1": "Uno"})
    run(online_lake, NEXT_DAY, NEXT_DAY)
    # A late event: the older day is built again, and so is what it makes stale.
    write_day(online_lake, DAY, {"ann": ["i0", "i1"], "bob": ["i0", "i1", "i2"]}, {"i1": "One!", "i2": "Two!"})
    run(online_lake, DAY, DAY)
    assert history(online_lake, "ann")["item_ids"] == ["i1", "i3"]  # of the newer day, which is not built anew yet
    assert history(online_lake, "bob")["item_ids"] == ["i0", "i1", "i2"]
    assert (title(online_lake, "i1"), title(online_lake, "i2")) == ("Uno", "Two!")

    # The newer day is built anew as well, and its only item update turns out to be none.
    write_day(online_lake, NEXT_DAY, {"ann": ["i0", "i1", "i3"]}, {})
    run(online_lake, DAY, NEXT_DAY)
    assert history(online_lake, "ann")["item_ids"] == ["i0", "i1", "i3"]
    assert history(online_lake, "bob")["item_ids"] == ["i0", "i1", "i2"]
    assert (title(online_lake, "i1"), title(online_lake, "i2")) == ("One!", "Two!")

    run(online_lake, NEXT_DAY, NEXT_DAY)  # nothing to write for items
    assert title(online_lake, "i1") == "One!"


def test_a_day_that_was_not_built_is_the_callers_mistake(online_lake: OnlineLake) -> None:
    write_day(online_lake, DAY, {"ann": ["i1"]}, {})
    with pytest.raises(ValueError, match=r"Run: python -m jobs\.build_user_histories --from 2024-05-02"):
        run(online_lake, DAY, NEXT_DAY)
