"""Weights and network are learned from cases drawn by known ones; few cases leave the sum; padding says nothing."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.recommender.listwise import (
    DEFAULTS,
    NETWORKS,
    ListScorer,
    Network,
    Shortlist,
    best,
    held_out,
    learned_weights,
)
from model.recommender.methods.base import PAD, Floats, Ints

NAMES: Any = ["teacher", "item_knn"]
ITEMS = 10
TRUE_F = np.array([1.0, 0.5])


def drawn(users: int, score: Callable[[Floats], Floats], seed: int = 0) -> tuple[Shortlist, Ints]:
    """Shortlists, and targets drawn by their softmax of the score [B,C] of the signals."""
    rng = np.random.default_rng(seed)
    signals_BCF = rng.normal(size=(users, ITEMS, len(NAMES))).astype(np.float32)
    target_B = (score(signals_BCF) + rng.gumbel(size=(users, ITEMS))).argmax(axis=1)
    return Shortlist(np.tile(np.arange(ITEMS), (users, 1)), signals_BCF), target_B


def by_sum(signals_BCF: Floats) -> Floats:
    score_BC: Floats = signals_BCF @ TRUE_F
    return score_BC


def by_the_best(signals_BCF: Floats) -> Floats:
    """The first signal tells one thing only: which item is its best."""
    score_BC: Floats = 4.0 * (signals_BCF[..., 0] == signals_BCF[..., 0].max(axis=1, keepdims=True))
    return score_BC


def log_likelihood(score_BC: Floats, target_B: Ints) -> float:
    shifted_BC = score_BC - score_BC.max(axis=1, keepdims=True)
    log_BC = shifted_BC - np.log(np.exp(shifted_BC).sum(axis=1, keepdims=True))
    return float(np.take_along_axis(log_BC, target_B[:, None], axis=1).mean())


def test_weights_are_found_again() -> None:
    short, target_B = drawn(4000, by_sum)
    found = learned_weights(short, target_B, NAMES, penalty=5.0)
    np.testing.assert_allclose(list(found.values()), TRUE_F, atol=0.07)


@pytest.mark.parametrize("users", [0, 50])
def test_without_a_target_on_the_list_the_defaults_are_left(users: int) -> None:
    short, _ = drawn(users, by_sum)
    scorer = ListScorer.learned(short, np.full(users, 99), NAMES, penalty=5.0, seed=0)
    assert scorer.weights == {name: DEFAULTS[name] for name in NAMES}
    asked, _ = drawn(20, by_sum, seed=1)
    expected_BC = asked.signals_BCF @ np.array(list(scorer.weights.values()), np.float32)
    np.testing.assert_array_equal(scorer(asked), expected_BC)


def test_the_network_says_what_a_sum_cannot() -> None:
    scorer = ListScorer.learned(*drawn(3000, by_the_best), NAMES, penalty=5.0, seed=0)
    asked, target_B = drawn(2000, by_the_best, seed=1)
    sum_BC = asked.signals_BCF @ np.array(list(scorer.weights.values()))
    truth = log_likelihood(by_the_best(asked.signals_BCF), target_B)
    assert truth - 0.05 < log_likelihood(scorer(asked), target_B) < truth
    assert log_likelihood(sum_BC, target_B) < truth - 0.15


def test_a_case_is_held_out_of_what_ranks_it() -> None:
    short, target_B = drawn(300, by_sum)
    learn = partial(ListScorer.learned, names=NAMES, penalty=0.1, seed=0)
    lists_BK = held_out(short, target_B, learn, 5)
    odd_B = np.arange(300) % 2 == 1
    other_BK = held_out(short, np.where(odd_B, 9 - target_B, target_B), learn, 5)
    np.testing.assert_array_equal(other_BK[odd_B], lists_BK[odd_B])
    assert (other_BK[~odd_B] != lists_BK[~odd_B]).any()  # they have seen the others' targets


def test_the_network_is_a_mean_and_no_worse_than_its_parts() -> None:
    scorer, (asked, target_B) = _scorer(), drawn(500, by_the_best, seed=1)
    assert scorer.network is not None
    spread_F, *learned = scorer.network
    inner, bias, outer = (np.split(each, NETWORKS, axis=-1) for each in learned)
    parts = [
        replace(scorer, network=Network(spread_F, inner_IH, bias_H, outer_H * NETWORKS))(asked)
        for inner_IH, bias_H, outer_H in zip(inner, bias, outer, strict=True)
    ]
    np.testing.assert_allclose(scorer(asked), np.mean(parts, axis=0), atol=1e-5)
    likelihoods = [log_likelihood(part, target_B) for part in parts]
    assert len(set(likelihoods)) == NETWORKS, "they ended at the same place"
    assert log_likelihood(scorer(asked), target_B) > np.mean(likelihoods)


def test_few_cases_leave_the_sum() -> None:
    """By a sum they were drawn: what a network found beside would be noise."""
    short, target_B = drawn(60, by_sum)
    scorer = ListScorer.learned(short, target_B, NAMES, penalty=5.0, seed=0)
    assert scorer.network is not None
    assert np.abs(scorer.network(drawn(500, by_sum, seed=1)[0])).max() < 1e-3


@given(order=st.permutations(range(ITEMS)), padding=st.integers(0, 5))
@settings(max_examples=30, deadline=None)
def test_an_items_score_depends_on_no_order_and_no_padding(order: list[int], padding: int) -> None:
    scorer = _scorer()
    short, _ = drawn(3, by_sum, seed=2)
    items_BC = np.pad(short.items_BC[:, order], ((0, 0), (0, padding)), constant_values=PAD)
    signals_BCF = np.pad(short.signals_BCF[:, order], ((0, 0), (0, padding), (0, 0)), constant_values=7.0)
    np.testing.assert_allclose(
        scorer(Shortlist(items_BC, signals_BCF))[:, :ITEMS], scorer(short)[:, order], rtol=1e-5, atol=1e-5
    )


def test_what_is_kept_scores_the_same() -> None:
    scorer = _scorer()
    kept = ListScorer.of_json(json.loads(json.dumps(scorer.to_json(), sort_keys=True)), NAMES)
    short, _ = drawn(5, by_sum, seed=2)
    np.testing.assert_array_equal(kept(short), scorer(short))


@cache
def _scorer() -> ListScorer:
    return ListScorer.learned(*drawn(500, by_the_best), NAMES, penalty=1.0, seed=0)


def test_equal_scores_go_to_the_smaller_index_and_padding_last() -> None:
    items_BK, scores_BK = best(np.array([[9, 4, -1, 7]]), np.array([[1.0, 1.0, 5.0, 2.0]], np.float32), 5)
    assert items_BK.tolist() == [[7, 4, 9, -1, -1]]
    assert scores_BK[0, :3].tolist() == [2, 1, 1]


def test_scores_that_are_no_numbers_stand_in_the_list() -> None:
    """Behind padding they would not: the list would look as if nothing was allowed."""
    items_BC, score_BC = np.array([[PAD, 3, 1, PAD]]), np.array([[0.0, np.nan, 1.0, 0.0]], np.float32)
    items_BK, scores_BK = best(items_BC, score_BC, 3)
    assert items_BK.tolist() == [[1, 3, PAD]]
    assert np.isnan(scores_BK[0, 1])
