"""The repaired pools deliver every row even while the window between Petastorm's two questions is wide open."""

from __future__ import annotations

import importlib
import time
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from model.data import petastorm_compat
from model.data.petastorm_compat import DummyPool, ThreadPool, make_batch_reader, table_to_numpy

ConcurrentVentilator = importlib.import_module("petastorm.workers_pool.ventilator").ConcurrentVentilator

ROWS = 24


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    for part in range(2):
        rows = range(part * ROWS // 2, (part + 1) * ROWS // 2)
        pq.write_table(pa.table({"row": list(rows)}), tmp_path / f"{part}.parquet", row_group_size=4)
    return sorted(map(str, tmp_path.iterdir()))


def rows_of_a_pass(files: list[str], pool: str) -> list[int]:
    reader = make_batch_reader(files, fsspec.filesystem("file"), ["row"], reader_pool_type=pool, num_epochs=1, seed=7)
    try:
        return [int(row) for table in reader for row in table.row]
    finally:
        reader.stop()
        reader.join()


@pytest.mark.parametrize("pool", ["thread", "dummy"])
def test_a_pass_reads_every_row_once(files: list[str], pool: str) -> None:
    assert sorted(rows_of_a_pass(files, pool)) == list(range(ROWS))


def test_the_repaired_thread_pool_loses_no_rows_in_the_window_where_petastorms_own_does(
    files: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    all_done = ThreadPool.all_workers_done.__wrapped__  # Petastorm's own

    def interrupted(pool: Any) -> bool:
        answer = bool(all_done(pool))
        time.sleep(0.1)  # all work is handed out between this question and the next
        return answer

    hand_out = ConcurrentVentilator._ventilate

    def late(ventilator: Any) -> None:
        time.sleep(0.02)
        hand_out(ventilator)

    monkeypatch.setattr(ConcurrentVentilator, "_ventilate", late)
    monkeypatch.setattr(petastorm_compat, "_all_handed_out_work_done", interrupted)
    assert sorted(rows_of_a_pass(files, "thread")) == list(range(ROWS))
    monkeypatch.setattr(ThreadPool, "all_workers_done", interrupted)
    assert rows_of_a_pass(files, "thread") == []


def test_the_dummy_pool_does_not_wait_for_work_that_will_not_come(
    files: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    hand_out = DummyPool.ventilate

    def slow(pool: Any, *args: Any, **kwargs: Any) -> None:
        hand_out(pool, *args, **kwargs)
        time.sleep(0.1)  # the last piece is read before the ventilator notes that it was the last

    monkeypatch.setattr(DummyPool, "ventilate", slow)
    assert sorted(rows_of_a_pass(files, "dummy")) == list(range(ROWS))


@pytest.mark.parametrize(
    ("column", "complaint"),
    [
        (pa.array([1, None]), "1 null"),
        (pa.array([[1], [1, 2]]), r"lengths \[1, 2\]"),
        (pa.array([[1, None], [1, 2]]), "inside its lists"),
    ],
)
def test_nulls_and_ragged_lists_are_refused(column: pa.Array, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        table_to_numpy(pa.table({"items": column}), None)
