"""1 of 20: hits over all answers and over the valid ones; the same candidates for all methods."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks.choices import Cases, draw, ranked_first, table_of
from model.evaluation.baselines import PopularityRanker
from model.evaluation.dataset import leave_one_out, read_folder
from tests.model.evaluation.conftest import write_folder


def test_an_answer_that_is_no_candidate_counts_against_the_hits_over_all() -> None:
    place_B = np.array([3, 0, 7, 19])
    _, figures = table_of({"one": np.array([3, -1, 7, 2])}, place_B)
    assert {figure.name: figure.value for figure in figures} == {
        "quality.choices.one_hit_ratio1": 0.5,
        "quality.choices.one_hit_ratio1_of_valid": pytest.approx(2 / 3),
        "quality.choices.one_valid_ratio": 0.75,
    }


def test_a_ranker_of_all_items_picks_the_candidate_it_likes_best() -> None:
    """Item 9 is the most popular, of all and of some candidates; the others' best stands elsewhere among theirs."""
    candidates_BC = np.array([[3, 7, 1], [8, 2, 5], [9, 0, 4]])
    cases = Cases(np.zeros((3, 2), np.int64), candidates_BC, np.zeros(3, np.int64))
    assert ranked_first(PopularityRanker(np.arange(10)), cases, 10).tolist() == [1, 0, 0]


def test_candidates_are_the_target_and_items_never_taken(tmp_path: Path) -> None:
    rows = [f"{user},{(user + place) % 80},{place},{place * 86_400}" for user in range(80) for place in range(6)]
    items: list[dict[str, object]] = [{"item_id": item, "title": f"Item {item}"} for item in range(80)]
    data = read_folder(write_folder(tmp_path, rows, items))
    split = leave_one_out(data)
    cases, again = draw(data, split, 20), draw(data, split, 20)
    assert all(np.array_equal(one, other) for one, other in zip(cases, again, strict=True))
    for user, candidates_C, place in zip(split.case_user_C, cases.candidates_BC, cases.place_B, strict=True):
        taken = set(data.item_E[data.offset_U1[user] : data.offset_U1[user + 1]].tolist())
        assert set(candidates_C.tolist()) & taken == {int(candidates_C[place])}
        assert len(set(candidates_C.tolist())) == 20


def test_too_few_items_are_an_error(tmp_path: Path) -> None:
    rows = [f"{user},{(user + place) % 12},{place},{place * 86_400}" for user in range(12) for place in range(6)]
    items: list[dict[str, object]] = [{"item_id": item, "title": f"Item {item}"} for item in range(12)]
    data = read_folder(write_folder(tmp_path, rows, items))
    with pytest.raises(ValueError, match="19 others cannot be drawn: more items are needed"):
        draw(data, leave_one_out(data), 20)
