"""Ranked lists of a split's cases, written as they are made, and the training set that methods of the split learn from.

What is written is what jobs.evaluate writes for a lake, so every number can be counted again without a model.

Shapes: C cases, B cases of a batch, H history items, S seen items, K results, W window.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from model.evaluation.dataset import Interactions, Ints, Split, fit_mask
from model.evaluation.metrics import rank_of_target
from model.progress import Progress
from model.recommender.methods.base import PAD, Ranker, Users

MASKED, NOT_MASKED = True, False
BATCH_CASES = 1024
ROWS_PER_GROUP = 1024

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


def write_lists(
    file: Path, method: str, ranker: Ranker, data: Interactions, split: Split, *, history_items: int, k: int
) -> None:
    """The top k of every case, seen items masked and not, as Parquet; one batch of cases is held at a time."""
    ids = pa.array(data.item_ids)
    available_N = np.ones(len(data.item_ids), bool)
    progress = Progress(f"rank {method}", split.case_user_C.size)
    with pq.ParquetWriter(file, LISTS, compression="zstd") as writer:
        for user_B, place_B in _batches(split):
            before = [data.before(user, place) for user, place in zip(user_B, place_B, strict=True)]
            user_ids = [data.user_ids[user] for user in user_B]
            users = Users(user_ids, _padded([items[-history_items:] for items in before]))
            seen_BS = _padded(before)
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
    pq.write_table(pa.table(columns), file, compression="zstd")


def write_training_set(folder: Path, data: Interactions, split: Split, history_items: int, window_items: int) -> None:
    """The folders items/ and sequences/ that methods train on; windows as in jobs/transforms/training_set.py."""
    assert 0 < history_items < window_items
    index_N = np.arange(len(data.item_ids), dtype=np.int32)
    items = {"item_index": index_N, "item_id": data.item_ids, "title": data.titles, "text": data.titles}
    step = window_items - history_items
    users, windows, targets = [], [], []
    for user, fit in enumerate(split.fit_U):
        known = data.before(user, int(fit))
        for start in range(0, fit, step):
            first = history_items if start else 0
            if start + first >= fit:
                break
            window = known[start : start + window_items]
            windows.append(np.pad(window, (0, window_items - window.size), constant_values=PAD))
            targets.append((np.arange(window_items) >= first) & (np.arange(window_items) < window.size))
            users.append(data.user_ids[user])
    rows = {"user_id": users} | {
        name: pa.FixedSizeListArray.from_arrays(pa.array(np.concatenate(values).astype(np.int32)), window_items).cast(
            pa.list_(pa.int32())
        )
        for name, values in (("items", windows), ("targets", targets))
    }
    for name, table in (("items", items), ("sequences", rows)):
        (folder / name).mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table(table), folder / name / "part-0.parquet", row_group_size=ROWS_PER_GROUP)


def _batches(split: Split) -> Iterator[tuple[Ints, Ints]]:
    for start in range(0, split.case_user_C.size, BATCH_CASES):
        yield split.case_user_C[start : start + BATCH_CASES], split.case_place_C[start : start + BATCH_CASES]


def _padded(lists: list[Ints]) -> Ints:
    """[B, longest], padded with -1 at the end."""
    padded = np.full((len(lists), max(map(len, lists), default=0)), PAD, dtype=np.int64)
    for row, items in zip(padded, lists, strict=True):
        row[: len(items)] = items
    return padded
