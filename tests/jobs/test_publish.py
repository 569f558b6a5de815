"""Publishing as an app sees it: one body of tests over SQLite and Redis."""

from __future__ import annotations

import dataclasses
import datetime as dt
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from jobs.common import timings
from jobs.common.feature_store import open_store
from jobs.common.ledger import Lease, LeaseHeldError, LeaseLostError
from jobs.publish import publish
from tests.jobs.conftest import CODEBOOK, DAY, MODEL, NEXT_DAY, OnlineLake, utc

POPULAR = (["i5", "i4", "i3"], "fallback")
NO_CODE = (None, None)
SQLITE = pytest.mark.parametrize("registered", ["sqlite"], indirect=True)
"""For what does not depend on the online store."""


def test_every_user_reads_a_list(shop: OnlineLake) -> None:
    shop.write_lists(DAY, {"ann": ["i1", "i2"], "bob": ["i2", "i3", "i5"], "cyd": []})
    shop.publish(DAY)

    assert shop.read("ann") == {
        "user_id": "ann",
        "catalogue_id": "current",
        "item_codes": ["1-0-0-1", "2-0-0-1"],
        "item_ids": ["i1", "i2"],
        "scores": [0.0, -1.0],
        "model_version": MODEL,
        "codebook_version": CODEBOOK,
        "generated_at": dt.datetime(2024, 5, 2, tzinfo=dt.UTC),
        "valid_until": dt.datetime(2024, 5, 2, tzinfo=dt.UTC) + dt.timedelta(days=36500),
        "source": "model",
    }
    assert shop.shown("cyd") == POPULAR  # the model found nothing
    assert shop.shown("nobody") == POPULAR
    assert shop.read("nobody")["model_version"] == "popularity"
    assert shop.read("nobody")["codebook_version"] == CODEBOOK
    assert shop.shown("bob", exclude=["i3"]) == (["i2", "i5"], "model")
    assert shop.shown("ann", exclude=["i1", "i2", "i5"]) == (["i4", "i3"], "fallback")
    assert shop.features(["item_codes:codes"], item_id="i4")["codes"] == "4-0-0-1"

    before = {user: shop.read(user) for user in ("ann", "bob", "cyd", "nobody")}
    record = shop.publish(DAY)
    assert record is not None
    assert record.number == 2
    assert {user: shop.read(user) for user in before} == before


def test_a_backfill_does_not_publish_and_vanished_users_lose_their_list(shop: OnlineLake) -> None:
    shop.write_lists(DAY, {"ann": ["i1"], "bob": ["i2"]})
    shop.publish(DAY)
    shop.write_lists(NEXT_DAY, {"ann": ["i3"]})
    shop.publish(NEXT_DAY)
    assert shop.shown("ann") == (["i3"], "model")
    assert shop.shown("bob") == POPULAR

    record = shop.publish(DAY)
    assert record is not None
    assert record.number == 2
    assert shop.shown("ann") == (["i3"], "model")
    assert shop.shown("bob") == POPULAR


def test_users_who_lost_their_code_read_like_unknown_ones(shop: OnlineLake) -> None:
    lists = {"ann": ["i1"], "bob": ["i2"], "cyd": ["i3"], "dan": []}
    shop.write_lists(DAY, lists, {"ann": "1-2-3-4", "bob": "1-2-3-4", "dan": "0-0-0-0"})
    shop.publish(DAY)
    coded = {user: shop.user_code(user) for user in (*lists, "nobody")}
    assert coded == {
        "ann": ("1-2-3-4", CODEBOOK),
        "bob": ("1-2-3-4", CODEBOOK),
        "cyd": NO_CODE,
        "dan": ("0-0-0-0", CODEBOOK),  # a code does not need a list
        "nobody": NO_CODE,
    }
    shop.publish(DAY)
    assert {user: shop.user_code(user) for user in coded} == coded

    shop.write_lists(NEXT_DAY, {"ann": ["i1"], "cyd": ["i3"]}, {"cyd": "5-6-7-8"})  # bob and dan vanished
    shop.publish(NEXT_DAY)
    coded = {user: shop.user_code(user) for user in lists}
    assert coded == dict.fromkeys(lists, NO_CODE) | {"cyd": ("5-6-7-8", CODEBOOK)}

    shop.write_lists(NEXT_DAY, {"ann": ["i1"], "cyd": ["i3"]})  # by a method without user codes
    for tombstones in (1, 0):
        record = shop.publish(NEXT_DAY)
        assert record is not None
        assert shop.ledger.publications.get(record.number).manifest.counts["user_codes"] == tombstones
        assert shop.user_code("cyd") == NO_CODE
    assert shop.shown("cyd") == (["i3"], "model")


@SQLITE
def test_user_codes_join_offline_from_their_publish_on(shop: OnlineLake) -> None:
    shop.write_lists(DAY, {"ann": ["i1"], "bob": ["i2"]}, {"ann": "1-2-3-4"})
    shop.publish(DAY)
    moments = [("ann", utc(DAY)), ("ann", utc(NEXT_DAY, 1)), ("bob", utc(NEXT_DAY, 1))]
    store: Any = open_store(shop.settings)  # its annotations do not know Spark's DataFrame
    asked = shop.spark.createDataFrame(moments, "user_id string, event_timestamp timestamp")
    rows = store.get_historical_features(entity_df=asked, features=["user_codes:codes"]).to_spark_df().collect()
    assert {(row.user_id, row.event_timestamp.day, row.codes) for row in rows} == {
        ("ann", 1, None),
        ("ann", 2, "1-2-3-4"),
        ("bob", 2, None),
    }


def test_an_expired_list_gives_way_to_the_popularity_list(shop: OnlineLake) -> None:
    publishing = shop.settings.publishing.model_copy(update={"valid_for_days": 2})
    short = dataclasses.replace(shop, settings=shop.settings.model_copy(update={"publishing": publishing}))
    short.write_lists(DAY, {"ann": ["i1"]})
    short.publish(DAY)
    assert short.read("ann")["valid_until"] == dt.datetime(2024, 5, 4, tzinfo=dt.UTC)
    assert short.shown("ann") == POPULAR


class BreaksOff(Lease):
    """A lease that is lost at a given check, as if the step had been killed there."""

    checks_left = 0

    def check(self) -> None:
        self.checks_left -= 1
        if self.checks_left < 0:
            raise LeaseLostError("killed")
        super().check()


def test_a_publish_that_broke_off_leaves_no_trace_once_run_again(shop: OnlineLake) -> None:
    shop.write_lists(DAY, {"ann": ["i1"], "bob": ["i2"]}, {"ann": "1-2-3-4", "bob": "5-6-7-8"})
    for checks in (2, 5):  # before it writes anything online; after it wrote the users, before the catalogue's state
        with shop.ledger.lease("publish") as lease:
            broken = BreaksOff(shop.ledger, lease._holder)
            broken.checks_left = checks
            with pytest.raises(LeaseLostError):
                publish(shop.spark, shop.settings, shop.ledger, broken, DAY)
    assert not list(shop.ledger.records())
    assert shop.user_code("bob") == ("5-6-7-8", CODEBOOK)

    shop.write_lists(DAY, {"ann": ["i3"]})  # the day's lists were made anew, without bob
    record = shop.publish(DAY)
    assert record is not None
    assert record.number == 3
    assert shop.shown("ann") == (["i3"], "model")
    assert shop.shown("bob") == POPULAR
    assert [shop.user_code(user) for user in ("ann", "bob")] == [NO_CODE] * 2


@pytest.mark.slow
@SQLITE
def test_a_step_killed_while_it_writes_online_can_be_run_again_at_once(shop: OnlineLake, tmp_path: Path) -> None:
    file = tmp_path / "settings.toml"
    file.write_text(
        f"""
        lake_uri = "{shop.settings.lake_uri}"
        input = {{ events_uri = "", catalogue_uri = "" }}
        event_types = {{ buy = {{}} }}
        feast = {{ repo = "{shop.settings.feast.repo}" }}
        spark = {{ master = "local[1]" }}
        publishing = {{ valid_for_days = 36500, lease_seconds = 600, min_full_share = 0 }}
        """
    )
    shop.write_lists(DAY, {"ann": ["i1"], "bob": ["i2"]})
    command = [sys.executable, "-m", "jobs.publish", "--ds", DAY.isoformat(), "--settings", str(file)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True) as step:
        assert step.stdout is not None
        assert any("user_recommendations went online" in line for line in step.stdout)
        os.killpg(step.pid, signal.SIGKILL)
    assert not list(shop.ledger.records())

    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    assert set(timings.of_day(shop.settings, DAY)) == {"publish"}, "only what came to its end counts"
    assert [(record.number, record.token) for record in shop.ledger.records()] == [(2, 2)]
    assert shop.shown("bob") == (["i2"], "model")
    assert shop.shown("nobody") == POPULAR


@SQLITE
def test_a_shut_gate_publishes_nothing_and_tells_every_reason(shop: OnlineLake) -> None:
    shop.write_lists(DAY, {"ann": ["i1"], "bob": ["i2"], "cyd": ["i3"]})
    shop.publish(DAY)
    shop.write_catalogue(NEXT_DAY, {"i1": False})
    shop.write_lists(NEXT_DAY, {"ann": ["i1"]})
    with pytest.raises(ValueError, match=r"not available, e\.g\. item i1") as refused:
        shop.publish(NEXT_DAY)
    assert "1 users with a list, 3 in the last publish" in str(refused.value)
    assert [record.number for record in shop.ledger.records()] == [1]
    assert len(shop.ledger.publications.complete()) == 1
    assert shop.shown("bob") == (["i2"], "model")


@SQLITE
def test_lists_that_are_valid_but_not_like_lists_do_not_pass(shop: OnlineLake) -> None:
    bounds = {"min_full_share": 0.5, "min_list_overlap": 0.3, "max_popular_share": 0.6}
    publishing = shop.settings.publishing.model_copy(update=bounds)
    decoding = dataclasses.replace(shop.settings.model.decoding, top_k=2)
    model = dataclasses.replace(shop.settings.model, decoding=decoding)
    strict = dataclasses.replace(
        shop, settings=shop.settings.model_copy(update={"publishing": publishing, "model": model})
    )
    strict.write_lists(DAY, {"ann": ["i1", "i2"], "bob": ["i2", "i3"]})
    record = strict.publish(DAY)
    assert record is not None
    figures = shop.ledger.publications.get(record.number).manifest.metrics
    assert figures == {"full": 1.0, "popular": 0.0, "overlap": None}
    strict.write_lists(NEXT_DAY, {"ann": ["i5", "i4"], "bob": ["i5"], "cyd": ["i4"]})
    with pytest.raises(ValueError, match=r"33\.3% of them full") as refused:
        strict.publish(NEXT_DAY)
    assert "100.0% of all entries are the 2 most popular items" in str(refused.value)
    assert "0.0% in common with those of the last publish" in str(refused.value)


@SQLITE
def test_a_second_writer_waits_then_gives_up(shop: OnlineLake) -> None:
    shop.write_lists(DAY, {"ann": ["i1"]})
    with shop.ledger.lease("materialize"), pytest.raises(LeaseHeldError, match="materialize"):
        shop.publish(DAY)
    assert not list(shop.ledger.begun())


@SQLITE
def test_a_day_without_recommendations_is_the_callers_mistake(shop: OnlineLake) -> None:
    with pytest.raises(ValueError, match=r"Run python -m jobs\.recommend --ds 2024-05-01"):
        shop.publish(DAY)
