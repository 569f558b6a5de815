"""Neighbour preservation: pairs by co-occurrence, and a chance that random codes really have."""

from __future__ import annotations

import numpy as np
import pytest

from model.tokenizer.neighbours import preservation, together


def test_pairs_are_the_items_most_often_taken_together() -> None:
    baskets = [[0, 1, 2], [0, 1], [1, 3], [0, 1, 1]]
    user_E = np.repeat(np.arange(4), [len(basket) for basket in baskets])
    item_P, near_P = together(user_E, np.concatenate(baskets), 5)
    pairs = [near_P[item_P == item].tolist() for item in range(5)]
    assert pairs == [[1, 2], [0, 2, 3], [0, 1], [1], []]


def test_random_codes_of_the_same_sizes_have_the_ratio_of_one() -> None:
    rng = np.random.default_rng(0)
    codes_NL = np.column_stack([rng.integers(0, 4, 400) ** 2, rng.integers(0, 3, 400)])
    item_P, near_P = rng.integers(0, 400, (2, 20_000))
    item_P, near_P = item_P[item_P != near_P], near_P[item_P != near_P]
    rounds = [preservation(rng.permutation(codes_NL), item_P, near_P) for _ in range(20)]
    for depth in range(2):
        assert np.mean([each[depth]["ratio"] for each in rounds]) == pytest.approx(1, abs=0.02)


def test_codes_that_follow_the_pairs_keep_them_all() -> None:
    codes_NL = np.array([[0, 0], [0, 0], [0, 1], [1, 0], [1, 0]])
    u, uv = preservation(codes_NL, np.array([0, 1, 3]), np.array([1, 0, 4]))
    assert (u["share"], uv["share"]) == (1, 1)
    assert u["by_chance"] == pytest.approx((3 * 2 + 2 * 1) / 20)
    assert uv["by_chance"] == pytest.approx((2 * 1 + 2 * 1) / 20)
