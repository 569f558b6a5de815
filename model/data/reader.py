"""Reading training data: one Petastorm pass over a folder of plain Parquet files, the same batches every time.

A pass is a pure function of (files, seed, epoch, rank, world_size). Row groups are dealt out to the ranks in path
order, read by each rank in a shuffled order, and their rows are mixed in a bounded buffer. To resume within epoch e,
reopen epoch e and skip the batches that were done.

Shapes: R rows of a batch, T length of a list column.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from fsspec import AbstractFileSystem

from model.data.petastorm_compat import make_batch_reader

Batch = dict[str, np.ndarray]

BUFFER_ROWS = 16_384
"""Rows that are mixed with each other when shuffling. Sequences of 40 items take about 10 MB of it."""


@dataclass(frozen=True)
class _Folder:
    """The Parquet files of a folder, and what their footers say."""

    uri: str
    fs: AbstractFileSystem
    paths: list[str]
    row_groups: list[int]
    """Rows of each row group, in path order: row group i belongs to rank i % world_size."""

    def shard_rows(self, rank: int, world_size: int) -> int:
        return sum(self.row_groups[rank::world_size])


def read_batches(
    uri: str,
    columns: Sequence[str],
    batch_size: int,
    *,
    seed: int,
    epoch: int,
    rank: int = 0,
    world_size: int = 1,
    expected_rows: int | None = None,
    shuffle: bool = True,
    max_batches: int | None = None,
) -> Iterator[Batch]:
    """One pass over this rank's share of the rows, in batches of `batch_size`; the last one may be smaller.

    `uri` is a folder of plain Parquet files: a local path or any fsspec URI. List columns must have one fixed length
    and come out as [R,T]; strings as object arrays. `expected_rows` is what the folder's manifest says it holds.
    `max_batches` cuts the pass short, so that all ranks take the same number of steps (`steps_per_epoch`).

    Raises ValueError for a folder without Parquet files, with a missing column or with fewer row groups than ranks, and
    for nulls and ragged lists; RuntimeError when other than the rows arrive that the footers and the manifest promise.
    """
    folder = _open_folder(uri, columns, world_size)
    if expected_rows is not None and sum(folder.row_groups) != expected_rows:
        raise RuntimeError(
            f"{uri} holds {sum(folder.row_groups)} rows, but its manifest says {expected_rows}: files came or went."
        )
    rng = np.random.default_rng([seed, epoch, rank]) if shuffle else None
    tables = _read_tables(folder, columns, rank, world_size, rng)
    batches = _rebatch(tables, batch_size, rng)
    return batches if max_batches is None else (batch for _, batch in zip(range(max_batches), batches, strict=False))


def steps_per_epoch(uri: str, batch_size: int, world_size: int) -> int:
    """Batches of the smallest shard: the steps that every rank can take in a pass. ValueError as in `read_batches`."""
    folder = _open_folder(uri, (), world_size)
    return min(-(-folder.shard_rows(rank, world_size) // batch_size) for rank in range(world_size))


def read_table(uri: str, columns: Sequence[str]) -> pa.Table:
    """A whole folder, or one Parquet file, for tables of the catalogue's size. ValueError when a column is missing."""
    fs, path = fsspec.url_to_fs(uri)
    table = pq.read_table(path, filesystem=fs)
    missing = [name for name in columns if name not in table.column_names]
    if missing:
        raise ValueError(f"{uri} has no column {', '.join(missing)}; it has {', '.join(table.column_names)}.")
    return table.select(list(columns))


def read_items(uri: str, columns: Sequence[str]) -> pa.Table:
    """Items by `item_index`, which must run from 0 to N-1 (ValueError); `columns` without the index itself."""
    table = read_table(uri, ["item_index", *columns]).sort_by("item_index")
    index_N = table["item_index"].to_numpy()
    if not np.array_equal(index_N, np.arange(len(index_N))):
        raise ValueError(
            f"{uri}: item_index must number the items from 0 to {len(index_N) - 1} without gaps. Rebuild it."
        )
    return table.drop_columns("item_index")


def item_column(uri: str, name: str) -> list[str]:
    """A column of texts by `item_index`, of a table that may hold only some of the items."""
    values: list[str] = read_table(uri, ["item_index", name]).sort_by("item_index")[name].to_pylist()
    return values


def _open_folder(uri: str, columns: Sequence[str], world_size: int) -> _Folder:
    fs, root = fsspec.url_to_fs(uri)
    paths = sorted(fs.glob(f"{root.rstrip('/')}/*.parquet"))
    if not paths:
        raise ValueError(f"{uri} has no Parquet files. Run the step that writes it.")
    row_groups = []
    for path in paths:
        with fs.open(path) as file:
            footer = pq.read_metadata(file)
        names = footer.schema.to_arrow_schema().names
        missing = [name for name in columns if name not in names]
        if missing:
            raise ValueError(f"{path} has no column {', '.join(missing)}; it has {', '.join(names)}.")
        row_groups += [footer.row_group(i).num_rows for i in range(footer.num_row_groups)]
    if len(row_groups) < world_size:
        raise ValueError(
            f"{uri} has {len(row_groups)} row group(s) for {world_size} processes, so some would have nothing to read. "
            "Write smaller row groups or start fewer processes."
        )
    return _Folder(uri, fs, paths, row_groups)


def _read_tables(
    folder: _Folder, columns: Sequence[str], rank: int, world_size: int, rng: np.random.Generator | None
) -> Iterator[Batch]:
    """This rank's row groups, one by one; checks the row count at the end of the pass."""
    due = folder.shard_rows(rank, world_size)
    if due == 0:
        return
    # The dummy pool reads in our own thread: its order is the ventilator's, hence a function of the seed alone.
    reader = make_batch_reader(
        folder.paths,
        folder.fs,
        columns,
        reader_pool_type="dummy",
        num_epochs=1,
        shuffle_row_groups=rng is not None,
        seed=None if rng is None else int(rng.integers(1, 2**31)),
        cur_shard=rank,
        shard_count=world_size,
    )
    rows = 0
    try:
        for table in reader:
            arrays = {name: getattr(table, name) for name in columns}
            rows += _rows(arrays)
            yield arrays
    except ValueError as error:
        raise ValueError(f"{folder.uri}: {error}") from error
    finally:
        reader.stop()
        reader.join()
    if rows != due:
        raise RuntimeError(f"A pass over {folder.uri} (rank {rank} of {world_size}) gave {rows} rows instead of {due}.")


def _rebatch(tables: Iterable[Batch], batch_size: int, rng: np.random.Generator | None) -> Iterator[Batch]:
    """Cut into batches; with `rng`, mix the rows first. Half of a full buffer stays, to mix with the rows to come."""
    full = batch_size if rng is None else max(BUFFER_ROWS, 2 * batch_size)
    keep = 0 if rng is None else full // 2
    held: list[Batch] = []
    for table in tables:
        held.append(table)
        if sum(map(_rows, held)) >= full:
            buffer = _mixed(held, rng)
            cut = (_rows(buffer) - keep) // batch_size * batch_size
            yield from _slices(buffer, 0, cut, batch_size)
            held = [{name: values[cut:] for name, values in buffer.items()}]
    if held:
        buffer = _mixed(held, rng)
        yield from _slices(buffer, 0, _rows(buffer), batch_size)


def _mixed(tables: list[Batch], rng: np.random.Generator | None) -> Batch:
    for name in tables[0]:
        shapes = {table[name].shape[1:] for table in tables}
        if len(shapes) > 1:
            raise ValueError(f"Column {name!r} has lists of shapes {sorted(shapes)}. Pad them to one length.")
    whole = {name: np.concatenate([table[name] for table in tables]) for name in tables[0]}
    if rng is None:
        return whole
    order = rng.permutation(_rows(whole))
    return {name: values[order] for name, values in whole.items()}


def _slices(table: Batch, start: int, stop: int, batch_size: int) -> Iterator[Batch]:
    for low in range(start, stop, batch_size):
        yield {name: values[low : min(low + batch_size, stop)] for name, values in table.items()}


def _rows(table: Batch) -> int:
    return len(next(iter(table.values())))
