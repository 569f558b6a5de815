"""A pass is complete, divided among ranks without overlap, and the same every time."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from model.data import reader
from model.data.files import load_json, load_tensors, save_json, save_table, save_tensors
from model.data.reader import read_batches, read_items, steps_per_epoch

ROWS = 100
COLUMNS = ["user_id", "items"]


@pytest.fixture
def uri(tmp_path: Path) -> str:
    """100 rows in 3 files; row groups of 10 and one of 5, that the ranks' shares differ."""
    folder = tmp_path / "sequences"
    folder.mkdir()
    for part, (low, high) in enumerate(((0, 35), (35, 70), (70, 100))):
        rows = range(low, high)
        table = pa.table({"user_id": [f"u{i}" for i in rows], "items": [[i, -1, -1] for i in rows]})
        pq.write_table(table, folder / f"part-{part}.parquet", row_group_size=10)
    (folder / "_SUCCESS").touch()
    return str(folder)


def rows_of(batches: Any) -> list[int]:
    return [int(row[0]) for batch in batches for row in batch["items"]]


def test_batches_hold_matrices_and_strings(uri: str) -> None:
    batches = list(read_batches(uri, COLUMNS, 32, seed=0, epoch=0))
    assert [len(batch["items"]) for batch in batches] == [32, 32, 32, 4]
    assert batches[0]["items"].shape == (32, 3)
    assert batches[0]["user_id"].dtype == object
    assert all(f"u{items[0]}" == user for b in batches for user, items in zip(b["user_id"], b["items"], strict=True))


def test_a_pass_is_a_function_of_seed_and_epoch(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "BUFFER_ROWS", 30)
    orders = [rows_of(read_batches(uri, COLUMNS, 8, seed=s, epoch=e)) for s, e in ((0, 0), (0, 0), (0, 1), (1, 0))]
    assert orders[0] == orders[1]
    assert all(sorted(order) == list(range(ROWS)) for order in orders)
    assert all(a != b for a, b in itertools.combinations(orders[1:], 2))
    assert rows_of(read_batches(uri, COLUMNS, 8, seed=0, epoch=0, shuffle=False)) == list(range(ROWS))


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_ranks_share_the_rows_and_take_equal_steps(uri: str, world_size: int) -> None:
    passes = [
        list(read_batches(uri, COLUMNS, 8, seed=3, epoch=1, rank=r, world_size=world_size)) for r in range(world_size)
    ]
    assert sorted(row for one in passes for row in rows_of(one)) == list(range(ROWS))
    steps = steps_per_epoch(uri, 8, world_size)
    assert steps == min(map(len, passes))
    for rank, whole in enumerate(passes):
        cut = read_batches(uri, COLUMNS, 8, seed=3, epoch=1, rank=rank, world_size=world_size, max_batches=steps)
        assert rows_of(cut) == rows_of(whole[:steps])


def test_any_fsspec_uri(uri: str) -> None:
    copies = ("memory://reader-test", f"file://{uri}-50%-of-#1?")
    for other in copies:
        fs, path = fsspec.url_to_fs(other)
        fs.makedirs(path)
        for file in Path(uri).glob("*.parquet"):
            fs.put(str(file), f"{path}/{file.name}")
    for other in (f"file://{uri}", *copies):
        assert sorted(rows_of(read_batches(other, COLUMNS, 8, seed=0, epoch=0))) == list(range(ROWS))


def test_rows_that_are_missing_are_an_error(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RuntimeError, match="holds 100 rows, but its manifest says 101"):
        list(read_batches(uri, COLUMNS, 8, seed=0, epoch=0, expected_rows=ROWS + 1))
    whole = reader.make_batch_reader

    class EndsEarly:
        def __init__(self, *args: Any, **options: Any) -> None:
            self.inner = whole(*args, **options)
            self.stop, self.join = self.inner.stop, self.inner.join

        def __iter__(self) -> Any:
            return itertools.islice(self.inner, 3)

    monkeypatch.setattr(reader, "make_batch_reader", EndsEarly)
    with pytest.raises(RuntimeError, match=r"gave \d+ rows instead of 100"):
        list(read_batches(uri, COLUMNS, 8, seed=0, epoch=0))


def test_mistakes_are_named(uri: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no Parquet files"):
        read_batches(str(tmp_path / "nothing"), COLUMNS, 8, seed=0, epoch=0)
    with pytest.raises(ValueError, match="no column targets; it has user_id, items"):
        read_batches(uri, ["targets"], 8, seed=0, epoch=0)
    with pytest.raises(ValueError, match=r"11 row group\(s\) for 13 processes"):
        read_batches(uri, COLUMNS, 8, seed=0, epoch=0, world_size=13)
    pq.write_table(pa.table({"user_id": ["u"], "items": [[1, 2]]}), f"{uri}/part-9.parquet")
    with pytest.raises(ValueError, match=r"'items' has lists of shapes \[\(2,\), \(3,\)\]"):
        list(read_batches(uri, COLUMNS, 8, seed=0, epoch=0))


def test_items_are_numbered_without_gaps(tmp_path: Path) -> None:
    uri = f"{tmp_path}/items.parquet"
    save_table(uri, pa.table({"item_index": [1, 0], "item_id": ["b", "a"]}))
    assert read_items(uri, ["item_id"]).to_pydict() == {"item_id": ["a", "b"]}
    save_table(uri, pa.table({"item_index": [2, 0], "item_id": ["b", "a"]}))
    with pytest.raises(ValueError, match="from 0 to 1 without gaps"):
        read_items(uri, ["item_id"])


def test_files_round_trip(tmp_path: Path) -> None:
    save_tensors(f"{tmp_path}/new/folder/a.safetensors", {"x": np.arange(6).reshape(2, 3).T})
    np.testing.assert_array_equal(
        load_tensors(f"{tmp_path}/new/folder/a.safetensors")["x"], np.arange(6).reshape(2, 3).T
    )
    save_json(f"{tmp_path}/a.json", {"ü": 1.5})
    assert load_json(f"{tmp_path}/a.json") == {"ü": 1.5}
    with pytest.raises(ValueError, match="does not exist"):
        load_json(f"{tmp_path}/b.json")
