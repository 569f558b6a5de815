"""Rank the catalogue for many users on the executors: one model load per worker, Arrow in, Arrow out.

A row that cannot be ranked as it should be gets a `problem` instead of stopping the job.

Shapes: B users of an Arrow batch, H history items, S seen items, N items, K results, L code levels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import fsspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyspark.resource import ResourceProfile
from pyspark.sql import DataFrame

from jobs.common.own_gpu import take_own_gpu
from model.data.packing import batches_of_similar_length
from model.recommender.methods.base import Bools, Ints, Ranked, Ranker, Users
from model.recommender.registry import METHODS

RANKED = (
    "key string, masked boolean, item_ids array<string>, item_codes array<string>, scores array<float>, "
    "user_codes string, problem string"
)
SEEN_CELLS = 1 << 22
"""Seen items of users who are ranked together, padding included: 32 MiB. One user with more is ranked alone."""

NO_HISTORY = "the history is null"
UNKNOWN_HISTORY = "no item of the history has a code"
NO_NUMBERS = "the scores are no numbers"


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

    def pad(self, lists: list[list[str]]) -> Ints:
        """Lists of ids -> indices [B, longest], padded with -1 at the end; ids that the index lacks are left out."""
        known = [[self._index[item] for item in items if item in self._index] for items in lists]
        padded = np.full((len(known), max(map(len, known), default=0)), -1, dtype=np.int64)
        for row, items in zip(padded, known, strict=True):
            row[: len(items)] = items
        return padded

    def available(self, unavailable_file: str) -> Bools:
        """[N]: False for the listed items."""
        available_N = np.ones(self.item_ids_N.size, dtype=bool)
        if unavailable_file:
            listed = _read_ids(unavailable_file).column("item_id").to_pylist()
            available_N[[self._index[item] for item in listed if item in self._index]] = False
        return available_N


def rank(
    users: DataFrame, task: RankingTask, carried: Sequence[str] = (), profile: ResourceProfile | None = None
) -> DataFrame:
    """(key, history, seen, …) -> RANKED and the columns `carried`, which pass unchanged. Lists are best first.

    `history` and `seen` are arrays of item ids. Lists are shorter than k when fewer items are allowed. `item_codes` is
    empty for rankers without codes. `user_codes` is the user's own code "u-v-x-y", null where the ranker gives none.
    `problem` is null for all is well. `profile`: what the tasks of this stage need.
    """

    def rank_partition(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        first = next(batches, None)
        if first is None:
            return  # without a user there is no need of a model
        take_own_gpu()
        index = ItemIndex(task.item_files)
        available_N = index.available(task.unavailable_file)
        ranker = METHODS[task.method].load_ranker(task.request)
        for batch in chain([first], batches):
            seen_B = pc.fill_null(pc.list_value_length(batch.column("seen")), 0).to_numpy(zero_copy_only=False)
            for rows in batches_of_similar_length(seen_B, extra=1, most=SEEN_CELLS):
                part = batch.take(pa.array(rows))
                for lists in _rank_batch(part, task, ranker, index, available_N):
                    yield pa.record_batch(lists | {name: part.column(name) for name in carried})

    columns = users.select("key", "history", "seen", *carried)
    types = [f"{name} {columns.schema[name].dataType.simpleString()}" for name in carried]
    return columns.mapInArrow(rank_partition, ", ".join([RANKED, *types]), profile=profile)


def _rank_batch(
    batch: pa.RecordBatch, task: RankingTask, ranker: Ranker, index: ItemIndex, available_N: Bools
) -> Iterator[dict[str, pa.Array]]:
    """The columns of RANKED, once for each protocol."""
    keys, histories = (batch.column(name).to_pylist() for name in ("key", "history"))
    users = Users(keys, index.pad([history or [] for history in histories]))
    known_B: Bools = np.any(users.history_BH >= 0, axis=1)
    problems = [
        NO_HISTORY if history is None else UNKNOWN_HISTORY if history and not known else None
        for history, known in zip(histories, known_B, strict=True)
    ]
    seen_BS = index.pad([seen or [] for seen in batch.column("seen").to_pylist()])
    for masked in task.protocols:
        ranked = ranker.rank(users, seen_BS if masked else seen_BS[:, :0], available_N, task.k)
        yield _columns(keys, masked, index.item_ids_N, ranked, problems)


def _columns(
    keys: list[str], masked: bool, item_ids_N: npt.NDArray[np.object_], ranked: Ranked, problems: list[str | None]
) -> dict[str, pa.Array]:
    listed_BK: Bools = ranked.items_BK >= 0
    sane_B: Bools = np.all(np.isfinite(ranked.scores_BK) | ~listed_BK, axis=1)
    lists: dict[str, list[list[Any]]] = {"item_ids": [], "item_codes": [], "scores": []}
    for items_K, codes_KL, scores_K, listed_K in zip(
        ranked.items_BK, ranked.codes_BKL, ranked.scores_BK, listed_BK & sane_B[:, None], strict=True
    ):
        lists["item_ids"].append(item_ids_N[items_K[listed_K]].tolist())
        lists["item_codes"].append(_texts(codes_KL[listed_K]) if codes_KL.size else [])
        lists["scores"].append(scores_K[listed_K].tolist())
    found = [problem if sane else NO_NUMBERS for problem, sane in zip(problems, sane_B, strict=True)]
    user_codes = [None] * len(keys) if ranked.user_codes_BL is None else _texts(ranked.user_codes_BL)
    strings = pa.list_(pa.string())
    return {
        "key": pa.array(keys, pa.string()),
        "masked": pa.array([masked] * len(keys), pa.bool_()),
        "item_ids": pa.array(lists["item_ids"], strings),
        "item_codes": pa.array(lists["item_codes"], strings),
        "scores": pa.array(lists["scores"], pa.list_(pa.float32())),
        "user_codes": pa.array(user_codes, pa.string()),
        "problem": pa.array(found, pa.string()),
    }


def _texts(codes_XL: Ints) -> list[str | None]:
    """Codes as "u-v-x-y"; None for -1."""
    return ["-".join(map(str, code)) if code[0] >= 0 else None for code in codes_XL.tolist()]


def _read_ids(uri: str) -> pa.Table:
    fs, path = fsspec.url_to_fs(uri)
    return pq.read_table(path, columns=["item_id"], filesystem=fs)
