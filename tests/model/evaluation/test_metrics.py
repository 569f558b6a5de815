"""Metrics against ranx, intervals against known distributions."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.evaluation.metrics import comparisons, estimates, hit_rate, mrr, ndcg, per_user_mean, rank_of_target


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), k=st.sampled_from([1, 5, 10]))
def test_equal_to_ranx(seed: int, k: int) -> None:
    from ranx import Qrels, Run, evaluate

    generator = np.random.default_rng(seed)
    lists_CK = np.array([generator.permutation(30)[:10] for _ in range(12)])
    target_C = generator.integers(0, 30, 12)
    rank_C = rank_of_target(lists_CK, target_C)
    qrels = Qrels({str(c): {str(target): 1} for c, target in enumerate(target_C)})
    run = Run({str(c): {str(item): 10.0 - place for place, item in enumerate(row)} for c, row in enumerate(lists_CK)})
    expected = evaluate(qrels, run, [f"hit_rate@{k}", f"ndcg@{k}", f"mrr@{k}"])
    assert hit_rate(rank_C, k).mean() == pytest.approx(expected[f"hit_rate@{k}"])
    assert ndcg(rank_C, k).mean() == pytest.approx(expected[f"ndcg@{k}"])
    assert mrr(rank_C, k).mean() == pytest.approx(expected[f"mrr@{k}"])


def test_each_user_weighs_the_same() -> None:
    value_C = np.array([1.0, 1.0, 1.0, 0.0, 0.5])
    user_C = np.array(["b", "b", "b", "a", "a"], dtype=object)
    assert per_user_mean(value_C, user_C).tolist() == [0.25, 1.0]


def test_interval_covers_the_mean_and_narrows_with_users() -> None:
    generator = np.random.default_rng(0)
    few, many = (estimates({"x": generator.random(users)})["x"] for users in (50, 5000))
    for one in (few, many):
        assert one.low < one.mean < one.high
    assert many.high - many.low < (few.high - few.low) / 5


def test_paired_comparison_sees_a_small_shift_that_intervals_hide() -> None:
    base_U = np.random.default_rng(1).random(200)
    same, other = {"x": base_U}, {"x": base_U + 0.01}
    comparison = comparisons(other, same)["x"]
    assert comparison.better
    assert comparison.mean == pytest.approx(0.01)
    assert not comparisons(same, same)["x"].better
    assert comparisons(same, same)["x"].p_value == 1.0


def test_errors_say_what_is_wrong() -> None:
    with pytest.raises(ValueError, match="must have the same users: 3 and 2"):
        comparisons({"x": np.zeros(3)}, {"x": np.zeros(2)})
    with pytest.raises(ValueError, match="no test users"):
        estimates({"x": np.zeros(0)})
