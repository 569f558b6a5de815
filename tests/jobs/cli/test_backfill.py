"""Backfill: exactly the days that are missing or stale are found, and built they equal a lake built from scratch."""

from __future__ import annotations

import datetime as dt
import random
import shutil
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import SparkSession
from rich.console import Console

from jobs.build_item_text import build_item_text
from jobs.build_user_histories import build_user_histories
from jobs.cli import freshness
from jobs.cli.backfill import STEPS, backfill
from jobs.common.contracts import daily_table
from jobs.common.settings import Settings
from jobs.ingest import ingest
from tests.conftest import settings_on
from tests.jobs.raw_data import D1, D2, D3, D4, at, event, film, write_catalogue, write_events

Found = dict[str, tuple[set[dt.date], set[dt.date]]]
QUIET = Console(quiet=True)


def build(spark: SparkSession, settings: Settings, start: dt.date, end: dt.date) -> None:
    for step in (ingest, build_user_histories, build_item_text):
        step(spark, settings, start, end)


def found(spark: SparkSession, settings: Settings, start: dt.date = D1, end: dt.date = D4) -> Found:
    todos = {step.name: step.todo(spark, settings, start, end) for step in STEPS}
    return {name: (todo.missing, todo.stale) for name, todo in todos.items()}


def nothing(found: Found) -> bool:
    return all(not missing and not stale for missing, stale in found.values())


def contents(spark: SparkSession, settings: Settings) -> dict[str, list[str]]:
    names = ("events", "catalogue", "quarantine", "user_history", "item_text")
    return {name: sorted(map(str, daily_table(settings, name).read(spark, None, D4).collect())) for name in names}


@pytest.fixture(scope="module")
def built(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """Three of four days are built; u is active on the days 1 and 3, v on 2 and 3. Kept beside as it is: see `shop`."""
    root = tmp_path_factory.mktemp("backfill")
    settings = settings_on(root / "shop")
    write_catalogue(settings, film("a", at(D1)), film("b", at(D1)), film("b", at(D3), "B again"))
    write_events(settings, *EVENTS)
    build(spark, settings, D1, D2)
    build(spark, settings, D3, D3)
    shutil.copytree(root / "shop", root / "kept")
    return settings


@pytest.fixture
def shop(built: Settings) -> Settings:
    """What `built` built, whatever earlier tests did to it."""
    folder = Path(built.lake_uri).parent
    shutil.rmtree(folder)
    shutil.copytree(folder.with_name("kept"), folder)
    return built


EVENTS = (
    event("u", "a", at(D1)),
    event("v", "b", at(D2)),
    event("u", "b", at(D3)),
    event("v", "a", at(D3)),
    event("v", "late", at(D2, 13)),  # an item that nobody knows yet
    event("u", "a", at(D4)),
)


def test_days_that_were_never_built_are_missing(spark: SparkSession, shop: Settings) -> None:
    assert found(spark, shop) == {step.name: ({D4}, set()) for step in STEPS}
    assert nothing(found(spark, shop, D1, D3))


def test_the_same_rows_once_more_make_nothing_stale(spark: SparkSession, shop: Settings) -> None:
    ingest(spark, shop, D1, D2)
    assert nothing(found(spark, shop, D1, D3))


def test_a_late_event_makes_its_day_and_its_users_later_days_stale(spark: SparkSession, shop: Settings) -> None:
    write_events(shop, event("u", "b", at(D2)), part="late")
    assert found(spark, shop, D1, D3)["ingest"] == (set(), {D2})
    ingest(spark, shop, D2, D2)
    assert found(spark, shop, D1, D3)["build_user_histories"] == (set(), {D2, D3})
    backfill(spark, shop, D1, D3, QUIET)
    assert nothing(found(spark, shop, D1, D3))


def test_a_late_catalogue_row_lets_refused_events_in(spark: SparkSession, shop: Settings) -> None:
    write_catalogue(shop, film("late", at(D1)), part="late")
    assert found(spark, shop, D1, D3) == {
        "ingest": (set(), {D1}),
        "build_user_histories": (set(), set()),
        "build_item_text": (set(), set()),
    }
    backfill(spark, shop, D1, D3, QUIET)
    assert nothing(found(spark, shop, D1, D3))
    assert "late" in {row.item_id for row in daily_table(shop, "events").read(spark, D2, D2).collect()}


def test_other_settings_make_what_they_shape_stale(spark: SparkSession, shop: Settings) -> None:
    shorter = shop.model_copy(update={"histories": shop.histories.model_copy(update={"max_items": 1})})
    assert found(spark, shorter, D1, D3)["build_user_histories"] == (set(), {D1, D2, D3})
    assert found(spark, shorter, D1, D3)["ingest"] == (set(), set())


def random_state(rng: random.Random) -> tuple[list[Any], list[Any]]:
    """Raw events and films: of a fixed list, each is there or not, at random."""
    days = (D1, D2, D3, D4)
    events = [event(user, item, at(day, hour)) for user in "uvw" for item in "abc" for day in days for hour in (3, 9)]
    films = [film(item, at(day, 1), f"{item} of {day}") for item in "abc" for day in days]
    return [one for one in events if rng.random() < 0.3], [one for one in films if rng.random() < 0.5]


def test_a_backfill_equals_a_build_from_scratch(spark: SparkSession, settings: Settings, tmp_path: Path) -> None:
    rng = random.Random(0)
    for first, last in ((D1, D2), (D4, D4), (D1, D4)):
        events, films = random_state(rng)
        write_events(settings, *events)
        write_catalogue(settings, *films)
        if (first, last) == (D1, D4):
            backfill(spark, settings, first, last, QUIET)
        else:
            build(spark, settings, first, last)
    scratch = settings.model_copy(update={"lake_uri": str(tmp_path / "scratch")})
    build(spark, scratch, D1, D4)
    assert contents(spark, settings) == contents(spark, scratch)
    assert nothing(found(spark, settings))


def test_neighbouring_days_are_one_stretch() -> None:
    assert freshness.stretches({D4, D1, D2}) == [(D1, D2), (D4, D4)]
