"""Ranked lists of a split's cases, written as they are made, and the training set that methods of the split learn from.

What is written is what jobs.evaluate writes for a lake, so every number can be counted again without a model.

Shapes: C cases, B cases of a batch, H history items, S seen items, K results, W window.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from model.data.targets import LATER_ITEMS, TOO_MANY
from model.evaluation.dataset import Interactions, Ints, Split, fit_mask
from model.evaluation.metrics import rank_of_target
from model.progress import Progress
from model.recommender.methods.base import PAD, Ranker, Users

MASKED, NOT_MASKED = True, False
BATCH_CASES = 1024
ROWS_PER_GROUP = 1024
PART = "part-0.parquet"

LISTS = pa.schema(
    [
        ("method", pa.string()),
        ("masked", pa.bool_()),
        ("key", pa.string()),
        ("user_id", pa.string()),
        ("target", pa.string()),
        ("rank", pa.int32()),
        ("item_ids", pa.list_(pa.string())),
        ("scores", pa.list_(pa.float32())),
    ]
)
SEQUENCES = pa.schema(
    [("user_id", pa.string()), *((name, pa.list_(pa.int32())) for name in ("items", "targets", "later"))]
)


def write_lists(
    file: Path, method: str, ranker: Ranker, data: Interactions, split: Split, *, history_items: int, k: int
) -> None:
    """The top k of every case, seen items masked and not, as Parquet; one batch of cases is held at a time."""
    ids = pa.array(data.item_ids)
    available_N = np.ones(len(data.item_ids), bool)
    progress = Progress(f"rank {method}", split.case_user_C.size)
    with pq.ParquetWriter(file, LISTS, compression="zstd") as writer:
        for user_B, place_B in _batches(split):
            user_ids = [data.user_ids[user] for user in user_B]
            users = Users(user_ids, histories(data, user_B, place_B, history_items))
            seen_BS = histories(data, user_B, place_B)
            target_B = data.item_E[data.offset_U1[user_B] + place_B]
            keys = [f"{user_id}#{place + 1}" for user_id, place in zip(user_ids, place_B, strict=True)]
            for masked in (MASKED, NOT_MASKED):
                ranked = ranker.rank(users, seen_BS if masked else seen_BS[:, :0], available_N, k)
                listed_BK = ranked.items_BK != PAD
                offsets = pa.array(np.concatenate([[0], listed_BK.sum(axis=1).cumsum()]), pa.int32())
                columns = [
                    pa.array([method] * len(keys)),
                    pa.array([masked] * len(keys)),
                    pa.array(keys),
                    pa.array(user_ids),
                    ids.take(pa.array(target_B)),
                    pa.array(rank_of_target(ranked.items_BK, target_B), pa.int32()),
                    pa.ListArray.from_arrays(offsets, ids.take(pa.array(ranked.items_BK[listed_BK]))),
                    pa.ListArray.from_arrays(offsets, pa.array(ranked.scores_BK[listed_BK])),
                ]
                writer.write_table(pa.table(columns, schema=LISTS))
            progress.advance(len(keys))
    progress.close()


def histories(data: Interactions, user_B: Ints, place_B: Ints, most: int | None = None) -> Ints:
    """[B,H], oldest first, -1 behind: the users' newest items before these places, so many at most."""
    before = (data.before(user, place) for user, place in zip(user_B, place_B, strict=True))
    return padded([items[-most:] if most else items for items in before])


def write_cases(file: Path, data: Interactions, split: Split) -> None:
    """The cases of a split: key, user, target, how long the history is, how often models have seen the target."""
    user_C, place_C = split.case_user_C, split.case_place_C
    count_N = np.bincount(data.item_E[fit_mask(data, split)], minlength=len(data.item_ids))
    target_C = data.item_E[data.offset_U1[user_C] + place_C]
    user_ids = [data.user_ids[user] for user in user_C]
    columns = {
        "key": [f"{user_id}#{place + 1}" for user_id, place in zip(user_ids, place_C, strict=True)],
        "user_id": user_ids,
        "target": pa.array(data.item_ids).take(pa.array(target_C)),
        "history_length": pa.array(place_C, pa.int32()),
        "target_count": pa.array(count_N[target_C], pa.int32()),
    }
    with _replaced(file) as new:
        pq.write_table(pa.table(columns), new, compression="zstd")


def write_training_set(
    folder: Path, data: Interactions, split: Split, history_items: int, window_items: int, validation_users: int
) -> None:
    """The folders items/, sequences/ and validation/ that methods learn from, as in jobs/transforms/training_set.py.

    Here there are no days: `later` begins with a window's first target. Nothing is taken out of the windows: cases to
    validate on are what the split leaves aside, and a split that leaves nothing aside has none.
    """
    assert 0 < history_items < window_items
    index_N = np.arange(len(data.item_ids), dtype=np.int32)
    hashes = [hashlib.sha256(text.encode()).hexdigest() for text in data.texts]
    items = {
        "item_index": index_N,
        "item_id": data.item_ids,
        "title": data.titles,
        "text": data.texts,
        "text_hash": hashes,
    }
    windows = [
        window
        for user, fit in enumerate(split.fit_U)
        for window in _windows(user, int(fit), history_items, window_items)
    ]
    cases = [data.before(user, int(split.fit_U[user]) + 1) for user in _drawn(data, split, validation_users)]
    validation = {
        "items": _column([case[:-1][-history_items:] for case in cases], history_items),
        "target": pa.array([case[-1] for case in cases], pa.int32()),
    }
    for name in ("items", "validation", "sequences"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    with _replaced(folder / "items" / PART) as new:
        pq.write_table(pa.table(items), new, row_group_size=ROWS_PER_GROUP)
    with _replaced(folder / "validation" / PART) as new:
        pq.write_table(pa.table(validation), new)
    with _replaced(folder / "sequences" / PART) as new, pq.ParquetWriter(new, SEQUENCES) as writer:
        for start in range(0, len(windows), ROWS_PER_GROUP):
            writer.write_table(_sequences(data, split, windows[start : start + ROWS_PER_GROUP], window_items))


@contextmanager
def _replaced(file: Path) -> Iterator[Path]:
    """Where to write; takes the file's place when whole, so that another run on the same split may read meanwhile."""
    new = file.with_name(f"_{file.name}.{os.getpid()}")
    yield new
    new.replace(file)


@dataclass(frozen=True)
class _Window:
    """Places in a user's sequence: `start` to `stop` are read, `first` to `stop` predicted."""

    user: int
    start: int
    first: int
    stop: int

    def items(self, data: Interactions) -> Ints:
        return data.before(self.user, self.stop)[self.start :]


def _windows(user: int, fit: int, history_items: int, window_items: int) -> Iterator[_Window]:
    for start in range(0, fit, window_items - history_items):
        first = start + history_items if start else 0
        if first < fit:
            yield _Window(user, start, first, min(start + window_items, fit))


def _drawn(data: Interactions, split: Split, validation_users: int) -> list[int]:
    """Users who are learnt from, and whose interaction behind the fit part is no case; the newest of these first."""
    aside_U = (split.fit_U > 0) & (split.fit_U < data.length_U)
    aside_U[split.case_user_C[split.case_place_C == split.fit_U[split.case_user_C]]] = False

    def newest_first(user: int) -> tuple[int, bytes]:
        time = int(data.time_E[data.offset_U1[user] + split.fit_U[user]])
        return -time, hashlib.sha256(data.user_ids[user].encode()).digest()

    return sorted(np.flatnonzero(aside_U).tolist(), key=newest_first)[:validation_users]


def _sequences(data: Interactions, split: Split, windows: list[_Window], window_items: int) -> pa.Table:
    targets, later = [], []
    for window in windows:
        targets.append((np.arange(window.start, window.stop) >= window.first).astype(np.int64))
        items = np.unique(data.before(window.user, int(split.fit_U[window.user]))[window.first :])
        later.append(items if items.size <= LATER_ITEMS else np.array([TOO_MANY]))
    columns = [
        pa.array([data.user_ids[window.user] for window in windows]),
        _column([window.items(data) for window in windows], window_items),
        _column(targets, window_items, 0),
        _column(later, LATER_ITEMS),
    ]
    return pa.table(columns, schema=SEQUENCES)


def _column(lists: list[Ints], length: int, fill: int = PAD) -> pa.Array:
    """Lists of one length, the shorter ones filled up behind."""
    flat = pa.array(padded(lists, length, fill).astype(np.int32).ravel())
    return pa.FixedSizeListArray.from_arrays(flat, length).cast(pa.list_(pa.int32()))


def _batches(split: Split) -> Iterator[tuple[Ints, Ints]]:
    for start in range(0, split.case_user_C.size, BATCH_CASES):
        yield split.case_user_C[start : start + BATCH_CASES], split.case_place_C[start : start + BATCH_CASES]


def padded(lists: list[Ints], length: int | None = None, fill: int = PAD) -> Ints:
    """[B, length, or that of the longest], filled up at the end."""
    longest = max(map(len, lists), default=0) if length is None else length
    padded = np.full((len(lists), longest), fill, dtype=np.int64)
    for row, items in zip(padded, lists, strict=True):
        row[: len(items)] = items
    return padded
