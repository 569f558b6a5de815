"""Cases tell only of the past, and their negatives are nothing that the user takes."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.data.targets import TOO_MANY, user_numbers
from model.evaluation import lists
from model.evaluation.dataset import Interactions, Split
from model.evaluation.lists import write_training_set
from model.recommender.cases import Cases, Negatives, Windows, draw_cases
from model.recommender.methods.base import PAD
from model.recommender.tasks import OF_HISTORY, OF_USER, TASKS, Task

HISTORY, WINDOW = 3, 7
OWN = 12
"""User u takes items u * OWN … u * OWN + OWN - 1, so that an item says whose it is."""
OF_WINDOWS = [task for task in TASKS.values() if task.uses(OF_HISTORY)]
WITH_NEGATIVES = [task for task in OF_WINDOWS if task.others]

users = st.lists(st.lists(st.integers(0, OWN - 1), min_size=1, max_size=20), min_size=1, max_size=3)
seeds = st.integers(0, 2**32 - 1)


def interactions(walks: list[list[int]]) -> Interactions:
    items = np.concatenate([user * OWN + np.array(walk) for user, walk in enumerate(walks)])
    offset = np.cumsum([0, *map(len, walks)])
    names = [f"i{item}" for item in range(OWN * len(walks))]
    user_ids = [str(user) for user in range(len(walks))]
    return Interactions(user_ids, names, names, names, items, offset, np.zeros(len(items), np.int64), "")


def windows_of(data: Interactions) -> tuple[Windows, list[int]]:
    """The windows of all that the users do, as they are written, and the place of each window's first target."""
    none = np.empty(0, np.int64)
    with tempfile.TemporaryDirectory() as folder:
        write_training_set(Path(folder), data, Split("all", data.length_U, none, none), HISTORY, WINDOW, 0)
        table = pq.read_table(f"{folder}/sequences")
    lists = (np.array(table[name].to_pylist()) for name in ("items", "targets", "later"))
    windows = Windows(*lists, user_numbers(table["user_id"].to_numpy()))
    first: list[int] = []
    done: dict[str, int] = {}
    for user, targets in zip(table["user_id"].to_pylist(), windows.targets_BT, strict=True):
        first.append(done.get(user, 0))
        done[user] = first[-1] + int(targets.sum())
    return windows, first


def negatives_for(items: int, seed: int) -> Negatives:
    rng = np.random.default_rng(seed)
    attributes = np.column_stack([np.arange(items) // 2, rng.permutation(items) // 2])
    return Negatives(rng.integers(9, size=items), rng.integers(4, size=items), attributes)


def draw(task: Task, rows: int, windows: Windows, items: int, seed: int) -> Cases:
    return draw_cases(task, rows, windows, negatives_for(items, seed), items, HISTORY, np.random.default_rng(seed))


@settings(deadline=None)
@given(walks=users, task=st.sampled_from(WITH_NEGATIVES), rows=st.integers(0, 40), seed=seeds)
def test_no_negative_is_taken_by_the_user_then_or_later(
    walks: list[list[int]], task: Task, rows: int, seed: int
) -> None:
    data = interactions(walks)
    windows, first = windows_of(data)
    cases = draw(task, rows, windows, len(data.item_ids), seed)
    assert len(cases) <= rows
    for history, item, others in zip(cases.history_BH.tolist(), cases.item_B, cases.others_BO.tolist(), strict=True):
        user = int(item) // OWN
        future = data.before(user, int(data.length_U[user]))
        known = [other for other in history if other >= 0]
        allowed = []
        # Where a user repeats herself, several windows may have had this case.
        for window, targets, start in zip(windows.items_BT, windows.targets_BT, first, strict=True):
            places = np.flatnonzero((window == item) & (targets == 1))
            if any(window[max(place - HISTORY, 0) : place].tolist() == known for place in places):
                allowed.append(not set(others) & {*window.tolist(), *future[start:].tolist()})
        assert any(allowed)
        assert history == [-1] * (HISTORY - len(known)) + known


@settings(deadline=None)
@given(walks=users, task=st.sampled_from([task for task in TASKS.values() if task.others]), seed=seeds)
def test_negatives_differ_from_the_item_and_each_other(walks: list[list[int]], task: Task, seed: int) -> None:
    data = interactions(walks)
    items = len(data.item_ids)
    negatives = negatives_for(items, seed)
    windows, _ = windows_of(data)
    cases = draw_cases(task, 30, windows, negatives, items, HISTORY, np.random.default_rng(seed))
    assert cases.others_BO.shape == (len(cases), task.others)
    for item, others in zip(cases.item_B, cases.others_BO, strict=True):
        assert len({int(item), *others.tolist()}) == task.others + 1
        assert ((others >= 0) & (others < items)).all()
        attributes = negatives._attributes_NA
        assert (attributes[others] != attributes[item]).all()


@pytest.mark.parametrize("task", OF_WINDOWS, ids=lambda task: task.name)
def test_windows_with_too_much_to_name_get_no_negatives(task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lists, "LATER_ITEMS", 4)
    data = interactions([[*range(OWN)], [3, 4, 5] * 4])
    windows, _ = windows_of(data)
    # The newest window of a walk of many items has few to come.
    assert (windows.later_BX[:, 0] == TOO_MANY).tolist() == [True, True, False, False, False, False]
    crowded = Windows(*(each[:2] for each in vars(windows).values()))
    found = draw(task, 8, crowded, 2 * OWN, 0)
    assert len(found) == (0 if task.others else 8) or (task.uses(OF_USER) and (found.history_BH != PAD).any(1).all())
    histories = {tuple(row) for row in draw(task, 60, windows, 2 * OWN, 0).history_BH.tolist() if row[0] >= 0}
    early = {tuple(range(start, start + HISTORY)) for start in range(2)}
    assert bool(histories & early) == (not task.others)


@settings(deadline=None)
@given(walks=users, task=st.sampled_from(list(TASKS.values())), rows=st.integers(0, 20), seed=seeds)
def test_a_seed_gives_the_same_cases_again(walks: list[list[int]], task: Task, rows: int, seed: int) -> None:
    data = interactions(walks)
    windows, _ = windows_of(data)
    one, two = (draw(task, rows, windows, len(data.item_ids), seed) for _ in range(2))
    assert len(one) == len(two)
    for name, value in vars(one).items():
        both = zip(vars(value).values(), vars(two.windows).values(), strict=True) if name == "windows" else None
        assert all(np.array_equal(*each) for each in both or [(value, getattr(two, name))])


def test_each_window_comes_once_before_any_comes_again() -> None:
    windows, _ = windows_of(interactions([[*range(OWN)]] * 3))
    count = len(windows.items_BT)
    found = draw(TASKS["next_item"], 2 * count + 1, windows, 3 * OWN, 5).windows.items_BT
    for start in (0, count):
        assert np.unique(found[start : start + count], axis=0).shape == (count, WINDOW)
    assert len(found) == 2 * count + 1


@given(walks=users, share=st.floats(0, 0.99), seed=seeds)
def test_a_thinned_window_holds_some_of_its_items_in_their_order_and_a_target(
    walks: list[list[int]], share: float, seed: int
) -> None:
    windows, _ = windows_of(interactions(walks))
    thinned = windows.thinned(share, np.random.default_rng(seed))
    rows = zip(*(vars(each).values() for each in (windows, thinned)), strict=True)
    assert all(len(before) == len(after) for before, after in rows)
    for row in range(len(windows.items_BT)):
        both = [
            [(item, target) for item, target in zip(each.items_BT[row], each.targets_BT[row], strict=True) if item >= 0]
            for each in (windows, thinned)
        ]
        rest = iter(both[0])
        assert all(kept in rest for kept in both[1]), "not a subsequence"
        assert both[1][-1:] == both[0][-1:], "the last one is a target here, and stays"
        assert (thinned.items_BT[row][: len(both[1])] >= 0).all(), "padding stands behind"
        gone = {item for item, _ in both[0]} - {item for item, _ in both[1]}
        assert gone <= set(thinned.later_BX[row].tolist())


def test_every_target_of_a_window_is_asked_for() -> None:
    windows, _ = windows_of(interactions([[*range(OWN)]]))
    cases = draw(TASKS["items_to_next_title"], 300, windows, OWN, 0)
    assert set(cases.item_B.tolist()) == set(range(OWN))


@given(seed=seeds, others=st.integers(1, 3))
def test_candidates_are_the_item_at_its_place_among_the_others(seed: int, others: int) -> None:
    windows, _ = windows_of(interactions([[*range(OWN)]]))
    cases = draw(replace(TASKS["title_fits"], others=others), 30, windows, OWN, seed)
    for row, candidates in enumerate(cases.candidates):
        place, item = cases.place_B[row], cases.item_B[row]
        assert candidates[place] == item
        assert sorted(np.delete(candidates, place)) == sorted(cases.others_BO[row])
        assert cases.candidate[row] == (item if cases.is_item_B[row] else cases.others_BO[row, 0])


def test_the_item_stands_anywhere_and_the_answer_is_as_often_no() -> None:
    windows, _ = windows_of(interactions([[*range(OWN)]]))
    cases = draw(TASKS["choose_title"], 4000, windows, OWN, 0)
    assert np.bincount(cases.place_B) / len(cases) == pytest.approx([0.25] * 4, abs=0.03)
    assert cases.is_item_B.mean() == pytest.approx(0.5, abs=0.03)


def test_negatives_are_uniform_popular_and_alike_a_third_each() -> None:
    N, popular, rows = 1000, 20, 30_000
    count_N, item = np.where(np.arange(N) < popular, 10_000, 1), N - 1
    count_N[0] *= 16
    first_N = np.arange(N) * 7 % 10
    negatives = Negatives(count_N, first_N, np.arange(N)[:, None])
    never_BX = np.empty((rows, 0), np.int64)
    found = negatives.draw(np.random.default_rng(0), np.full(rows, item), never_BX, 1).ravel()
    assert found.min() >= 0
    assert (first_N[found] == first_N[item]).mean() == pytest.approx((1 + 0.1 + 0.1) / 3, abs=0.02)
    weight = popular - 1 + 8  # 16 ** .75 == 8
    share = weight / (weight + (N - popular) / 1000)  # 10_000 ** .75 == 1000
    assert (found < popular).mean() == pytest.approx((share + 2 * popular / N) / 3, abs=0.02)
    assert (found == 0).sum() / (found == 1).sum() == pytest.approx(8, rel=0.25)
