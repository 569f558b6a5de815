"""Late fusion on the circle: the weights are learned, lists obey the masks, later items and new users have lists."""

from __future__ import annotations

import shutil
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from model.config import BehaviourConfig, FusionConfig
from model.data.files import load_json, load_tensors, save_json, save_table, save_tensors
from model.data.reader import read_items
from model.recommender.fusion import FURTHER_MODELS, FUSION_FILE, FusedRanker, fit
from model.recommender.listwise import DEFAULTS
from model.recommender.methods.base import Users
from model.recommender.registry import METHODS
from model.recommender.signals import DENSE, Signals
from tests.model.recommender.conftest import CODES, CONFIG, ITEMS, LEVELS, code_table, item_codes

METHOD = METHODS["semantic_convergence"]
ALL = np.ones(ITEMS, bool)
FUSED = replace(
    CONFIG,
    behaviour=BehaviourConfig(dim=16, heads=2, layers=1, dropout=0.0, epochs=30, learning_rate=1e-2, text_dim=8),
    finetune=replace(CONFIG.finetune, epochs=8),
    fusion=FusionConfig(shortlist=8),
)
NONE_SEEN = np.empty((1, 0), np.int64)


@pytest.fixture(scope="module")
def trained(inputs: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A request with all that a fused ranker reads."""
    folder = tmp_path_factory.mktemp("fused")
    text_vectors = f"{folder}/text_vectors.safetensors"
    save_tensors(text_vectors, {"vectors": np.random.default_rng(0).normal(size=(ITEMS, 12)).astype(np.float32)})
    made = inputs | {"text_vectors": text_vectors}
    for method, name in ((METHODS["sasrec"], "behaviour"), (METHOD, "model")):
        method.train({"config": asdict(FUSED), "inputs": made, "output": f"{folder}/{name}"})
        made |= {name: f"{folder}/{name}"}
    fit({"config": asdict(FUSED), "inputs": made, "output": f"{folder}/fusion"})
    return {"config": asdict(FUSED), "inputs": made | {"fusion": f"{folder}/fusion"}}


@pytest.fixture(scope="module")
def ranker(trained: dict[str, Any]) -> FusedRanker:
    found = METHOD.load_ranker(trained)
    assert isinstance(found, FusedRanker)
    return found


def test_it_knows_what_comes_next(ranker: FusedRanker) -> None:
    history_BH = (np.arange(ITEMS)[:, None] + np.arange(4)) % ITEMS
    ranked = ranker.rank(Users([""] * ITEMS, history_BH), history_BH, ALL, 5)
    assert np.mean(ranked.items_BK[:, 0] == (history_BH[:, -1] + 1) % ITEMS) > 0.9
    assert np.array_equal(ranked.codes_BKL, item_codes(ITEMS)[ranked.items_BK])
    assert (np.diff(ranked.scores_BK, axis=1) <= 0).all()


def test_what_was_learned_is_kept(trained: dict[str, Any]) -> None:
    fitted = load_json(f"{trained['inputs']['fusion']}/{FUSION_FILE}")
    assert set(fitted["list"]["weights"]) == set(FUSED.fusion.signals)
    assert set(fitted["shortlist"]) == set(DENSE)


def test_the_kept_network_decides_too(trained: dict[str, Any], tmp_path: Path) -> None:
    """With a network that says the opposite of the learned list, the same shortlist comes the other way round."""
    shutil.copytree(trained["inputs"]["fusion"], tmp_path / "fusion")
    fitted = load_json(f"{tmp_path}/fusion/{FUSION_FILE}")
    network = fitted["list"]["network"]
    names = FUSED.fusion.signals
    network["inner_IH"] = np.zeros(np.shape(network["inner_IH"])).tolist()
    # tanh is nearly linear near 0: -2 times the sum, on top of the sum.
    for row, name in enumerate(names):
        network["inner_IH"][row][0] = 1e-3 * fitted["list"]["weights"][name] * network["spread_F"][row]
    network["bias_H"] = [0.0] * len(network["bias_H"])
    network["outer_H"] = [-2e3, *network["outer_H"][1:]]
    save_json(f"{tmp_path}/fusion/{FUSION_FILE}", fitted)
    opposed = METHOD.load_ranker(trained | {"inputs": trained["inputs"] | {"fusion": f"{tmp_path}/fusion"}})
    fitted["list"]["network"] |= {"outer_H": [0.0] * len(network["outer_H"])}
    save_json(f"{tmp_path}/fusion/{FUSION_FILE}", fitted)
    summed = METHOD.load_ranker(trained | {"inputs": trained["inputs"] | {"fusion": f"{tmp_path}/fusion"}})
    history_1H = np.array([[3, 4, 5]])
    one, other = (each.rank(Users([""], history_1H), history_1H, ALL, 8).items_BK[0] for each in (opposed, summed))
    assert one.tolist() == other[::-1].tolist()


def test_a_fusion_of_before_the_network_ranks_by_its_sum(trained: dict[str, Any], tmp_path: Path) -> None:
    """Such a model may be live, and the champion that the next one has to beat."""
    shutil.copytree(trained["inputs"]["fusion"], tmp_path / "fusion")
    fitted = load_json(f"{tmp_path}/fusion/{FUSION_FILE}")
    shortlist, learned = fitted.pop("shortlist"), fitted.pop("list")
    before = fitted | {"weights": {"shortlist": shortlist, "list": learned["weights"]}}
    sum_alone = fitted | {"shortlist": shortlist, "list": learned | {"network": None}}
    users, history_BH = Users(["", ""], np.array([[3, 4, 5], [9, -1, -1]])), np.array([[3, 4, 5], [9, -1, -1]])
    ranked = []
    for form in (before, sum_alone):
        save_json(f"{tmp_path}/fusion/{FUSION_FILE}", form)
        one = METHOD.load_ranker(trained | {"inputs": trained["inputs"] | {"fusion": f"{tmp_path}/fusion"}})
        ranked.append(one.rank(users, history_BH, ALL, 6))
    assert np.array_equal(ranked[0].items_BK, ranked[1].items_BK)
    assert np.array_equal(ranked[0].scores_BK, ranked[1].scores_BK)


def test_lists_hold_no_seen_and_no_unavailable_item(ranker: FusedRanker) -> None:
    available_N = ALL.copy()
    available_N[5:] = False
    users = Users(["u0", "u1"], np.array([[0, 1], [2, -1]]))
    ranked = ranker.rank(users, np.array([[0, 1], [2, -1]]), available_N, 6)
    assert [set(row.tolist()) - {-1} for row in ranked.items_BK] == [{2, 3, 4}, {0, 1, 3, 4}]
    assert np.array_equal(ranked.items_BK == -1, np.isneginf(ranked.scores_BK))


def test_a_list_does_not_depend_on_who_is_ranked_beside(ranker: FusedRanker, trained: dict[str, Any]) -> None:
    history_BH = np.array([[0, 1, 2], [9, -1, -1], [-1, -1, -1], [4, 5, -1]])
    seen_BS = history_BH
    signals = Signals.load(trained["inputs"], trained["inputs"]["fusion"])
    together = ranker.rank(Users([""] * 4, history_BH), seen_BS, ALL, 5)
    for row in range(4):
        alone = ranker.rank(Users([""], history_BH[row : row + 1]), seen_BS[row : row + 1], ALL, 5)
        assert np.array_equal(alone.items_BK[0], together.items_BK[row])
        assert np.array_equal(
            signals(history_BH[row : row + 1], DENSE)["teacher"][0], signals(history_BH, DENSE)["teacher"][row]
        )
        np.testing.assert_allclose(alone.scores_BK[0], together.scores_BK[row], atol=1e-4)


def test_a_user_without_a_history_gets_the_language_models_list(ranker: FusedRanker, trained: dict[str, Any]) -> None:
    alone = {name: uri for name, uri in trained["inputs"].items() if name != "fusion"}
    users = Users([""], np.full((1, 3), -1))
    expected = METHOD.load_ranker(trained | {"inputs": alone}).rank(users, NONE_SEEN, ALL, 5)
    assert np.array_equal(ranker.rank(users, NONE_SEEN, ALL, 5).items_BK, expected.items_BK)


def test_without_a_language_model_none_is_opened(trained: dict[str, Any], tmp_path: Path) -> None:
    config = asdict(replace(FUSED, fusion=FusionConfig(signals=["teacher", "item_knn"])))
    inputs = {name: uri for name, uri in trained["inputs"].items() if name not in ("model", "fusion")}
    fit({"config": config, "inputs": inputs, "output": f"{tmp_path}/fusion"})
    fused = METHOD.load_ranker({"config": config, "inputs": inputs | {"fusion": f"{tmp_path}/fusion"}})
    users = Users(["u0", "u1"], np.array([[0, 1], [-1, -1]]))
    ranked = fused.rank(users, np.empty((2, 0), np.int64), ALL, 5)
    assert (ranked.items_BK >= 0).all()
    assert np.array_equal(ranked.codes_BKL, item_codes(ITEMS)[ranked.items_BK])


def test_an_item_that_came_later_is_near_those_of_like_text(trained: dict[str, Any], tmp_path: Path) -> None:
    """Item 30 has the text of item 7, and no events."""
    text_NE = load_tensors(trained["inputs"]["text_vectors"])["vectors"]
    taken = {tuple(code) for code in item_codes(ITEMS).tolist()}
    free = next(code for code in np.ndindex((CODES,) * LEVELS) if code not in taken)
    save_table(f"{tmp_path}/items.parquet", code_table(np.array([free]), first_index=ITEMS))
    save_tensors(f"{tmp_path}/text_vectors.safetensors", {"vectors": text_NE[7:8]})
    titles = read_items(f"{trained['inputs']['training_set']}/items", ["text"])["text"].to_pylist()
    save_table(f"{tmp_path}/texts.parquet", pa.table({"item_index": [ITEMS], "text": [titles[7] + " unheard-of"]}))
    inputs = trained["inputs"] | {"codebook_additions": [str(tmp_path)]}
    said = Signals.load(inputs, inputs["fusion"])(np.array([[7], [-1]]), ["words", "teacher"])
    assert said["words"][0, ITEMS] == pytest.approx(1)
    assert said["words"][0, 7] == 0  # of its own history
    assert not said["words"][1].any()
    fused = METHOD.load_ranker(trained | {"inputs": inputs})
    ranked = fused.rank(Users([""], np.array([[6, 7]])), NONE_SEEN, np.ones(ITEMS + 1, bool), ITEMS + 1)
    assert set(ranked.items_BK[0].tolist()) == set(range(ITEMS + 1))


def test_no_more_of_a_history_is_read_than_was_learned_with(ranker: FusedRanker) -> None:
    """Today's settings may hand over more than the encoder has positions for."""
    long_BH = np.arange(25)[None] % ITEMS
    short_BH = long_BH[:, -CONFIG.history_items :]
    one, same = (ranker.rank(Users([""], history), NONE_SEEN, ALL, 5) for history in (long_BH, short_BH))
    assert np.array_equal(one.items_BK, same.items_BK)
    assert np.array_equal(one.scores_BK, same.scores_BK)


def test_without_the_teacher_no_encoder_is_opened(trained: dict[str, Any], tmp_path: Path) -> None:
    """So that a graph encoder, which cannot rank, can be behind the codes."""
    config = asdict(replace(FUSED, fusion=FusionConfig(signals=["language_model", "item_knn", "words"])))
    inputs = {name: uri for name, uri in trained["inputs"].items() if name not in ("behaviour", "fusion")}
    fit({"config": config, "inputs": inputs, "output": f"{tmp_path}/fusion"})
    fused = METHOD.load_ranker({"config": config, "inputs": inputs | {"fusion": f"{tmp_path}/fusion"}})
    assert (fused.rank(Users([""], np.array([[0, 1]])), NONE_SEEN, ALL, 5).items_BK >= 0).all()


def test_without_a_case_the_weights_are_the_defaults(trained: dict[str, Any], tmp_path: Path) -> None:
    training_set = tmp_path / "training_set"
    shutil.copytree(trained["inputs"]["training_set"], training_set)
    lists = pa.list_(pa.int32())
    nobody = pa.table({"items": pa.array([], lists), "target": pa.array([], pa.int32())})
    save_table(f"{training_set}/validation/part-0.parquet", nobody)
    inputs = trained["inputs"] | {"training_set": str(training_set)}
    found = fit(trained | {"inputs": inputs, "output": f"{tmp_path}/fusion"})
    assert found["weights"]["list"] == {name: DEFAULTS[name] for name in FUSED.fusion.signals}


def test_language_models_of_further_methods_are_signals_too(trained: dict[str, Any], tmp_path: Path) -> None:
    signals = FusionConfig(signals=["language_model", "rsllm", "ttds", "teacher", "words"], shortlist=8)
    config = asdict(replace(FUSED, fusion=signals))
    same = {"model": trained["inputs"]["model"]}
    inputs = trained["inputs"] | {FURTHER_MODELS: {"rsllm": same, "ttds": same}}
    found = fit({"config": config, "inputs": inputs, "output": f"{tmp_path}/fusion"})
    weights = found["weights"]["list"]
    # They are one and the same model here, so none can be worth more than another.
    assert weights["rsllm"] == pytest.approx(weights["language_model"], abs=1e-4)
    assert weights["ttds"] == pytest.approx(weights["language_model"], abs=1e-4)
    ranker = METHOD.load_ranker({"config": config, "inputs": inputs | {"fusion": f"{tmp_path}/fusion"}})
    history_1H = np.array([[3, 4, 5]])
    assert ranker.rank(Users([""], history_1H), history_1H, ALL, 1).items_BK.tolist() == [[6]]
    with pytest.raises(ValueError, match=r"fusion.signals names rsllm, but no such model is among the inputs"):
        fit({"config": config, "inputs": trained["inputs"], "output": f"{tmp_path}/fusion"})
