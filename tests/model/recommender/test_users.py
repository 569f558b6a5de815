"""Codes of users: of what came before alone, and the same wherever they are asked for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.data.files import save_tensors
from model.data.targets import user_numbers
from model.recommender.methods.base import PAD, Ints
from model.recommender.users import (
    BUYERS_PER_ITEM,
    NAMED_BUYERS,
    STATES_FILE,
    USERS_FOLDER,
    VIEWS_FILE,
    Buyers,
    Prefixes,
    UserCoder,
    Views,
    read_prefixes,
)
from tests.model.recommender.conftest import ITEMS, user_coder

CODER = user_coder(ITEMS)
histories = st.lists(st.integers(0, ITEMS - 1), max_size=6)


def padded(*rows: list[int], to: int = 6) -> Ints:
    return np.array([[PAD] * (to - len(row)) + row for row in rows])


def test_a_history_is_the_mean_of_what_is_known_of_its_items() -> None:
    views = Views(
        np.array([[1, 0], [3, 4], [5, 5]], np.float32),
        np.array([[1], [2], [9]], np.float32),
        np.array([True, True, False]),
    )
    found = views.of_histories(np.array([[0, 1], [1, 2], [2, PAD], [PAD, PAD], [1, 1]]))
    assert found.text_NE.tolist() == [[2, 2], [4, 4.5], [5, 5], [0, 0], [3, 4]]
    assert found.behaviour_ND.tolist() == [[1.5], [2], [0], [0], [2]]
    assert found.has_behaviour_N.tolist() == [True, True, False, False, True]


@settings(deadline=None)
@given(st.lists(histories, min_size=1, max_size=5))
def test_a_code_depends_on_the_history_alone(rows: list[list[int]]) -> None:
    together = CODER.codes(padded(*rows))
    for row, codes_L in zip(rows, together, strict=True):
        assert np.array_equal(CODER.codes(padded(row, to=9))[0], codes_L)
        assert (codes_L == PAD).all() == (not row)


def test_a_coder_comes_back_from_its_files_with_items_of_later(tmp_path: Path) -> None:
    CODER.items.save(f"{tmp_path}/codebook/{VIEWS_FILE}")
    CODER.tower.save(f"{tmp_path}/codebook/{USERS_FOLDER}")
    later_NE = np.ones((2, 6), np.float32)
    save_tensors(f"{tmp_path}/more/{STATES_FILE}", {"text": later_NE})
    again = UserCoder.load(f"{tmp_path}/codebook", [f"{tmp_path}/more"])
    assert len(again.items.text_NE) == ITEMS + 2
    assert not again.items.has_behaviour_N[ITEMS:].any()
    history_BH = padded([3, 4], [5, 0, 29], [])
    assert np.array_equal(again.codes(history_BH), CODER.codes(history_BH))
    assert (again.codes(padded([ITEMS, ITEMS + 1])) >= 0).all()


def write_windows(folder: Path, windows: list[tuple[list[int], list[int]]]) -> str:
    lists = pa.list_(pa.int32())
    columns = {
        "user_id": [f"u{user}" for user in range(len(windows))],
        "items": pa.array([items for items, _ in windows], lists),
        "targets": pa.array([targets for _, targets in windows], lists),
    }
    (folder / "sequences").mkdir(parents=True)
    pq.write_table(pa.table(columns), folder / "sequences/part-0.parquet")
    return str(folder)


def test_buyers_are_known_by_what_they_took_before(tmp_path: Path) -> None:
    """The leak test: nobody's code may hold the item itself, nor what came after it, nor what is no target."""
    windows = [([7, 8, 9, PAD], [0, 1, 1, 0]), ([9, 7, 8, 5], [1, 1, 1, 0])]
    prefixes = read_prefixes(write_windows(tmp_path, windows), history_items=2)
    found = [
        (item, [each for each in history if each != PAD])
        for item, history in zip(prefixes.item_V, prefixes.history_VH.tolist(), strict=True)
    ]
    assert found == [(8, [7]), (9, [7, 8]), (7, [9]), (8, [9, 7])]
    assert prefixes.user_V.tolist() == user_numbers(np.array(["u0", "u0", "u1", "u1"], object)).tolist()


def test_who_takes_an_item_again_is_not_named_as_another(tmp_path: Path) -> None:
    """The user's own future would stand in the prompt."""
    windows = [([7, 8, 9, 8], [0, 1, 1, 1]), ([5, 6, 8, PAD], [0, 1, 1, 0])]
    buyers = Buyers(read_prefixes(write_windows(tmp_path, windows), history_items=3))
    user_B = user_numbers(np.array(["u0", "u1"], object))
    drawn_BUH = buyers.draw(np.random.default_rng(0), np.array([8, 8]), user_B)
    named = [[history for history in each if max(history) != PAD] for each in drawn_BUH.tolist()]
    assert named == [[[PAD, 5, 6]], [[PAD, PAD, 7]]]


@given(seed=st.integers(0, 99), count=st.integers(0, 20))
def test_a_user_is_not_named_as_another(seed: int, count: int) -> None:
    rng = np.random.default_rng(seed)
    item_V, user_V, user_B = rng.integers(3, size=count), rng.integers(12, size=count), rng.integers(12, size=8)
    history_VH = np.column_stack([np.arange(count), user_V])  # says whose it is
    item_B = rng.integers(4, size=8)
    drawn_BUH = Buyers(Prefixes(item_V, user_V, history_VH)).draw(rng, item_B, user_B)
    assert drawn_BUH.shape == (8, NAMED_BUYERS, 2)
    for item, own, drawn_UH in zip(item_B, user_B, drawn_BUH.tolist(), strict=True):
        kept = sorted(set(user_V[item_V == item].tolist()))[:BUYERS_PER_ITEM]
        named = [user for _, user in drawn_UH if user != PAD]
        assert len(set(named)) == len(named) == min(len(set(kept) - {own}), NAMED_BUYERS)
        assert set(named) <= set(kept) - {own}
        firsts = (np.flatnonzero((item_V == item) & (user_V == user))[0] for user in named)
        assert [place for place, user in drawn_UH if user != PAD] == list(firsts)


@pytest.mark.parametrize("items", [0, 3])
def test_there_need_be_no_buyer(items: int) -> None:
    buyers = Buyers(Prefixes(np.zeros(items, np.int64), np.arange(items), np.zeros((items, 2), np.int64)))
    assert (buyers.draw(np.random.default_rng(0), np.array([5]), np.array([9])) == PAD).all()
