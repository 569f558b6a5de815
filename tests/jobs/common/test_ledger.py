"""The lease under races, crashes and silence; the order of publishes."""

from __future__ import annotations

import datetime as dt
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from jobs.common.ledger import LeaseHeldError, LeaseLostError, Ledger
from model.generation import Manifest

DAY_END = dt.datetime(2024, 5, 2, tzinfo=dt.UTC)
ONE_DAY = dt.timedelta(days=1)


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(str(tmp_path), lease_seconds=0.5)


def test_only_one_of_many_writers_holds_the_lease_at_a_time(tmp_path: Path) -> None:
    at_work, most_at_work, tokens = 0, 0, []
    guard = threading.Lock()

    def write() -> None:
        nonlocal at_work, most_at_work
        with Ledger(str(tmp_path), lease_seconds=30).lease("test") as lease:
            with guard:
                at_work += 1
                most_at_work = max(most_at_work, at_work)
                tokens.append(lease.token)
            time.sleep(0.01)
            with guard:
                at_work -= 1

    writers = [threading.Thread(target=write) for _ in range(6)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert most_at_work == 1
    assert tokens == [1, 2, 3, 4, 5, 6]


def test_a_live_writer_keeps_the_lease_beyond_its_term(ledger: Ledger) -> None:
    with ledger.lease("publish") as lease:
        with pytest.raises(LeaseHeldError, match=r"publish \(process \d+ on .*\) holds the lease"):
            Ledger(ledger.uri.removesuffix("/ledger"), lease_seconds=0.5)._acquire("rollback")
        lease.check()
    with ledger.lease("rollback") as lease:
        assert lease.token == 2


def test_a_silent_writer_loses_the_lease_and_stops(ledger: Ledger) -> None:
    silent = ledger._acquire("publish")  # on this host and alive, but it shows no sign of life
    with ledger.lease("rollback") as lease:
        assert lease.token == silent.token + 1
    with ledger.lease("publish") as overtaken:
        ledger._fs.copy(ledger.lease_uri(3), ledger.lease_uri(4))  # as when another took over while it slept
        with pytest.raises(LeaseLostError, match="Lease 3 of publish was lost to lease 4"):
            overtaken.check()
        with pytest.raises(LeaseLostError):
            ledger.begin(overtaken, "publish", DAY_END)
    assert list(ledger.begun()) == []


def test_a_killed_writer_on_this_host_is_not_waited_for(tmp_path: Path) -> None:
    program = (
        "import sys, time\n"
        "from jobs.common.ledger import Ledger\n"
        "with Ledger(sys.argv[1], 600).lease('publish'):\n"
        "    print('held', flush=True)\n"
        "    time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        process.send_signal(signal.SIGKILL)
        process.wait()
        started = time.monotonic()
        with Ledger(str(tmp_path), lease_seconds=600).lease("publish") as lease:
            assert lease.token == 2
        assert time.monotonic() - started < 5


def test_publishes_are_ordered_whatever_they_hold_and_wherever_they_break_off(ledger: Ledger) -> None:
    assert ledger.newest_interval_end() is None
    with ledger.lease("test") as lease:
        first, draft = ledger.begin(lease, "publish", DAY_END)
        ledger.finish(lease, first, draft.commit(Manifest()), "recommendations/000001")
        broken, _ = ledger.begin(lease, "publish", DAY_END + ONE_DAY)
        last, draft = ledger.begin(lease, "retract", DAY_END)
        record = ledger.finish(lease, last, draft.commit(Manifest()), "recommendations/000001")

    assert [begun.number for begun in ledger.begun()] == [3, 2, 1]
    assert [one.number for one in ledger.records()] == [3, 1]
    assert ledger.newest_interval_end() == DAY_END + ONE_DAY
    assert (record.number, record.previous, record.publication) == (3, 1, "publications/000003")
    assert first.event_timestamp == DAY_END + dt.timedelta(milliseconds=1)
    assert last.event_timestamp == DAY_END + ONE_DAY + dt.timedelta(milliseconds=3)
    assert first.event_timestamp < broken.event_timestamp < last.event_timestamp
