"""Progress of long loops: a bar on a terminal, a line every few seconds in a log."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from tqdm import tqdm

Item = TypeVar("Item")

LOG_EVERY_SECONDS = 5.0


class Progress:
    """Counts steps of one piece of work. `note` is a short text beside the count, e.g. "loss 3.21"."""

    def __init__(self, label: str, total: int, unit: str = "step", done: int = 0) -> None:
        """`done`: steps of an earlier run, which say nothing of how long the rest takes."""
        self.label, self.total, self.unit = label, total, unit
        self._bar = tqdm(total=total, desc=label, unit=unit, initial=done) if sys.stderr.isatty() else None
        self._before = self._done = done
        self._note = ""
        self._started = self._logged = time.monotonic()

    def advance(self, steps: int = 1, note: str = "") -> None:
        self._done, self._note = self._done + steps, note
        if self._bar is not None:
            self._bar.update(steps)
            self._bar.set_postfix_str(note)
        elif self._done >= self.total or time.monotonic() - self._logged >= LOG_EVERY_SECONDS:
            self._logged = time.monotonic()
            print(self._line(), flush=True)

    def _line(self) -> str:
        elapsed = time.monotonic() - self._started
        own = self._done - self._before
        left = f", {elapsed / own * (self.total - self._done):.0f} s left" if own else ""
        share = self._done / max(self.total, 1)
        return (
            f"progress {self.label} {share:.0%} {self._done}/{self.total} {self.unit} "
            f"{elapsed:.0f} s{left} {self._note}"
        ).rstrip()

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()


def track(items: Iterable[Item], label: str, total: int, unit: str = "step") -> Iterator[Item]:
    """Yield the items and count them."""
    progress = Progress(label, total, unit)
    try:
        for item in items:
            yield item
            progress.advance()
    finally:
        progress.close()
