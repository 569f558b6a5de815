from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from model.data.prefetch import AHEAD, Prefetched


def test_items_come_in_their_order() -> None:
    assert list(Prefetched(range(100))) == list(range(100))


def test_an_error_comes_where_its_item_would_have_come() -> None:
    def broken() -> Iterator[int]:
        yield 1
        yield 2
        raise ValueError("row 3")

    items = iter(Prefetched(broken()))
    assert [next(items), next(items)] == [1, 2]
    with pytest.raises(ValueError, match="row 3"):
        next(items)


def test_who_stops_early_leaves_no_thread_behind() -> None:
    made = []

    def endless() -> Iterator[int]:
        while True:
            made.append(len(made))
            yield made[-1]

    items = iter(Prefetched(endless()))
    assert next(items) == 0
    items.close()  # type: ignore[attr-defined]
    assert len(made) <= AHEAD + 3
    assert "prefetch" not in {thread.name for thread in threading.enumerate()}


def test_waiting_is_counted() -> None:
    def slow() -> Iterator[int]:
        for item in range(3):
            time.sleep(0.02)
            yield item

    items = Prefetched(slow())
    list(items)
    assert items.waited >= 0.05
