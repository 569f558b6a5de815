"""RSLLM from its windows to its lists, on the circle: ranked, chosen, killed, resumed, on two processes, with LoRA."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
import torch.nn.functional as F
from safetensors.numpy import load_file

from model.config import model_config
from model.data.files import TEXT_VECTORS_FILE, TEXTS_FILE, load_json, save_table, save_tensors
from model.evaluation.lists import padded
from model.processes import ALONE
from model.recommender.fusion import fit
from model.recommender.methods.base import PAD, Users
from model.recommender.registry import METHODS
from model.recommender.rsllm.loss import RsllmLoss, states
from model.recommender.rsllm.prompts import TERMS, IdRows, ItemPrompts, TensorIds, packed
from model.recommender.rsllm.ranker import RsllmRanker
from model.recommender.rsllm.reader import IdReader
from model.recommender.rsllm.train import READER, finetune, prepare
from model.recommender.validation import Validation
from tests.model.recommender.conftest import ITEMS, LEVELS, code_table
from tests.model.recommender.rsllm.conftest import NEW, on_circle
from tests.two_processes import run_two

Request = Callable[..., dict[str, Any]]
Kill = Callable[[int, Callable[[], object]], list[int]]


def opened(request: dict[str, Any], **inputs: Any) -> RsllmRanker:
    ranker = METHODS["rsllm"].load_ranker(
        request | {"inputs": request["inputs"] | {"model": request["output"]} | inputs}
    )
    assert isinstance(ranker, RsllmRanker)
    return ranker


@pytest.fixture(scope="module")
def histories() -> tuple[np.ndarray, np.ndarray]:
    """Histories [V,5] and what comes next."""
    first_V = np.array([place for place in range(ITEMS) if NEW not in [(place + step) % ITEMS for step in range(6)]])
    history_VH = (first_V[:, None] + np.arange(5)) % ITEMS
    return history_VH, (first_V + 5) % ITEMS


def test_it_learns_the_circle_and_ranks_by_it(ids_request: Request, histories: tuple[np.ndarray, np.ndarray]) -> None:
    request = ids_request(finetune={"epochs": 40, "learning_rate": 3e-3}, rsllm={"choice_share": 1.0})
    metrics = finetune(request)
    assert set(metrics["loss"]) == set(TERMS)
    for losses in metrics["loss"].values():
        assert losses[-1] < losses[0]
    assert load_json(f"{request['output']}/metrics.json")["loss"] == metrics["loss"]
    ranker, (history_VH, next_V) = opened(request), histories
    users = Users([""] * len(next_V), history_VH)
    ranked = ranker.rank(users, history_VH, np.ones(ITEMS, bool), 5)
    assert (ranked.items_BK == next_V[:, None]).any(1).mean() > 0.9
    assert not (ranked.items_BK[:, :, None] == history_VH[:, None, :]).any()
    assert np.array_equal(ranked.codes_BKL, ranker.codes_NL[ranked.items_BK])
    np.testing.assert_allclose(ranker.score(users, ranked.items_BK), ranked.scores_BK, atol=1e-4)
    # In bfloat16, as on GPUs, it ranks as well.
    decoding = request["config"]["decoding"] | {"precision": "bfloat16"}
    coarse = opened(request | {"config": request["config"] | {"decoding": decoding}})
    found = coarse.rank(users, history_VH, np.ones(ITEMS, bool), 5)
    assert (found.items_BK == next_V[:, None]).any(1).mean() > 0.9
    assert 0 < np.abs(found.scores_BK - ranked.scores_BK).max() < 0.5
    # Among twenty, answers are ID tokens, and mostly the right one.
    candidates_BC = (next_V[:, None] + np.arange(20)) % ITEMS
    chosen_B = ranker.choose(history_VH, candidates_BC)
    assert (chosen_B != PAD).mean() > 0.9
    assert (chosen_B == 0).mean() > 0.5


def test_an_item_of_later_is_ranked_and_read_by_its_text(ids_request: Request, tmp_path: Path) -> None:
    """Its text is that of a place on the circle, which no window and no teacher says of it."""
    place = 8
    request = ids_request(finetune={"epochs": 20}, rsllm={"id_text_weight": 1.0})
    finetune(request)
    save_tensors(f"{tmp_path}/more/{TEXT_VECTORS_FILE}", {"vectors": on_circle(np.array([place]), 6)})
    texts = pa.table({"item_index": [ITEMS], "title": ["Amber anchor"], "text": ["Amber anchor"]})
    save_table(f"{tmp_path}/more/{TEXTS_FILE}", texts)
    save_table(f"{tmp_path}/more/items.parquet", code_table(np.full((1, LEVELS), 7), ITEMS))
    ranker = opened(request, codebook_additions=[f"{tmp_path}/more"])
    history_1H = (place - 5 + np.arange(5))[None]
    everything_N = np.ones(ITEMS + 1, bool)
    ranked = ranker.rank(Users([""], history_1H), history_1H, everything_N, 4)
    listed = ranked.items_BK[0].tolist()
    assert ITEMS in listed
    assert ranked.codes_BKL[0, listed.index(ITEMS)].tolist() == [7] * LEVELS
    # Read in a history, it says where the user is.
    read_1H = np.array([[place - 2, place - 1, ITEMS]])
    ranked = ranker.rank(Users([""], read_1H), read_1H, everything_N, 6)
    assert place + 1 in ranked.items_BK[0].tolist()
    # Alone to choose from, it is all that is listed.
    ranked = ranker.rank(Users([""], read_1H[:, :2]), read_1H[:, :2], np.arange(ITEMS + 1) == ITEMS, 3)
    assert ranked.items_BK.tolist() == [[ITEMS, PAD, PAD]]
    assert np.isneginf(ranked.scores_BK[0, 1:]).all()


def test_no_epoch_counts_before_vectors_are_read(ids_request: Request, monkeypatch: pytest.MonkeyPatch) -> None:
    """Text alone may validate best, and what follows worse at first: the training has to go on all the same."""
    found = iter([0.5, 0.4, 0.1, 0.2, 0.1, 0.9])
    monkeypatch.setattr(Validation, "score", lambda *_: (next(found), 0.01))
    stages = {"text_share": 0.25, "curriculum": 0.25}
    metrics = finetune(ids_request(finetune={"epochs": 6, "patience": 1}, rsllm=stages))
    assert metrics["validation_ndcg10"] == [0.5, 0.4, 0.1, 0.2, 0.1]
    assert metrics["best_epoch"] == 4


def test_another_teacher_is_refused(ids_request: Request, tmp_path: Path) -> None:
    request = ids_request()
    finetune(request)
    other = {"vectors": on_circle(np.arange(ITEMS) + 0.5, 8), "count": np.ones(ITEMS, np.int64)}
    save_tensors(f"{tmp_path}/other/vectors.safetensors", other)
    with pytest.raises(ValueError, match=r"was trained with the item vectors sha256:.*but .*/other has others"):
        opened(request, behaviour=f"{tmp_path}/other")


def test_the_result_does_not_depend_on_blocks_or_company(
    ids_request: Request, histories: tuple[np.ndarray, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    request = ids_request()
    finetune(request)
    ranker, (history_VH, _) = opened(request), histories
    history_VH = np.concatenate([history_VH, np.full((1, 5), PAD)])
    everything_N = np.arange(ITEMS) % 7 > 0
    whole = ranker.rank(Users([""] * len(history_VH), history_VH), history_VH[:, :2], everything_N, 9)
    monkeypatch.setattr("model.recommender.rsllm.ranker.BLOCK_SCORES", 50)
    monkeypatch.setattr("model.recommender.rsllm.ranker.BLOCK_USERS", 4)
    blocks = ranker.rank(Users([""] * len(history_VH), history_VH), history_VH[:, :2], everything_N, 9)
    assert np.array_equal(whole.items_BK, blocks.items_BK)
    for row in (0, len(history_VH) - 1):
        alone = ranker.rank(Users([""], history_VH[row : row + 1]), history_VH[row : row + 1, :2], everything_N, 9)
        assert np.array_equal(alone.items_BK[0], whole.items_BK[row])
        np.testing.assert_allclose(alone.scores_BK[0], whole.scores_BK[row], atol=1e-4)


def test_late_fusion_takes_it_for_the_language_model(ids_request: Request, tmp_path: Path) -> None:
    request = ids_request(fusion={"signals": ["language_model", "item_knn", "successor", "words"], "shortlist": 12})
    finetune(request)
    inputs = request["inputs"] | {"model": request["output"]}
    fitted = fit(request | {"inputs": inputs, "output": str(tmp_path / "fusion")})
    assert fitted["weights"]["list"]["language_model"] > 0
    ranker = METHODS["rsllm"].load_ranker(request | {"inputs": inputs | {"fusion": str(tmp_path / "fusion")}})
    history_1H = np.array([[3, 4, 5, 6, 7]])
    ranked = ranker.rank(Users([""], history_1H), history_1H, np.ones(ITEMS, bool), 3)
    assert ranked.items_BK[0, 0] == 8
    assert ranked.codes_BKL.shape == (1, 3, 4)


@pytest.mark.parametrize("killed_at", [2, 8])
def test_killed_and_resumed_it_ends_as_if_nothing_had_been(
    ids_request: Request, tmp_path: Path, kill: Kill, killed_at: int
) -> None:
    settings = {"finetune": {"checkpoint_steps": 3, "epochs": 2}, "rsllm": {"choice_share": 0.3}}
    whole, resumed = ids_request("whole", **settings), ids_request("resumed", **settings)
    expected = finetune(whole)
    request = resumed | {"checkpoints": str(tmp_path / "checkpoints")}
    begun = kill(killed_at, lambda: finetune(request))
    found = finetune(request)
    assert len(begun) <= expected["steps"] + 3
    for metrics in (expected, found):
        metrics.pop("speed")
    assert json.dumps(found) == json.dumps(expected)
    for name in ("model.safetensors", "id_reader.safetensors"):
        assert Path(request["output"], name).read_bytes() == Path(whole["output"], name).read_bytes()


@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_two_processes_train_the_model_of_one(ids_request: Request, tmp_path: Path, parallel: str) -> None:
    """As many shards give the same training on one process as on two, where everything is compared with."""
    recipe = {"epochs": 1, "shards": 2, "checkpoint_steps": 0}
    alone = ids_request("alone", finetune=recipe | {"accumulation": 2})
    both = ids_request("both", finetune=recipe | {"parallel": parallel})
    expected = finetune(alone)
    (tmp_path / "request.json").write_text(json.dumps(both))
    run_two("-m", "model.recommender.rsllm.train", tmp_path / "request.json")
    found = load_json(f"{both['output']}/metrics.json")
    assert found["loss"]["title"] == pytest.approx(expected["loss"]["title"], rel=1e-4)
    assert found["loss"]["user_item"] == pytest.approx(expected["loss"]["user_item"], rel=1e-4)
    for name in ("model.safetensors", "id_reader.safetensors"):
        one, two = (load_file(f"{each['output']}/{name}") for each in (alone, both))
        for key, tensor in one.items():
            np.testing.assert_allclose(two[key], tensor, atol=2e-4)


def test_two_processes_compare_with_the_targets_of_both(ids_request: Request, tmp_path: Path) -> None:
    """With hardly an item drawn beside them, a state has more to tell apart than its own process's targets."""
    recipe = {"epochs": 1, "shards": 2, "checkpoint_steps": 0, "learning_rate": 1e-6}
    few = {"negatives": 1, "text_share": 0.0}
    alone = finetune(ids_request("alone", finetune=recipe | {"accumulation": 2, "batch_size": 2}, rsllm=few))
    both = ids_request("both", finetune=recipe | {"batch_size": 2}, rsllm=few)
    (tmp_path / "request.json").write_text(json.dumps(both))
    run_two("-m", "model.recommender.rsllm.train", tmp_path / "request.json")
    found = load_json(f"{both['output']}/metrics.json")
    assert found["loss"]["title"] == pytest.approx(alone["loss"]["title"], rel=1e-3)
    assert found["loss"]["user_item"][0] > alone["loss"]["user_item"][0] + 0.1


def test_vectors_begin_at_the_scale_of_the_embeddings(ids_request: Request) -> None:
    request = ids_request()
    model = prepare(model_config(request["config"]), request["inputs"]).subject.model
    reader = model.get_submodule(READER)
    assert isinstance(reader, IdReader)
    scale = model.get_input_embeddings().weight.square().mean().sqrt().item()
    for vectors_NH in (reader.vectors(torch.arange(ITEMS)), reader.read_text(reader.text_NX)):
        assert vectors_NH.square().mean().sqrt().item() == pytest.approx(scale, rel=1e-3)


def test_lora_learns_the_new_words_and_the_reader(ids_request: Request) -> None:
    request = ids_request(backbone={"lora_rank": 2})
    metrics = finetune(request)
    assert metrics["trained_parameters"] < metrics["parameters"]
    assert metrics["loss"]["user_item"][-1] < metrics["loss"]["user_item"][0]
    opened(request)
    assert not any("lora" in name or READER in name for name in load_file(f"{request['output']}/model.safetensors"))


def test_what_predicts_an_item_of_a_window_is_what_inference_asks_with(ids_request: Request) -> None:
    """The state that learns item j of a window is the state of a prompt that holds the items before j, and no more."""
    request = ids_request()
    config = model_config(request["config"])
    trainer = prepare(config, request["inputs"])
    loss = trainer.objective.loss
    assert isinstance(loss, RsllmLoss)
    model = trainer.subject.model.eval()
    titles = ["amber anchor " * (item % 3) for item in range(ITEMS)]
    prompts = ItemPrompts(trainer.subject.tokenizer, titles, config.rsllm)
    window_BT = np.array([[3, 4, 5, 6], [9, 1, 0, PAD]])

    def asked(rows: IdRows) -> torch.Tensor:
        tensors = TensorIds(packed([rows], row_tokens=64), ALONE.device)
        return states(model, loss.reader, tensors)[tensors.state_Q]

    of_windows_QH = asked(prompts.windows(window_BT, (window_BT != PAD).astype(np.int64)))
    before = [items[:place] for items in window_BT for place in range((items != PAD).sum())]
    of_histories_QH = asked(prompts.histories(padded(before)))
    torch.testing.assert_close(of_windows_QH, of_histories_QH, atol=1e-5, rtol=1e-4)


def test_the_contrasts_are_infonce(ids_request: Request) -> None:
    """Against a plain computation from the same states and vectors."""
    request = ids_request()
    config = model_config(request["config"])
    trainer = prepare(config, request["inputs"])
    loss = trainer.objective.loss
    assert isinstance(loss, RsllmLoss)
    batch = next(iter(trainer.batches.read(3, 0, 1)))
    trainer.subject.model.eval()
    tensors = TensorIds(batch, ALONE.device)
    found_Y = loss(tensors)
    reader = loss.reader
    hidden_FH = states(trainer.subject.model, reader, tensors)
    warm = [item for item in range(ITEMS) if item != NEW]
    vectors = F.normalize(reader.project(reader.teacher_ND[warm]), dim=1)
    texts = F.normalize(reader.read_text(reader.text_NX[warm]), dim=1)
    both = vectors @ texts.T / config.rsllm.temperature
    own = torch.arange(len(warm))
    mean = (F.cross_entropy(both, own) + F.cross_entropy(both.T, own)) / 2
    assert found_Y[2].item() == pytest.approx(mean.item(), rel=1e-4)
    # Nobody took it before, now it is a target: it is found by its text.
    assert NEW in batch.next_Q.tolist()
    new = F.normalize(reader.read_text(reader.text_NX[[NEW]]), dim=1)
    similar_QS = F.normalize(reader.query(hidden_FH[tensors.state_Q]), dim=1) @ torch.cat([vectors, new]).T
    place_Q = torch.tensor([[*warm, NEW].index(item) for item in batch.next_Q.tolist()])
    expected = F.cross_entropy(similar_QS / config.rsllm.temperature, place_Q, reduction="sum")
    assert found_Y[3].item() == pytest.approx(expected.item(), rel=1e-4)


def test_settings_that_cannot_work_are_named(ids_request: Request, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"rsllm.text_share 0.7 and rsllm.curriculum 0.7"):
        ids_request(rsllm={"text_share": 0.7, "curriculum": 0.7})
    with pytest.raises(ValueError, match=r"rsllm.text_share = 1 leaves no step in which vectors are read"):
        ids_request(rsllm={"text_share": 1.0, "curriculum": 0.0})
    with pytest.raises(ValueError, match=r"rsllm.temperature = 0: must be above 0"):
        ids_request(rsllm={"temperature": 0})
    request = ids_request(finetune={"row_tokens": 20})
    with pytest.raises(
        ValueError, match=r"An example can be \d+ tokens long: raise model.finetune.row_tokens \(now 20\) to that"
    ):
        finetune(request)
    nobody = {"vectors": on_circle(np.arange(ITEMS), 8), "count": np.zeros(ITEMS, np.int64)}
    save_tensors(f"{tmp_path}/nobody/vectors.safetensors", nobody)
    request = ids_request()
    request["inputs"] = request["inputs"] | {"behaviour": f"{tmp_path}/nobody"}
    with pytest.raises(ValueError, match="knows of no item that anybody took"):
        finetune(request)
