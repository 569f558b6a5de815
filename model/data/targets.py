"""Who took what: the targets of a training set as pairs, for methods that count instead of train.

Shapes: E events, B windows of a batch, T length of a window.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

import fsspec
import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.dataset as ds

Ints = npt.NDArray[np.int64]

LATER_ITEMS = 256
"""Length of the column `later` of a training set's sequences: the distinct items that the user takes on the window's
day or later, in ascending order, padded with -1 behind. They are no negatives for the window's targets."""
TOO_MANY = -2
"""The first value of `later`, before -1 alone, when there are more than LATER_ITEMS: draw no negatives here."""
USERS_PER_CASE = 10
"""At most one user in so many gives a case to validate on: a small data set keeps nearly all its targets."""


def count_items(training_set: str) -> int:
    fs, path = fsspec.url_to_fs(training_set)
    return int(ds.dataset(f"{path}/items", filesystem=fs).count_rows())


def read_windows(training_set: str) -> Iterator[tuple[pa.Array, Ints, npt.NDArray[np.bool_]]]:
    """User ids [B], items [B,T] and which of them are targets [B,T], batch by batch."""
    fs, path = fsspec.url_to_fs(training_set)
    for batch in ds.dataset(f"{path}/sequences", filesystem=fs).to_batches(columns=["user_id", "items", "targets"]):
        if not len(batch):
            continue
        item_BT, target_BT = (
            batch.column(name).flatten().to_numpy().reshape(len(batch), -1) for name in ("items", "targets")
        )
        yield batch.column("user_id"), item_BT, (target_BT == 1) & (item_BT >= 0)


def user_numbers(user_ids: npt.NDArray[np.object_]) -> Ints:
    """A number [B] for each user's id, the same wherever it is asked for: 64 bits of a hash."""
    numbers_B: Ints = pd.util.hash_array(user_ids).view(np.int64)
    return numbers_B


def read_targets(training_set: str, most_batches: int | None = None) -> tuple[Ints, Ints]:
    """User number and item of each target [E]. Every event is a target in one window alone, so nothing counts twice.

    `most_batches` ends the pass after so many batches of windows, in path order, where a sample will do.
    """
    numbers: dict[str, int] = {}
    users, targets = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    for user_ids, item_BT, wanted_BT in islice(read_windows(training_set), most_batches):
        user_B = np.array([numbers.setdefault(user, len(numbers)) for user in user_ids.to_pylist()])
        users.append(np.broadcast_to(user_B[:, None], item_BT.shape)[wanted_BT])
        targets.append(item_BT[wanted_BT].astype(np.int64))
    return np.concatenate(users), np.concatenate(targets)
