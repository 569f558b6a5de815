"""Codes are distinct, free, as cheap as can be inside a prefix, and do not depend on chance."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.tokenizer.assignment import assign_codes, fold, unfold
from model.tokenizer.quantizer import nearest_codes, nearest_prefixes, reconstruct, squared_distances

NONE = np.empty((0, 3), np.int64)
DIM = 5


def space(seed: int, codes: int, levels: int = 3) -> np.ndarray:
    """Centroids of ever finer levels."""
    scale_L11 = 0.5 ** np.arange(levels)[:, None, None]
    return np.random.default_rng(seed).normal(size=(levels, codes, DIM)) * scale_L11


def distinct(codes_NL: np.ndarray) -> bool:
    return len(np.unique(codes_NL, axis=0)) == len(codes_NL)


@given(st.integers(0, 10**6), st.integers(1, 64), st.sampled_from([0.0, 0.1, 1.0]), st.integers(1, 4))
@settings(max_examples=60, deadline=None)
def test_every_item_gets_a_code_of_its_own_until_the_space_is_full(
    seed: int, items: int, spread: float, candidates: int
) -> None:
    """Spread 0 makes all items one vector, 0.1 a single cloud around it."""
    x_NP = np.random.default_rng(seed).normal(size=(items, DIM)) * spread + 1.0
    codes_NL = assign_codes(x_NP, space(seed, codes=4), NONE, candidates)
    assert codes_NL.shape == (items, 3)
    assert codes_NL.min() >= 0
    assert codes_NL.max() < 4
    assert distinct(codes_NL)


@given(st.integers(0, 10**6), st.integers(0, 64), st.data())
@settings(max_examples=40, deadline=None)
def test_taken_codes_are_never_given_again(seed: int, taken: int, data: st.DataObject) -> None:
    items = data.draw(st.integers(0, 64 - taken))
    rng = np.random.default_rng(seed)
    taken_ML = unfold(rng.permutation(64)[:taken], 4, 3)
    codes_NL = assign_codes(rng.normal(size=(items, DIM)), space(seed, codes=4), taken_ML, candidates=2)
    assert distinct(np.concatenate([taken_ML, codes_NL]))


@given(st.integers(0, 10**6), st.integers(1, 4), st.integers(0, 1))
@settings(max_examples=40, deadline=None)
def test_inside_a_prefix_the_total_distance_is_the_least_possible(seed: int, items: int, taken: int) -> None:
    """Against every possible way, and so never worse than greedy; five codes, one of them perhaps taken."""
    centroids_LKP = space(seed, codes=5, levels=2)
    rng = np.random.default_rng(seed)
    x_NP = centroids_LKP[0, 0] + rng.normal(size=(items, DIM)) * 0.1
    near_NL = nearest_codes(x_NP, centroids_LKP)
    prefix = near_NL[0, 0]
    x_NP = x_NP[near_NL[:, 0] == prefix]
    taken_ML = np.array([[prefix, near_NL[0, 1]]])[:taken]
    codes_NL = assign_codes(x_NP, centroids_LKP, taken_ML, candidates=2)
    assert (codes_NL[:, 0] == prefix).all()

    cost_NK = squared_distances(x_NP - centroids_LKP[0, prefix], centroids_LKP[1])
    free = set(range(5)) - set(taken_ML[:, 1].tolist())
    every_way = itertools.permutations(free, len(x_NP))
    least = min(sum(cost_NK[item, code] for item, code in enumerate(way)) for way in every_way)
    assert cost_NK[np.arange(len(x_NP)), codes_NL[:, 1]].sum() == pytest.approx(least)


def test_items_without_rivals_keep_their_nearest_code() -> None:
    centroids_LKP = space(1, codes=8)
    codes_NL = unfold(np.arange(0, 512, 5), 8, 3)
    x_NP = reconstruct(codes_NL, centroids_LKP)
    near_NL = nearest_codes(x_NP, centroids_LKP)
    assert len(np.unique(near_NL, axis=0)) < len(x_NP)  # some do have rivals
    given_NL = assign_codes(x_NP, centroids_LKP, NONE, candidates=4)
    _, place, claims = np.unique(fold(near_NL, 8), return_inverse=True, return_counts=True)
    prefixes, rivals = np.unique(fold(near_NL[claims[place] > 1, :-1], 8), return_counts=True)
    assert rivals.max() <= 8  # so nobody spills
    alone_N = ~np.isin(fold(near_NL[:, :-1], 8), prefixes)
    np.testing.assert_array_equal(given_NL[alone_N], near_NL[alone_N])


def test_a_full_prefix_keeps_its_nearest_items_and_the_others_go_to_the_next() -> None:
    centroids_LKP = np.array([[[0.0], [1.0], [5.0]], [[-0.1], [0.0], [0.1]]])
    x_NP = np.array([[0.05], [0.4], [-0.1], [0.0]])
    codes_NL = assign_codes(x_NP, centroids_LKP, np.empty((0, 2), np.int64), candidates=1)
    np.testing.assert_array_equal(codes_NL, [[0, 2], [1, 0], [0, 0], [0, 1]])


def test_a_space_that_is_too_small_is_named() -> None:
    with pytest.raises(ValueError, match=r"60 items need a code beside the 5 .* 3 levels of 4 codes name only 64"):
        assign_codes(np.zeros((60, DIM)), space(0, codes=4), unfold(np.arange(5), 4, 3), candidates=4)


def test_the_beam_finds_the_nearest_prefixes() -> None:
    centroids_LKP = space(3, codes=6, levels=2)
    x_RP = np.random.default_rng(3).normal(size=(20, DIM))
    every_XL = unfold(np.arange(36), 6, 2)
    distance_RX = squared_distances(x_RP, reconstruct(every_XL, centroids_LKP))
    prefixes_RWL, distances_RW = nearest_prefixes(x_RP, centroids_LKP, width=50)
    np.testing.assert_allclose(distances_RW, np.sort(distance_RX, axis=1), atol=1e-12)
    np.testing.assert_array_equal(prefixes_RWL[:, 0], every_XL[distance_RX.argmin(1)])
    narrow_RWL, _ = nearest_prefixes(x_RP, centroids_LKP, width=3)
    assert narrow_RWL.shape == (20, 3, 2)


def test_many_equal_items_are_spread() -> None:
    """20,000 items of one vector fill 79 prefixes, one after the other."""
    codes_NL = assign_codes(np.zeros((20_000, DIM)), space(0, codes=256), NONE, candidates=16)
    assert distinct(codes_NL)
