"""Reading ahead: the next batches are made by a thread of its own while the device works on this one."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator
from queue import Full, Queue
from typing import Generic, TypeVar

Item = TypeVar("Item")

AHEAD = 4
_END = object()


class Prefetched(Generic[Item]):
    """The items of an iterable in their order, up to AHEAD of them made before they are asked for.

    Iterate once. What the iterable raises is raised where its item would have come. `waited` is how long (seconds) the
    consumer stood still so far.
    """

    def __init__(self, items: Iterable[Item]) -> None:
        self.waited = 0.0
        self._items = items
        self._queue: Queue[object] = Queue(AHEAD)
        self._stopped = threading.Event()

    def __iter__(self) -> Iterator[Item]:
        worker = threading.Thread(target=self._fill, name="prefetch", daemon=True)
        worker.start()
        try:
            while True:
                started = time.perf_counter()
                item = self._queue.get()
                self.waited += time.perf_counter() - started
                if item is _END:
                    return
                if isinstance(item, _Raised):
                    raise item.error
                yield item  # type: ignore[misc]
        finally:
            self._stopped.set()
            worker.join()

    def _fill(self) -> None:
        try:
            for item in self._items:
                self._put(item)
                if self._stopped.is_set():
                    return
            self._put(_END)
        except BaseException as error:
            self._put(_Raised(error))

    def _put(self, item: object) -> None:
        while not self._stopped.is_set():
            try:
                self._queue.put(item, timeout=0.1)
            except Full:
                continue
            return


class _Raised:
    def __init__(self, error: BaseException) -> None:
        self.error = error
