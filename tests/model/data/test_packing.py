"""Packing loses no token, mixes no examples and wastes little room."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.data.packing import batches_of_similar_length, pack

ROW = 16


@given(st.lists(st.integers(1, ROW), max_size=40))
def test_every_token_stands_once_and_examples_stay_apart(lengths: list[int]) -> None:
    layout = pack(np.array(lengths, np.int64), ROW)
    token_F = np.arange(1, sum(lengths) + 1)
    row_RP, block_RP, position_RP = layout.spread(token_F), layout.block_RP, layout.position_RP
    assert row_RP.shape == block_RP.shape == position_RP.shape
    assert sorted(row_RP[row_RP > 0].tolist()) == token_F.tolist()
    padding_RP = block_RP == 0
    assert not row_RP[padding_RP].any()
    assert not position_RP[padding_RP].any()
    start = 0
    for example, length in enumerate(lengths, start=1):
        row, place = np.nonzero(block_RP == example)
        assert set(row.tolist()) == {row[0]}
        assert place.tolist() == list(range(place[0], place[0] + length))
        assert position_RP[row[0], place].tolist() == list(range(length))
        assert row_RP[row[0], place].tolist() == token_F[start : start + length].tolist()
        start += length


@given(st.lists(st.integers(1, ROW), min_size=1, max_size=40))
def test_rows_are_few_and_no_longer_than_the_fullest(lengths: list[int]) -> None:
    filled_R = (pack(np.array(lengths), ROW).block_RP > 0).sum(1)
    assert 0 < filled_R.max() <= ROW
    assert pack(np.array(lengths), ROW).block_RP.shape[1] == filled_R.max()
    # Of two rows at most half full, the second would never have been begun.
    assert (2 * filled_R <= ROW).sum() <= 1


def test_the_longest_come_first() -> None:
    layout = pack(np.array([3, 5, 2, 6]), 8)
    assert layout.block_RP.tolist() == [[4, 4, 4, 4, 4, 4, 3, 3], [2, 2, 2, 2, 2, 1, 1, 1]]


def test_no_examples_make_no_rows() -> None:
    layout = pack(np.empty(0, np.int64), ROW)
    assert layout.block_RP.shape == layout.position_RP.shape == (0, 0)
    assert layout.place_F.size == 0


def test_an_example_longer_than_a_row_is_refused() -> None:
    with pytest.raises(ValueError, match=r"has 17 tokens, a row 16\. Raise finetune\.row_tokens"):
        pack(np.array([3, ROW + 1]), ROW)


def test_batches_fill_the_budget_with_prompts_of_similar_length() -> None:
    length_B = np.array([3, 9, 1, 9, 4, 40])
    batches = [rows.tolist() for rows in batches_of_similar_length(length_B, extra=1, most=20)]
    assert batches == [[5], [1, 3], [4, 0, 2]]
