"""Ranked lists on disk: complete, the same twice, and what is counted from them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from model.evaluation import lists
from model.evaluation.beyond import Exposure, beyond, segments
from model.evaluation.dataset import Interactions, Split, leave_one_out, temporal, validation_of
from model.evaluation.lists import SEQUENCES, write_cases, write_lists, write_training_set
from model.evaluation.scored import ScoreRanker


def test_every_case_has_its_list_under_both_protocols(data: Interactions, tmp_path: Path) -> None:
    split = leave_one_out(data)
    weight_N = np.arange(len(data.item_ids), dtype=np.float32)
    ranker = ScoreRanker(lambda history_BH: np.tile(weight_N, (len(history_BH), 1)), np.zeros(len(weight_N), np.int64))
    files = [tmp_path / name for name in ("one.parquet", "two.parquet")]
    for file in files:
        write_lists(file, "by_index", ranker, data, split, history_items=20, k=5)
    assert files[0].read_bytes() == files[1].read_bytes()

    rows = pq.read_table(files[0]).to_pylist()
    assert len(rows) == 2 * split.case_user_C.size
    for row in rows:
        user, place = data.user_ids.index(row["user_id"]), int(row["key"].partition("#")[2]) - 1
        seen = {data.item_ids[item] for item in data.before(user, place)} if row["masked"] else set()
        best = [item for item in reversed(data.item_ids) if item not in seen][:5]
        assert row["item_ids"] == best
        assert row["target"] == data.item_ids[data.item_E[data.offset_U1[user] + place]]
        assert row["rank"] == (best.index(row["target"]) if row["target"] in best else -1)

    write_cases(tmp_path / "cases.parquet", data, split)
    cases = pq.read_table(tmp_path / "cases.parquet")
    assert cases["key"].to_pylist() == [row["key"] for row in rows if row["masked"]]


def test_windows_hold_each_interaction_as_a_target_once(data: Interactions, tmp_path: Path) -> None:
    split = leave_one_out(data)
    write_training_set(tmp_path, data, split, 4, 9, 0)
    assert pq.read_table(tmp_path / "validation").num_rows == 0
    targets: dict[str, list[int]] = {}
    for row in pq.read_table(tmp_path / "sequences").to_pylist():
        assert len(row["items"]) == len(row["targets"]) == 9
        found = [item for item, target in zip(row["items"], row["targets"], strict=True) if target]
        targets.setdefault(row["user_id"], []).extend(found)
    for user, fit in enumerate(split.fit_U):
        assert targets.get(data.user_ids[user], []) == data.before(user, int(fit)).tolist()


@pytest.mark.parametrize("most", [3, 25])
def test_later_is_all_from_the_first_target_on(
    data: Interactions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    monkeypatch.setattr(lists, "LATER_ITEMS", most)
    split = leave_one_out(data)
    write_training_set(tmp_path, data, split, 4, 9, 200)
    table = pq.read_table(tmp_path / "sequences")
    assert table.schema.equals(SEQUENCES)
    first: dict[str, int] = {}
    overflows = 0
    for row in table.to_pylist():
        user = data.user_ids.index(row["user_id"])
        known = data.before(user, int(split.fit_U[user]))
        future = sorted(set(known[first.get(row["user_id"], 0) :].tolist()))
        named = [-2] if len(future) > most else future
        overflows += len(future) > most
        assert row["later"] == named + [-1] * (most - len(named))
        first[row["user_id"]] = first.get(row["user_id"], 0) + sum(row["targets"])
    assert (overflows > 0) == (most < 25)


def test_what_the_split_leaves_aside_is_kept_to_validate_on(data: Interactions, tmp_path: Path) -> None:
    split = leave_one_out(data)
    for folder, users in (("none", 0), ("two", 2), ("all", 200)):
        write_training_set(tmp_path / folder, data, split, 4, 9, users)
    cases = {name: pq.read_table(tmp_path / name / "validation") for name in ("none", "two", "all")}
    known = int((split.fit_U > 0).sum())
    assert [table.num_rows for table in cases.values()] == [0, 2, known]
    assert len({repr(table.schema) for table in cases.values()}) == 1
    assert cases["all"].slice(0, 2).equals(cases["two"])
    whole, kept = (pq.read_table(tmp_path / name / "sequences") for name in ("none", "all"))
    assert whole.equals(kept)  # no window is cut

    newest_first = []
    for user in split.case_user_C:
        *before, target, _ = data.before(user, int(data.length_U[user])).tolist()
        time = int(data.time_E[data.offset_U1[user] + len(before)])
        newest_first.append((time, before[-4:] + [-1] * (4 - len(before)), target))
    newest_first.sort(reverse=True)
    for (time, *_), case in zip(newest_first, cases["all"].to_pylist(), strict=True):
        assert (time, case["items"], case["target"]) in newest_first


@pytest.mark.parametrize("part", [temporal, lambda data: validation_of(leave_one_out(data))])
def test_a_split_that_leaves_nothing_aside_has_nothing_to_validate_on(
    part: Callable[[Interactions], Split], data: Interactions, tmp_path: Path
) -> None:
    write_training_set(tmp_path, data, part(data), 4, 9, 200)
    assert pq.read_table(tmp_path / "validation").num_rows == 0


def test_users_who_are_not_learnt_from_are_not_validated_on(data: Interactions, tmp_path: Path) -> None:
    split = leave_one_out(data)
    unknown_U = np.arange(len(split.fit_U)) >= 10
    write_training_set(tmp_path, data, replace(split, fit_U=np.where(unknown_U, 0, split.fit_U)), 4, 9, 200)
    assert pq.read_table(tmp_path / "validation").num_rows == 10


def test_exposure_counts_what_lists_show() -> None:
    exposure = Exposure(pa.array(["a", "b", "c", "d"]), 2)
    exposure.add(pa.array([["a", "b", "c"], ["a"], ["a"]]))
    figures = exposure.figures(np.array([6, 0, 1, 1]))
    assert figures["coverage"] == 0.5
    shares = np.array([7, 1, 2, 2]) / 12
    assert figures["novelty"] == pytest.approx((-3 * np.log2(shares[0]) - np.log2(shares[1])) / 4)
    assert figures["gini"] == pytest.approx(2 * (3 * 1 + 4 * 3) / (4 * 4) - 5 / 4)


def test_lists_that_hold_nothing_show_nothing() -> None:
    exposure = Exposure(pa.array(["a", "b"]), 2)
    exposure.add(pa.array([[], []], pa.list_(pa.string())))
    assert exposure.figures(np.array([6, 0])) == {"coverage": 0, "gini": 0, "novelty": 0}


def test_segments_part_the_cases() -> None:
    rank_C = np.array([0, -1, 3, -1])
    user_C = np.array(["u", "v", "w", "v"], dtype=object)
    found = segments(rank_C, user_C, np.array([2, 5, 8, 40]), np.array([0, 5, 5, 100]))
    assert all(one["HR@10"]["low"] <= one["HR@10"]["mean"] <= one["HR@10"]["high"] for one in found)
    assert [(one["segment"], one["cases"], one["HR@10"]["mean"]) for one in found] == [
        ("history 1-5", 2, 0.5),
        ("history 6-10", 1, 1.0),
        ("history 21+", 1, 0.0),
        ("never seen item", 1, 1.0),
        ("item seen 1-9 times", 2, 0.5),
        ("item seen 50+ times", 1, 0.0),
    ]


def test_lists_of_other_cases_are_refused() -> None:
    cases = pa.table({"key": ["a#2", "b#2"], "user_id": ["a", "b"], "history_length": [1, 1], "target_count": [3, 3]})
    lists = pa.record_batch({"key": ["a#2", "c#2"], "rank": [0, -1], "item_ids": [["x"], ["y"]]})
    with pytest.raises(ValueError, match="not one for each of the 2 cases"):
        beyond([lists], cases, pa.array(["x", "y"]), np.array([3, 3]))
