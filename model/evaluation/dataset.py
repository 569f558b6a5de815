"""Interactions of users with items, in order, from a folder in the format of docs/data_format.md; and their splits.

A split names its test cases by place in a user's sequence: everything before the place is the history of the case. So
no list of a user is held twice, and what is written to files says all there is to know.

Shapes: E interactions, U users, N items, C cases.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.json

Ints = npt.NDArray[np.int64]

INTERACTIONS, ITEMS = "interactions.csv.gz", "items.jsonl.gz"
NO_TIME = np.iinfo(np.int64).min
SECONDS_PER_DAY = 86_400


@dataclass(frozen=True)
class Interactions:
    """Every user's items, oldest first, users and items numbered in the order of their ids."""

    user_ids: list[str]
    item_ids: list[str]
    titles: list[str]
    texts: list[str]
    """A title and, behind it, the names of the item's categories where the data has them."""
    item_E: Ints
    offset_U1: Ints
    """[U+1]: user u's interactions are offset_U1[u] … offset_U1[u+1] - 1."""
    time_E: Ints
    """Seconds since 1970, UTC; NO_TIME where the data has none."""
    digest: str
    """sha256 over what was read: the data behind a number."""

    @property
    def length_U(self) -> Ints:  # noqa: N802  a shape
        return np.diff(self.offset_U1)

    def before(self, user: int, place: int) -> Ints:
        """The user's items before that place, oldest first."""
        start = self.offset_U1[user]
        return self.item_E[start : start + place]


@dataclass(frozen=True)
class Split:
    """Which interactions models may learn from, and which they are asked about."""

    name: str
    fit_U: Ints
    """Models learn from a user's first so many interactions."""
    case_user_C: Ints
    case_place_C: Ints
    """The target's place in its user's sequence; what stands before it is the history."""
    dropped_users: int = 0
    """Users left out because times are missing."""


def read_folder(folder: Path) -> Interactions:
    """Raises ValueError naming the file and what is wrong: a missing column, an id twice, an item without its row."""
    items = _read(folder / ITEMS, pyarrow.json.read_json, ["item_id", "title"])
    rows = _read(folder / INTERACTIONS, pyarrow.csv.read_csv, ["user_id", "item_id", "seq_pos", "timestamp"])
    item_ids, user_ids = (sorted(set(_strings(table, name))) for table, name in ((items, "item_id"), (rows, "user_id")))
    if len(item_ids) != len(items):
        raise ValueError(f"{folder / ITEMS}: {len(items) - len(item_ids)} item_id stand there more than once.")
    titles = dict(zip(_strings(items, "item_id"), items["title"].to_pylist(), strict=True))
    texts = dict(zip(_strings(items, "item_id"), _texts(items), strict=True))
    item_E = _numbered(_strings(rows, "item_id"), item_ids, f"{folder / INTERACTIONS}: item_id", ITEMS)
    user_E = _numbered(_strings(rows, "user_id"), user_ids, f"{folder / INTERACTIONS}: user_id", INTERACTIONS)
    order_E = np.lexsort((rows["seq_pos"].to_numpy(), user_E))
    time_E = pc.fill_null(pc.cast(rows["timestamp"], pa.int64()), NO_TIME).to_numpy()
    counts_U = np.bincount(user_E, minlength=len(user_ids))
    return Interactions(
        user_ids,
        item_ids,
        [titles[item] or "" for item in item_ids],
        [texts[item] for item in item_ids],
        item_E[order_E],
        np.concatenate([[0], np.cumsum(counts_U)]),
        time_E[order_E],
        _digest(folder / INTERACTIONS, folder / ITEMS),
    )


def shuffle_ties(data: Interactions, seed: int) -> Interactions:
    """The same interactions, with those of a user that bear the same known time in a random order."""
    user_E = np.repeat(np.arange(len(data.user_ids)), data.length_U)
    place_E = np.arange(data.item_E.size)
    starts_E = np.ones(data.item_E.size, bool)  # of a run of one user and one known time
    same = (user_E[1:] == user_E[:-1]) & (data.time_E[1:] == data.time_E[:-1]) & (data.time_E[1:] != NO_TIME)
    starts_E[1:] = ~same
    run_E = np.cumsum(starts_E)
    order_E = np.lexsort((np.random.default_rng(seed).random(place_E.size), run_E))
    return replace(data, item_E=data.item_E[order_E], digest=f"{data.digest}, ties shuffled by seed {seed}")


def leave_one_out(data: Interactions) -> Split:
    """Test: each user's last interaction. Models learn from all but the last two: one is left to validate on."""
    users_C = np.flatnonzero(data.length_U >= 3)
    return Split("leave_one_out", np.maximum(data.length_U - 2, 0), users_C, data.length_U[users_C] - 1)


def validation_of(split: Split) -> Split:
    """The same users, asked about the interaction before: what settings are chosen by."""
    return replace(split, name=f"{split.name}, validation", case_place_C=split.case_place_C - 1)


def temporal(data: Interactions, test_share: float = 0.1) -> Split:
    """Test: every interaction of the newest `test_share` of the time line that has a history; the rest is learnt from.

    The cut is the start of a day, UTC. Users with an unknown time are left out; ValueError when that leaves nobody.
    """
    unknown_U = np.add.reduceat(data.time_E == NO_TIME, data.offset_U1[:-1]) > 0
    known_E = np.repeat(~unknown_U, data.length_U)
    if not known_E.any():
        raise ValueError("A temporal split needs users whose times are all known, and here is none.")
    cut = np.quantile(data.time_E[known_E], 1 - test_share) // SECONDS_PER_DAY * SECONDS_PER_DAY
    user_E = np.repeat(np.arange(len(data.user_ids)), data.length_U)
    place_E = np.arange(data.item_E.size) - data.offset_U1[user_E]
    later_E = known_E & (data.time_E >= cut)
    fit_U = np.where(unknown_U, 0, np.bincount(user_E[~later_E], minlength=len(data.user_ids)))
    case_E = np.flatnonzero(later_E & (place_E > 0))
    return Split("temporal", fit_U, user_E[case_E], place_E[case_E], int(unknown_U.sum()))


def fit_mask(data: Interactions, split: Split) -> npt.NDArray[np.bool_]:
    """[E]: whether models may learn from the interaction."""
    place_E = np.arange(data.item_E.size) - np.repeat(data.offset_U1[:-1], data.length_U)
    mask_E: npt.NDArray[np.bool_] = place_E < np.repeat(split.fit_U, data.length_U)
    return mask_E


def _read(file: Path, reader: object, columns: list[str]) -> pa.Table:
    if not file.is_file():
        raise ValueError(f"{file} does not exist. What a data folder holds: docs/data_format.md")
    try:
        table = reader(pa.input_stream(str(file)))  # type: ignore[operator]
    except pa.ArrowInvalid as error:
        raise ValueError(f"{file} cannot be read: {error}") from None
    if missing := [name for name in columns if name not in table.column_names]:
        raise ValueError(f"{file} has no column {', '.join(missing)}; it has {', '.join(table.column_names)}.")
    return table


def _strings(table: pa.Table, column: str) -> list[str]:
    values: list[str] = pc.cast(table[column], pa.string()).to_pylist()
    return values


def _texts(items: pa.Table) -> list[str]:
    """ "title. category, category": each once, in the order of the paths."""
    titles = items["title"].to_pylist()
    paths = items["categories"].to_pylist() if "categories" in items.column_names else [None] * len(titles)
    names = [", ".join(dict.fromkeys(name for path in of_item or () for name in path)) for of_item in paths]
    return [". ".join(part for part in parts if part) for parts in zip(titles, names, strict=True)]


def _numbered(values: list[str], ids: list[str], what: str, where: str) -> Ints:
    number = {one: index for index, one in enumerate(ids)}
    unknown = next((one for one in values if one not in number), None)
    if unknown is not None:
        raise ValueError(f"{what} {unknown} has no row in {where}.")
    return np.fromiter((number[one] for one in values), np.int64, len(values))


def _digest(*files: Path) -> str:
    parts = {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
