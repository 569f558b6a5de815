"""The publish ledger: who may write online, in what order, and what is online (ours).

A writer holds the one lease. Leases are numbered; the number is a fencing token: whoever finds a greater one than its
own has lost the lease and stops. A publish takes the next number (it is also its attempt in the store `publications`)
and says so before it writes anything online, so that whatever follows a crash orders itself after the crashed one.

    ledger/
        leases/000042.json            the writer with token 42: owner, last sign of life, whether it has finished
        publishes/000007.begun.json   publish 7 may have written online
        publishes/000007.json         publish 7 is online, whole
    publications/000007/              what publish 7 puts online

Wall time decides one thing only: when a silent writer is taken for dead.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import logging
import os
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import PurePosixPath
from typing import Any, Literal

import fsspec

from jobs.common.step import TryAgainError
from model.generation import Draft, Generation, GenerationStore, create_exclusively, write_atomically

log = logging.getLogger("ledger")

Kind = Literal["publish", "rollback", "retract"]

RENEWALS_PER_LEASE = 4
"""A live writer shows itself so many times within the span after which a silent one is taken for dead."""


class LeaseHeldError(TryAgainError):
    """Another writer is at work."""


class LeaseLostError(RuntimeError):
    """Another writer took over: nothing more may be written."""


@dataclass(frozen=True)
class Holder:
    """What a lease file says."""

    token: int
    step: str
    host: str
    pid: int
    seen: float
    """Last sign of life, seconds since 1970."""
    done: bool = False

    def is_gone(self, lease_seconds: float) -> bool:
        """It finished, or it died on this very host, or it was silent for too long."""
        died_here = self.host == socket.gethostname() and not _is_alive(self.pid)
        return self.done or died_here or time.time() - self.seen > lease_seconds


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # somebody else's process
    return True


@dataclass(frozen=True)
class Begun:
    """A publish that took its number, finished or not."""

    number: int
    kind: Kind
    newest_interval_end: str
    """Greatest interval end of this and all earlier publishes, ISO 8601, UTC."""
    token: int

    @property
    def interval_end(self) -> dt.datetime:
        return dt.datetime.fromisoformat(self.newest_interval_end)

    @property
    def event_timestamp(self) -> dt.datetime:
        """Of every row it writes online: later than any row of an earlier publish."""
        return self.interval_end + dt.timedelta(milliseconds=self.number)


@dataclass(frozen=True)
class Record(Begun):
    """A publish that is online, whole."""

    publication: str
    """Identity of the generation that it put online."""
    recommendations: str
    """Identity of the lists online since then."""
    previous: int
    """Number of the finished publish before it; 0 for the first."""


class Lease:
    """The right to write online, as long as no greater token exists."""

    def __init__(self, ledger: Ledger, holder: Holder) -> None:
        self._ledger, self._holder = ledger, holder

    @property
    def token(self) -> int:
        return self._holder.token

    def check(self) -> None:
        """Call before each write. LeaseLostError when another writer took over."""
        newest = self._ledger.newest_token()
        if newest != self.token:
            raise LeaseLostError(f"Lease {self.token} of {self._holder.step} was lost to lease {newest}. Run it again.")

    def show(self, done: bool = False) -> None:
        """Show a sign of life, or that the work is done."""
        content = asdict(self._holder) | {"seen": time.time(), "done": done}
        write_atomically(self._ledger.lease_uri(self.token), json.dumps(content).encode())

    def keep_alive(self, ended: threading.Event, every_seconds: float) -> None:
        """Show signs of life until `ended`: runs in a thread, because one Spark job can outlast the lease."""
        while not ended.wait(every_seconds):
            try:
                self.show()
            except OSError as error:
                log.warning("lease %d could not be renewed: %s", self.token, error)


class Ledger:
    """The ledger of one lake."""

    def __init__(self, lake_uri: str, lease_seconds: float) -> None:
        self.uri = f"{lake_uri.rstrip('/')}/ledger"
        self.lease_seconds = lease_seconds
        self.publications = GenerationStore(lake_uri, "publications")
        self._fs, self._root = fsspec.url_to_fs(self.uri)

    @contextlib.contextmanager
    def lease(self, step: str) -> Iterator[Lease]:
        """Become the one writer. Waits while another is alive, `lease_seconds` at most; then LeaseHeldError."""
        lease = Lease(self, self._acquire(step))
        ended = threading.Event()
        renewals = threading.Thread(
            target=lease.keep_alive, args=(ended, self.lease_seconds / RENEWALS_PER_LEASE), name="lease", daemon=True
        )
        renewals.start()
        try:
            yield lease
        finally:
            ended.set()
            renewals.join()
            lease.show(done=True)

    def _acquire(self, step: str) -> Holder:
        self._fs.makedirs(f"{self._root}/leases", exist_ok=True)
        patience = time.monotonic() + self.lease_seconds
        while True:
            newest = self.newest_token()
            holder = self._holder(newest)
            if holder is None or holder.is_gone(self.lease_seconds):
                claim = Holder(newest + 1, step, socket.gethostname(), os.getpid(), time.time())
                try:
                    create_exclusively(self.lease_uri(claim.token), json.dumps(asdict(claim)).encode())
                except FileExistsError:
                    continue  # somebody was faster: look again
                return claim
            if time.monotonic() > patience:
                raise LeaseHeldError(
                    f"{holder.step} (process {holder.pid} on {holder.host}) holds the lease of the one writer. "
                    "Try again later."
                )
            time.sleep(min(1.0, self.lease_seconds / 10))

    def lease_uri(self, token: int) -> str:
        return f"{self.uri}/leases/{token:06d}.json"

    def newest_token(self) -> int:
        """0 before the first lease."""
        return max(self._numbers("leases", ".json"), default=0)

    def _holder(self, token: int) -> Holder | None:
        return Holder(**self._read(f"leases/{token:06d}.json")) if token else None

    def begun(self) -> Iterator[Begun]:
        """Every publish that took a number, newest first."""
        for number in reversed(self._numbers("publishes", ".begun.json")):
            yield Begun(**self._read(f"publishes/{number:06d}.begun.json"))

    def records(self) -> Iterator[Record]:
        """Every publish that went online whole, newest first."""
        for number in reversed(self._numbers("publishes", ".json")):
            yield Record(**self._read(f"publishes/{number:06d}.json"))

    def newest_interval_end(self) -> dt.datetime | None:
        """Greatest interval end that any publish began to put online; None before the first."""
        newest = next(self.begun(), None)
        return newest.interval_end if newest else None

    def begin(self, lease: Lease, kind: Kind, interval_end: dt.datetime) -> tuple[Begun, Draft]:
        """Take the next number, and the publication to be written under it."""
        lease.check()
        newest = max(interval_end, self.newest_interval_end() or interval_end)
        draft = self.publications.begin()
        begun = Begun(draft.attempt, kind, newest.isoformat(), lease.token)
        write_atomically(f"{self.uri}/publishes/{begun.number:06d}.begun.json", json.dumps(asdict(begun)).encode())
        return begun, draft

    def finish(self, lease: Lease, begun: Begun, publication: Generation, recommendations: str) -> Record:
        """Record that everything of the publish is online."""
        lease.check()
        last = next(self.records(), None)
        previous = last.number if last else 0
        record = Record(
            **asdict(begun), publication=publication.identity, recommendations=recommendations, previous=previous
        )
        write_atomically(f"{self.uri}/publishes/{begun.number:06d}.json", json.dumps(asdict(record), indent=2).encode())
        return record

    def _read(self, path: str) -> dict[str, Any]:
        content: dict[str, Any] = json.loads(self._fs.cat_file(f"{self._root}/{path}"))
        return content

    def _numbers(self, folder: str, suffix: str) -> list[int]:
        """Numbers of the files "<number><suffix>" of a folder, in order."""
        self._fs.invalidate_cache()  # an object store's listing may be remembered from before another writer came
        if not self._fs.exists(f"{self._root}/{folder}"):
            return []
        names = (PurePosixPath(path).name for path in self._fs.ls(f"{self._root}/{folder}", detail=False))
        stems = (name.removesuffix(suffix) for name in names if name.endswith(suffix))
        return sorted(int(stem) for stem in stems if stem.isdigit())
