from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from model.data.files import save_table
from model.recommender.inference import SemanticRanker
from model.recommender.methods.base import Ranked, Ranker, Users
from model.recommender.registry import METHODS
from tests.model.recommender.conftest import CODES, CONFIG, ITEMS, code_table, item_codes

METHOD = METHODS["semantic_convergence"]
ALL = np.ones(ITEMS, bool)


@pytest.fixture(scope="module")
def trained(inputs: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A request whose model has learned the circle."""
    from dataclasses import asdict, replace

    output = str(tmp_path_factory.mktemp("trained") / "model")
    config = asdict(replace(CONFIG, finetune=replace(CONFIG.finetune, epochs=25)))
    METHOD.train({"config": config, "inputs": inputs, "output": output})
    return {"config": config, "inputs": {**inputs, "model": output}}


@pytest.fixture(scope="module")
def ranker(trained: dict[str, Any]) -> Ranker:
    return METHOD.load_ranker(trained)


def rank(ranker: Ranker, histories: list[list[int]], seen: list[list[int]] | None = None, k: int = 5) -> Ranked:
    width = max(map(len, histories)) + 2
    history_BH = np.array([history + [-1] * (width - len(history)) for history in histories])
    seen_BS = history_BH if seen is None else np.array(seen).reshape(len(histories), -1)
    return ranker.rank(Users([f"u{i}" for i in range(len(histories))], history_BH), seen_BS, ALL, k)


def test_it_learned_what_comes_next(ranker: Ranker) -> None:
    histories = [[(start + i) % ITEMS for i in range(1 + start % 4)] for start in range(ITEMS)]
    ranked = rank(ranker, histories)
    expected = [(history[-1] + 1) % ITEMS for history in histories]
    assert np.mean(ranked.items_BK[:, 0] == expected) > 0.9


def test_it_ranks_in_bfloat16_as_in_float32(trained: dict[str, Any], ranker: Ranker) -> None:
    """The path that GPUs take; scores stay float32 and differ by what bfloat16 leaves of them."""
    decoding = trained["config"]["decoding"] | {"precision": "bfloat16"}
    coarse = METHOD.load_ranker(trained | {"config": trained["config"] | {"decoding": decoding}})
    histories = [[(start + i) % ITEMS for i in range(1 + start % 4)] for start in range(ITEMS)]
    fine, found = rank(ranker, histories), rank(coarse, histories)
    assert np.array_equal(found.items_BK[:, 0], fine.items_BK[:, 0])
    assert found.scores_BK.dtype == np.float32
    difference_B = np.abs(found.scores_BK[:, 0] - fine.scores_BK[:, 0])
    assert 0 < difference_B.max() < 0.1


def test_lists_are_valid_codes_of_allowed_items_best_first(ranker: Ranker) -> None:
    ranked = rank(ranker, [[0, 1, 2], [9], []])
    codes_NL = item_codes(ITEMS)
    assert np.array_equal(ranked.codes_BKL, codes_NL[ranked.items_BK])
    assert (np.diff(ranked.scores_BK, axis=1) <= 0).all()
    assert not {0, 1, 2} & set(ranked.items_BK[0].tolist())
    assert ranked.scores_BK.dtype == np.float32


def test_scores_of_listed_items_are_those_of_the_search(ranker: Ranker) -> None:
    """In the order of the list, whatever stands beside them; padding is -inf."""
    assert isinstance(ranker, SemanticRanker)
    users = Users(["u0", "u1"], np.array([[0, 1, 2], [9, -1, -1]]))
    ranked = ranker.rank(users, np.empty((2, 0), np.int64), ALL, ITEMS)
    listed_BC = np.array([[7, -1, 3, 29], [10, 4, 0, -1]])
    score_BC = ranker.score(users, listed_BC)
    for row in range(2):
        of_item = dict(zip(ranked.items_BK[row].tolist(), ranked.scores_BK[row].tolist(), strict=True)) | {-1: -np.inf}
        np.testing.assert_allclose(score_BC[row], [of_item[item] for item in listed_BC[row].tolist()], atol=1e-4)


def test_a_user_without_history_gets_a_list(ranker: Ranker) -> None:
    assert (rank(ranker, [[]], k=5).items_BK >= 0).all()


def test_only_the_newest_items_are_read(ranker: Ranker) -> None:
    newest = [11, 12, 13, 14, 15]
    assert len(newest) == CONFIG.history_items
    nothing_seen = [[-1], [-1]]
    ranked = rank(ranker, [newest, [3, 9, 4, *newest]], seen=nothing_seen)
    assert np.array_equal(ranked.items_BK[0], ranked.items_BK[1])


def test_the_settings_of_its_training_are_its_own(trained: dict[str, Any], ranker: Ranker) -> None:
    from copy import deepcopy

    others = deepcopy(trained)
    others["config"]["history_items"] = 1
    others["config"]["finetune"]["normalisation"] = "vocabulary"
    one, other = (rank(each, [[5, 9, 13]]) for each in (ranker, METHOD.load_ranker(others)))
    assert np.array_equal(one.items_BK, other.items_BK)
    assert np.array_equal(one.scores_BK, other.scores_BK)


def test_more_than_the_catalogue_fills_up_with_nothing(ranker: Ranker) -> None:
    ranked = rank(ranker, [[4]], seen=[[4, 5]], k=ITEMS + 3)
    assert sorted(ranked.items_BK[0, : ITEMS - 2].tolist()) == [i for i in range(ITEMS) if i not in (4, 5)]
    assert (ranked.items_BK[0, ITEMS - 2 :] == -1).all()
    assert (ranked.codes_BKL[0, ITEMS - 2 :] == -1).all()
    assert (ranked.scores_BK[0, ITEMS - 2 :] == -np.inf).all()


def test_unavailable_items_are_not_listed(ranker: Ranker) -> None:
    available_N = np.zeros(ITEMS, bool)
    available_N[[3, 20]] = True
    ranked = ranker.rank(Users(["u"], np.array([[2]])), np.array([[20]]), available_N, 4)
    assert ranked.items_BK.tolist() == [[3, -1, -1, -1]]


def test_batches_do_not_change_a_users_list(ranker: Ranker) -> None:
    histories = [[i, i + 1, i + 2][: 1 + i % 3] for i in range(20)]
    together = rank(ranker, histories)
    for user in (0, 6, 7, 19):
        assert np.array_equal(rank(ranker, [histories[user]]).items_BK[0], together.items_BK[user])


def test_items_with_appended_codes_can_be_listed(trained: dict[str, Any], tmp_path: Path) -> None:
    taken = {tuple(code) for code in item_codes(ITEMS).tolist()}
    new = next(code for code in np.ndindex((CODES,) * 4) if code not in taken)
    save_table(f"{tmp_path}/items.parquet", code_table(np.array([new]), first_index=ITEMS))
    request = {**trained, "inputs": {**trained["inputs"], "codebook_additions": [str(tmp_path)]}}
    available_N = np.arange(ITEMS + 1) == ITEMS
    ranked = METHOD.load_ranker(request).rank(Users(["u"], np.array([[2, ITEMS]])), np.array([[-1]]), available_N, 2)
    assert ranked.items_BK.tolist() == [[ITEMS, -1]]
    assert ranked.codes_BKL[0, 0].tolist() == list(new)


def test_a_codebook_of_another_size_is_refused(trained: dict[str, Any], tmp_path: Path) -> None:
    save_table(f"{tmp_path}/items.parquet", code_table(np.array([[CODES, 0, 0, 0]])))
    with pytest.raises(ValueError, match="not its codebook"):
        METHOD.load_ranker({**trained, "inputs": {**trained["inputs"], "codebook": str(tmp_path)}})
