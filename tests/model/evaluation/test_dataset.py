"""Data folders: what is read, how it is split, and what is said of a folder that is wrong."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from model.evaluation.dataset import (
    Interactions,
    fit_mask,
    leave_one_out,
    read_folder,
    shuffle_ties,
    temporal,
    validation_of,
)
from tests.model.evaluation.conftest import DAY, write_folder

ITEM = {"item_id": "a", "title": "A"}


def test_interactions_come_in_the_order_of_their_place(data: Interactions) -> None:
    assert data.user_ids[:3] == ["0", "1", "10"]
    for user, user_id in enumerate(data.user_ids):
        number = int(user_id)
        items = [data.item_ids[item] for item in data.before(user, int(data.length_U[user]))]
        assert items == [str((number + place * (1 + number % 3)) % 25) for place in range(len(items))]
    assert data.titles[data.item_ids.index("7")] == "Item 7"


def test_leave_one_out_asks_for_the_last_and_learns_from_all_but_two(data: Interactions) -> None:
    split = leave_one_out(data)
    assert (split.case_place_C == data.length_U[split.case_user_C] - 1).all()
    assert (split.fit_U == data.length_U - 2).all()
    assert fit_mask(data, split).sum() == split.fit_U.sum()
    assert (validation_of(split).case_place_C == split.fit_U[split.case_user_C]).all()


def test_a_temporal_split_learns_nothing_from_after_its_cut(data: Interactions) -> None:
    split = temporal(data, 0.2)
    learnt = data.time_E[fit_mask(data, split)]
    asked = data.time_E[data.offset_U1[split.case_user_C] + split.case_place_C]
    assert learnt.max() < asked.min()
    assert asked.min() % DAY == 0
    assert (split.case_place_C > 0).all()
    later = (data.time_E >= asked.min()).sum()
    firsts = (data.time_E[data.offset_U1[:-1]] >= asked.min()).sum()
    assert len(asked) == later - firsts


def test_users_with_an_unknown_time_are_left_out_of_a_temporal_split(tmp_path: Path) -> None:
    rows = [f"{user},a,{place},{place * DAY}" for user in "uv" for place in range(10)]
    data = read_folder(write_folder(tmp_path / "data", [*rows, "w,a,0,", "w,a,1,86400"], [ITEM]))
    split = temporal(data, 0.3)
    assert split.dropped_users == 1
    assert split.fit_U[data.user_ids.index("w")] == 0
    assert data.user_ids.index("w") not in split.case_user_C


def test_shuffled_ties_stay_in_their_day(data: Interactions) -> None:
    shuffled = shuffle_ties(data, 3)
    assert (shuffled.item_E != data.item_E).any()
    assert (shuffled.time_E == data.time_E).all()
    for start, end in zip(data.offset_U1[:-1], data.offset_U1[1:], strict=True):
        for time in np.unique(data.time_E[start:end]):
            of_day = np.flatnonzero(data.time_E[start:end] == time) + start
            assert sorted(shuffled.item_E[of_day]) == sorted(data.item_E[of_day])
    assert (shuffle_ties(data, 3).item_E == shuffled.item_E).all()
    assert shuffled.digest != data.digest


@pytest.mark.parametrize(
    ("rows", "items", "words"),
    [
        (["u,b,0,0"], [ITEM], "item_id b has no row in items.jsonl.gz"),
        (["u,a,0,0"], [ITEM, ITEM], "1 item_id stand there more than once"),
        (["u,a,0,0"], [{"item_id": "a"}], "items.jsonl.gz has no column title; it has item_id"),
        (["u,a,0,0,1"], [ITEM], "interactions.csv.gz cannot be read"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, rows: list[str], items: list[dict[str, object]], words: str) -> None:
    with pytest.raises(ValueError, match=words.replace(".", r"\.")):
        read_folder(write_folder(tmp_path / "data", rows, items))
    with pytest.raises(ValueError, match=r"nowhere/items\.jsonl\.gz does not exist.*data_format\.md"):
        read_folder(tmp_path / "nowhere")


def test_a_temporal_split_needs_times(tmp_path: Path) -> None:
    items: list[dict[str, object]] = [{"item_id": item, "title": item} for item in "ab"]
    data = read_folder(write_folder(tmp_path, ["1,a,0,", "1,b,1,"], items))
    with pytest.raises(ValueError, match="times are all known"):
        temporal(data)
