"""Run a step that dies, by SIGKILL with its JVM and its workers, when it comes to a named moment of its way.

python -m benchmarks.kill_at "before manifest" 2 jobs.ingest --ds 2020-01-21

The number counts how often the step has come to that moment. Made for benchmarks.faults; the process must lead its own
group, which is what dies.
"""

from __future__ import annotations

import functools
import os
import runpy
import signal
import sys
import threading
import time
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any, NoReturn

from redis import Redis

from jobs.common import feature_store
from jobs.common.ledger import Ledger
from model.generation import Draft, GenerationStore

AROUND: list[tuple[Any, str, str]] = [
    (GenerationStore, "begin", "claim"),
    (Draft, "commit", "manifest"),
    (GenerationStore, "point_to", "pointer"),
    (Ledger, "begin", "number"),
    (feature_store, "write_online", "online"),
    (Ledger, "finish", "record"),
]
"""Functions, and what stands before and after them: "before claim", "after claim" …"""


def files(folder: Path, pattern: str) -> Callable[[], Any]:
    return lambda: {(file, file.stat().st_mtime_ns) for file in folder.rglob(pattern) if file.exists()}


def online_writes(call: tuple[Any, ...]) -> Callable[[], Any]:
    """`call`: the arguments of write_online, the store first."""
    online = call[0].config.online_store
    if online.type != "redis":
        return files(Path(online.path).parent, "online.db*")
    client: Any = Redis.from_url(f"redis://{online.connection_string}")
    return lambda: client.info("commandstats").get("cmdstat_hset", {}).get("calls")


MIDST: dict[str, tuple[str, Callable[[Any], Callable[[], Any]]]] = {
    "mid write": ("after claim", lambda draft: files(Path(draft.uri), "part-*")),
    "mid online": ("before online", online_writes),
}
"""Moment -> from which moment on, and what changes then, of the claimed draft or of the call's arguments."""


def die() -> NoReturn:
    os.killpg(os.getpgrp(), signal.SIGKILL)
    raise AssertionError("outlived SIGKILL")


def die_when_changed(state: Callable[[], Any]) -> None:
    before = state()
    while state() == before:
        time.sleep(0.001)
    die()


def arm(moment: str, turn: int) -> None:
    """Make the step die at the turn-th time that it comes to the moment."""
    reached, state_of = MIDST.get(moment, (moment, None))

    def arrive(where: str, number: int, subject: Any) -> None:
        if (where, number) != (reached, turn):
            return
        if state_of is None:
            die()
        threading.Thread(target=die_when_changed, args=(state_of(subject),), daemon=True).start()

    for owner, name, what in AROUND:
        setattr(owner, name, _around(getattr(owner, name), what, arrive))


def _around(function: Callable[..., Any], what: str, arrive: Callable[[str, int, Any], None]) -> Callable[..., Any]:
    numbers = count(1)

    @functools.wraps(function)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        number = next(numbers)
        arrive(f"before {what}", number, args)
        result = function(*args, **kwargs)
        arrive(f"after {what}", number, result)
        return result

    return wrapped


if __name__ == "__main__":
    moment, turn, module, *arguments = sys.argv[1:]
    arm(moment, int(turn))
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__")
