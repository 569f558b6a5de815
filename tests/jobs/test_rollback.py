"""Going back to an earlier publish, over SQLite and Redis."""

from __future__ import annotations

import datetime as dt

import pytest

from tests.jobs.conftest import DAY, NEXT_DAY, OnlineLake


def test_an_earlier_publish_comes_back_and_a_later_one_may_follow(shop: OnlineLake) -> None:
    shop.write_lists(DAY, {"ann": ["i1", "i2", "i3"], "bob": ["i3"]})
    shop.publish(DAY)
    shop.write_catalogue(NEXT_DAY, {"i1": False})
    shop.write_lists(NEXT_DAY, {"ann": ["i4"], "cyd": ["i3"]})
    shop.publish(NEXT_DAY)
    shop.retract("i2")
    for number in (3, 7):
        with pytest.raises(ValueError, match=f"Publish {number} never put lists online. Publishes that did: 2, 1"):
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
