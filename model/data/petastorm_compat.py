"""Petastorm 0.13.1 on current pyarrow and numpy: the one module that imports petastorm.

Petastorm was written for pyarrow < 15 and numpy < 2. What it misses of them is put back here: two numpy names, two
pyarrow modules (only while petastorm is imported), and the legacy `ParquetDataset` (in petastorm's own modules only).

Two bugs of its worker pools are repaired as well. Both pools look at "is all handed-out work done?" *before* "was all
work handed out?", while another thread hands it out. In between the rest may be handed out, so that

- the thread pool ends a pass early, even with 0 rows and without an error;
- the dummy pool waits for ever for work that will not come.

Asked in the other order both answers are final: once everything was handed out, "all done" cannot become false again.

Works: `make_batch_reader` over a list of plain Parquet files and an fsspec filesystem. Process pools and
hive-partitioned folders do not.
"""

from __future__ import annotations

import functools
import re
import sys
import time
import types
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from fsspec import AbstractFileSystem
from fsspec.implementations.local import LocalFileSystem

for _name, _value in {"unicode_": np.str_, "string_": np.bytes_}.items():
    if _name not in vars(np):
        setattr(np, _name, _value)

_STAND_INS = {
    "pyarrow.filesystem": {"LocalFileSystem": LocalFileSystem},
    "pyarrow.hdfs": {"HadoopFileSystem": AbstractFileSystem},
}
for _name, _members in _STAND_INS.items():
    sys.modules[_name] = types.ModuleType(_name)
    vars(sys.modules[_name]).update(_members)
try:
    from petastorm import arrow_reader_worker, reader
    from petastorm.etl import dataset_metadata
    from petastorm.workers_pool import EmptyResultError
    from petastorm.workers_pool.dummy_pool import DummyPool
    from petastorm.workers_pool.thread_pool import ThreadPool
finally:
    for _name in _STAND_INS:
        del sys.modules[_name]


class LegacyPiece:
    """Stand-in for pyarrow's removed `ParquetDatasetPiece`: one file, or one row group of it."""

    def __init__(
        self,
        path: str,
        open_file_func: Callable[[str], Any],
        row_group: int | None = None,
        partition_keys: Sequence[Any] = (),
    ) -> None:
        self.path, self.row_group, self.partition_keys = path, row_group, partition_keys
        self._open = open_file_func

    def get_metadata(self) -> pq.FileMetaData:
        with self._open(self.path) as file:
            return pq.read_metadata(file)

    def read(self, columns: Iterable[str], partitions: None = None) -> pa.Table:
        assert partitions is None, "hive-partitioned folders are not supported"
        with self._open(self.path) as file:
            return pq.ParquetFile(file).read_row_group(self.row_group, columns=list(columns), use_threads=False)


class LegacyDataset:
    """Stand-in for pyarrow's removed legacy `ParquetDataset`: a list of plain Parquet files, in the given order."""

    partitions = metadata = common_metadata = None

    def __init__(self, path_or_paths: list[str], filesystem: AbstractFileSystem, **options: Any) -> None:
        assert isinstance(path_or_paths, list), "name the files: folders are listed by our reader"
        assert options.get("filters") is None, "petastorm's filters do not filter rows"
        self.fs, self.paths = filesystem, path_or_paths
        self.pieces = [LegacyPiece(path, filesystem.open) for path in path_or_paths]


def table_to_numpy(table: pa.Table, schema: Any) -> dict[str, np.ndarray]:
    """Columns of a row group: lists as [rows, length] matrices, strings as object arrays, the rest as they are.

    Replaces petastorm's conversion, which turns a null string into "None". Raises ValueError for nulls, which have no
    place in an integer array, and for lists of unequal lengths.
    """
    return {name: _column_to_numpy(name, table.column(name).combine_chunks()) for name in table.column_names}


def _column_to_numpy(name: str, column: pa.Array) -> np.ndarray:
    if column.null_count:
        raise ValueError(f"Column {name!r} has {column.null_count} null(s) in one row group. Fill them before writing.")
    if not pa.types.is_list(column.type):
        return np.asarray(column.to_numpy(zero_copy_only=False))
    lengths = column.value_lengths().unique().to_pylist()
    if len(lengths) > 1:
        raise ValueError(f"Column {name!r} has lists of lengths {sorted(lengths)[:8]}. Pad them to one length.")
    values = column.flatten()
    if values.null_count:
        raise ValueError(f"Column {name!r} has {values.null_count} null(s) inside its lists. Fill them before writing.")
    return np.asarray(values.to_numpy(zero_copy_only=False)).reshape(len(column), *lengths)


def _as_given(
    paths: list[str], *_: Any, filesystem: AbstractFileSystem, **__: Any
) -> tuple[AbstractFileSystem, list[str]]:
    """Petastorm takes URLs apart by hand, which breaks paths with "#" or "?" and file systems without a host."""
    return filesystem, paths


_all_handed_out_work_done = ThreadPool.all_workers_done


def _handed_out(pool: Any) -> bool:
    return pool._ventilator is None or pool._ventilator.completed()


@functools.wraps(_all_handed_out_work_done)
def _all_workers_done(pool: Any) -> bool:
    return _handed_out(pool) and _all_handed_out_work_done(pool)


@functools.wraps(DummyPool.get_results)
def _get_results(pool: Any) -> Any:
    while not pool._results_queue:
        complete = _handed_out(pool)
        if pool._ventilator_queue:
            args, kwargs = pool._ventilator_queue.pop(0)
            pool._worker.process(*args, **kwargs)
            if pool._ventilator is not None:
                pool._ventilator.processed_item()
        elif complete:
            raise EmptyResultError
        else:
            time.sleep(0.001)
    return pool._results_queue.pop(0)


for _module in (arrow_reader_worker, reader, dataset_metadata):
    _module.pq = types.SimpleNamespace(ParquetDataset=LegacyDataset, ParquetDatasetPiece=LegacyPiece)
for _module in (reader, dataset_metadata):
    _module.get_filesystem_and_path_or_paths = _as_given
arrow_reader_worker.convert_arrow_table_to_numpy_dict = table_to_numpy
ThreadPool.all_workers_done = _all_workers_done
DummyPool.get_results = _get_results


def make_batch_reader(paths: list[str], filesystem: AbstractFileSystem, columns: Sequence[str], **options: Any) -> Any:
    """Petastorm's batch reader over plain Parquet files on an fsspec filesystem.

    Yields one named tuple of arrays per row group, see `table_to_numpy`. `options` are petastorm's own. A `seed` of 0
    would mean "no seed" to petastorm: give a positive one.
    """
    assert options.get("seed") != 0, "petastorm takes seed 0 for no seed"
    return reader.make_batch_reader(
        paths,
        schema_fields=[re.escape(column) for column in columns],
        filesystem=filesystem,
        **options,
    )
