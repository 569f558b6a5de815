"""Hiding items at once, over SQLite and Redis."""

from __future__ import annotations

import pytest

from jobs.common.publishing import newest_publication, retracted_items
from tests.jobs.conftest import DAY, NEXT_DAY, OnlineLake


def test_an_item_is_hidden_everywhere_until_the_catalogue_takes_it_back(shop: OnlineLake) -> None:
    with pytest.raises(ValueError, match="Nothing was published yet"):
        shop.retract("i1")
    shop.write_lists(DAY, {"ann": ["i5", "i1"], "bob": ["i5"]})
    shop.publish(DAY)
    shop.retract("i5")
    assert shop.shown("ann") == (["i1"], "model")
    assert shop.shown("bob") == (["i4", "i3"], "fallback")
    shop.retract("i1")
    assert shop.shown("ann") == (["i4", "i3"], "fallback")
    with pytest.raises(ValueError, match="knows no item i8, i9"):
        shop.retract("i9", "i1", "i8")

    shop.write_catalogue(NEXT_DAY, {"i5": False})
    shop.write_lists(NEXT_DAY, {"ann": ["i1", "i2"], "bob": ["i2"]})  # whoever made them knew of i5 alone
    shop.publish(NEXT_DAY)
    assert shop.shown("ann") == (["i2"], "model")
    assert retracted_items(shop.spark, newest_publication(shop.ledger)) == ["i1"]
    shop.retract("i1", undo=True)
    assert shop.shown("ann") == (["i1", "i2"], "model")
