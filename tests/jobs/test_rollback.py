"""Going back to an earlier publish, over SQLite and Redis."""

from __future__ import annotations

import datetime as dt
import json
import shutil
from pathlib import Path

import pytest

from jobs.common.artefacts import store
from jobs.common.settings import Settings
from jobs.rollback import warn_of_live_model
from model.generation import MANIFEST, Manifest
from tests.jobs.conftest import CODEBOOK, DAY, NEXT_DAY, OnlineLake


def test_an_earlier_publish_comes_back_and_a_later_one_may_follow(shop: OnlineLake) -> None:
    shop.write_lists(DAY, {"ann": ["i1", "i2", "i3"], "bob": ["i3"]})
    shop.publish(DAY)
    shop.write_catalogue(NEXT_DAY, {"i1": False})
    shop.write_lists(NEXT_DAY, {"ann": ["i4"], "cyd": ["i3"]})
    shop.publish(NEXT_DAY)
    shop.retract("i2")
    for number in (3, 7):
        with pytest.raises(
            ValueError, match=f"Publish {number} never put lists online. Publishes that can come back: 2, 1"
        ):
            shop.roll_back(number)

    shop.roll_back(1)
    assert shop.shown("ann") == (["i3"], "model")  # i1 is no longer available, i2 stays retracted
    assert shop.shown("bob") == (["i3"], "model")
    assert shop.shown("cyd") == (["i5", "i4", "i3"], "fallback")
    answer = shop.read("ann")
    assert answer["generated_at"] == dt.datetime(2024, 5, 2, tzinfo=dt.UTC)
    assert answer["valid_until"] == dt.datetime(2024, 5, 3, tzinfo=dt.UTC) + dt.timedelta(days=36500)
    assert next(shop.ledger.records()).recommendations == "recommendations/000001"

    shop.publish(NEXT_DAY)
    assert shop.shown("ann") == (["i4"], "model")
    assert shop.shown("bob") == (["i5", "i4", "i3"], "fallback")


def test_it_says_so_when_another_model_would_take_over_again(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    models = store(settings, "model", "all")
    old, new = (models.begin().commit(Manifest()) for _ in range(2))
    warn_of_live_model(settings, old.identity)
    models.point_to(old)
    warn_of_live_model(settings, old.identity)
    assert not caplog.records
    models.point_to(new)
    warn_of_live_model(settings, old.identity)
    assert "of model/all/000001, but model/all/000002 is still live" in caplog.text
    assert "run: python -m jobs.cli.models use model/all/000001" in caplog.text


def test_user_codes_come_back_with_the_lists(shop: OnlineLake) -> None:
    lists = {"ann": ["i1"], "bob": ["i2"]}
    shop.write_lists(DAY, lists, {"ann": "1-2-3-4"})
    shop.publish(DAY)
    shop.write_lists(NEXT_DAY, lists, {"ann": "9-9-9-9", "bob": "5-6-7-8"})
    shop.publish(NEXT_DAY)
    shop.retract("i2")
    now = ("9-9-9-9", CODEBOOK), ("5-6-7-8", CODEBOOK)
    assert (shop.user_code("ann"), shop.user_code("bob")) == now
    shop.roll_back(1)
    assert (shop.user_code("ann"), shop.user_code("bob")) == (("1-2-3-4", CODEBOOK), (None, None))
    shop.roll_back(2)
    assert (shop.user_code("ann"), shop.user_code("bob")) == now


def test_a_publish_of_a_version_without_user_codes_can_come_back(shop: OnlineLake) -> None:
    shop.write_lists(DAY, {"ann": ["i1"]})
    shop.publish(DAY)
    old = shop.ledger.publications.get(1)
    shutil.rmtree(old.path("user_codes"))
    file = Path(old.path(MANIFEST))
    manifest = json.loads(file.read_text())
    for part in ("counts", "checksums"):
        del manifest[part]["user_codes"]
    file.write_text(json.dumps(manifest))
    shop.write_lists(NEXT_DAY, {"ann": ["i2"]}, {"ann": "1-2-3-4"})
    shop.publish(NEXT_DAY)
    assert shop.user_code("ann") == ("1-2-3-4", CODEBOOK)

    shop.roll_back(1)
    assert shop.shown("ann") == (["i1"], "model")
    assert shop.user_code("ann") == (None, None)
