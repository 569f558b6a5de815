"""What appending codes says about the room that is left."""

import logging

import pytest

from jobs.encode_items import warn_of_reserve

ROOM = {"prefixes": 40, "full": 0, "nearly_full": 0, "tightest": [{"prefix": "3-1-4", "free": 12}]}


def test_a_nearly_full_prefix_is_named(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        warn_of_reserve(ROOM)
        assert not caplog.records
        warn_of_reserve(ROOM | {"nearly_full": 2})
    assert "2 of 40 prefixes" in caplog.text
    assert "3-1-4: 12" in caplog.text
