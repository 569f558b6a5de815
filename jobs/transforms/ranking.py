"""Rank the catalogue for many users on the executors: one model load per worker, Arrow in, Arrow out.

Shapes: B users of an Arrow batch, H history items, S seen items, N items, K results, L code levels.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import fsspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from pyspark.sql import DataFrame

RANKED_SCHEMA = "key string, masked boolean, item_ids array<string>, item_codes array<string>, scores array<float>"


@dataclass(frozen=True)
class RankingTask:
    """Which ranker to load on a worker, over which items."""

    method: str
    request: dict[str, Any]
    """Passed to the method's load_ranker."""
    item_files: list[str]
    """Parquet files of (item_id, …) in the order of item_index: the index space of the ranker."""
    k: int
    protocols: tuple[bool, ...] = (True,)
    """Whether seen items are masked, once per list wanted: (True,) or (True, False)."""
    unavailable_file: str = ""
    """Parquet folder of the item_id that must not be listed; empty: all items may."""


class ItemIndex:
    """item_id <-> item_index."""

    def __init__(self, item_files: list[str]) -> None:
        tables = [_read_ids(file) for file in item_files]
        self.item_ids_N = np.array(pa.concat_tables(tables).column("item_id").to_pylist(), dtype=object)
        self._index = {item_id: index for index, item_id in enumerate(self.item_ids_N)}

    def pad(self, lists: list[list[str]]) -> npt.NDArray[np.int64]:
        """Lists of ids -> indices [B, longest], padded with -1 at the end; ids that the index lacks are left out."""
        known = [[self._index[item] for item in items if item in self._index] for items in lists]
        padded = np.full((len(known), max(map(len, known), default=0)), -1, dtype=np.int64)
        for row, items in zip(padded, known, strict=True):
            row[: len(items)] = items
        return padded

    def available(self, unavailable_file: str) -> npt.NDArray[np.bool_]:
        """[N]: False for the listed items."""
        available_N = np.ones(self.item_ids_N.size, dtype=bool)
        if unavailable_file:
            listed = _read_ids(unavailable_file).column("item_id").to_pylist()
            available_N[[self._index[item] for item in listed if item in self._index]] = False
        return available_N


def rank(users: DataFrame, task: RankingTask) -> DataFrame:
    """(key, history, seen) -> RANKED_SCHEMA, best first; lists are shorter than k when fewer items are allowed.

    `history` and `seen` are arrays of item ids. `item_codes` is empty for rankers without codes.
    """

    def rank_partition(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        # Heavy imports belong to the workers.
        from model.recommender.methods.base import Users  # noqa: PLC0415
        from model.recommender.registry import METHODS  # noqa: PLC0415

        index = ItemIndex(task.item_files)
        available_N = index.available(task.unavailable_file)
        ranker = METHODS[task.method].load_ranker(task.request)
        for batch in batches:
            keys = batch.column("key").to_pylist()
            batch_users = Users(keys, index.pad(batch.column("history").to_pylist()))
            seen_BS = index.pad(batch.column("seen").to_pylist())
            for masked in task.protocols:
                ranked = ranker.rank(batch_users, seen_BS if masked else seen_BS[:, :0], available_N, task.k)
                yield _to_arrow(keys, masked, index.item_ids_N, ranked)

    return users.select("key", "history", "seen").mapInArrow(rank_partition, RANKED_SCHEMA)


def _to_arrow(keys: list[str], masked: bool, item_ids_N: npt.NDArray[np.object_], ranked: Any) -> pa.RecordBatch:
    lists: dict[str, list[list[Any]]] = {"item_ids": [], "item_codes": [], "scores": []}
    for items_K, codes_KL, scores_K in zip(ranked.items_BK, ranked.codes_BKL, ranked.scores_BK, strict=True):
        listed = items_K >= 0
        lists["item_ids"].append(item_ids_N[items_K[listed]].tolist())
        lists["item_codes"].append(["-".join(map(str, code)) for code in codes_KL[listed]] if codes_KL.size else [])
        lists["scores"].append(scores_K[listed].tolist())
    strings = pa.list_(pa.string())
    return pa.record_batch(
        {
            "key": pa.array(keys, pa.string()),
            "masked": pa.array([masked] * len(keys), pa.bool_()),
            "item_ids": pa.array(lists["item_ids"], strings),
            "item_codes": pa.array(lists["item_codes"], strings),
            "scores": pa.array(lists["scores"], pa.list_(pa.float32())),
        }
    )


def _read_ids(uri: str) -> pa.Table:
    fs, path = fsspec.url_to_fs(uri)
    return pq.read_table(path, columns=["item_id"], filesystem=fs)
