"""TTDS from its first stage to its lists, on the circle; the index that moves, killed, resumed and on two processes."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from model.config import TokenizerConfig, model_config
from model.data.packing import Layout, pack
from model.data.reader import read_items
from model.processes import ALONE
from model.recommender import states, ttds
from model.recommender.backbone import load_model
from model.recommender.batches import Batches
from model.recommender.dynamic_index import moved
from model.recommender.loss import string_losses
from model.recommender.methods.base import LANGUAGE_MODEL, START, Users
from model.recommender.registry import METHODS
from model.recommender.rows import Batch
from model.recommender.states import text_states
from model.recommender.train import finetune
from model.recommender.users import USERS_FOLDER, VIEWS_FILE, Prefixes
from model.recommender.vocabulary import read_codes
from model.tokenizer.codebook import Codebook
from tests.model.recommender.conftest import CODES, ITEMS, LEVELS
from tests.two_processes import run_two

TOWERS = {"levels": LEVELS, "codes_per_level": CODES, "epochs": 14, "latent_dim": 8, "hidden_dim": 16, "batch_size": 16}
MOVING = {"epochs": 2, "renewals": 3, "hysteresis": 0.02, "strings": 8}
Request = Callable[..., dict[str, Any]]
Kill = Callable[[int, Callable[[], object]], list[int]]


@pytest.fixture
def stage_one(request_of: Request, inputs: dict[str, str]) -> Request:
    def make(name: str = "codebook", **changes: dict[str, Any]) -> dict[str, Any]:
        settings = {"tokenizer": TOWERS, "ttds": MOVING, **changes}
        request = request_of(
            name, **{part: TOWERS | settings[part] if part == "tokenizer" else settings[part] for part in settings}
        )
        behaviour = str(Path(inputs["training_set"]).parent / "behaviour")
        return request | {"inputs": {"training_set": inputs["training_set"], "behaviour": behaviour}}

    return make


def tokenized(request: dict[str, Any]) -> dict[str, Any]:
    """The metrics without the speed, which is the machine's."""
    metrics = ttds.tokenize(request)
    metrics.pop("speed")
    return metrics


def files(folder: str) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes() for path in sorted(Path(folder).rglob("*")) if path.is_file()
    }


def test_both_stages_end_in_lists_of_items_and_codes_of_users(
    stage_one: Request, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    recipe = {"epochs": 2, "learning_rate": 1e-2, "batch_size": 16}
    request = stage_one(finetune=recipe, ttds=MOVING | {"second_stage": 0.1})
    metrics = tokenized(request)
    codebook = request["output"]
    terms = {"reconstruction", "cross", "kl", "quantisation", "coarse", "fine", "loss"}
    assert set(metrics["towers"][0]) == {f"{tower}.{term}" for tower in ("items", "users") for term in terms}
    assert {"next_item", "next_item_of_user", "buyers_to_user", "contrast", "distance"} <= set(metrics["loss"])
    assert metrics["loss"]["next_item"][-1] < metrics["loss"]["next_item"][0]
    assert [each["step"] for each in metrics["renewals"]] == [3, 6, 9]
    assert any(each["same_code"] < 1 for each in metrics["renewals"])
    assert f"index renewed: step 3, items {ITEMS}, same_code {metrics['renewals'][0]['same_code']:g}" in caplog.text
    assert all(0 < each["same_code_of_users"] <= 1 for each in (*metrics["renewals"], metrics["settled"]))
    codes_NL = read_codes([codebook], LEVELS)
    assert len(np.unique(codes_NL, axis=0)) == ITEMS

    inputs = request["inputs"] | {"codebook": codebook, START: f"{codebook}/{LANGUAGE_MODEL}"}
    model = str(tmp_path / "model")
    second = finetune(request | {"inputs": inputs, "output": model})
    assert second["loss"]["next_item"][-1] < metrics["loss"]["next_item"][0]
    assert "contrast" not in second["loss"]
    trained = json.loads(Path(model, "precog.json").read_text())["config"]
    assert trained["finetune"]["learning_rate"] == pytest.approx(1e-3)

    ranker = METHODS["ttds"].load_ranker(
        {"config": request["config"], "inputs": {"model": model, "codebook": codebook}}
    )
    history_BH = np.array([[3, 4, 5], [7, -1, -1], [-1, -1, -1]])
    ranked = ranker.rank(Users(["a", "b", "c"], history_BH), history_BH, np.ones(ITEMS, bool), 4)
    assert (ranked.codes_BKL == codes_NL[ranked.items_BK]).all()
    assert ranked.user_codes_BL is not None
    assert (ranked.user_codes_BL[:2] >= 0).all()
    assert (ranked.user_codes_BL[2] == -1).all()


def test_the_first_stage_of_a_first_stage_is_itself(stage_one: Request) -> None:
    """Whoever records its settings hands them on."""
    once = ttds.first_stage(model_config(stage_one()["config"]))
    assert once.tokenizer.kind == "dual_autoencoder"
    assert once.finetune.epochs == MOVING["epochs"]
    assert ttds.first_stage(once) == once


def test_without_tasks_for_users_there_are_no_codes_for_them(stage_one: Request) -> None:
    request = stage_one(ttds=MOVING | {"mixture": {}, "epochs": 1})
    metrics = tokenized(request)
    assert not any(name.startswith("users.") for name in metrics["towers"][0])
    assert not Path(request["output"], USERS_FOLDER).exists()
    assert not load_model(f"{request['output']}/{LANGUAGE_MODEL}")[2].has_users


def test_an_index_that_is_never_renewed_stays(stage_one: Request) -> None:
    request = stage_one(ttds=MOVING | {"renewals": 0, "epochs": 1})
    metrics = tokenized(request)
    assert metrics["renewals"] == []
    assert metrics["towers"] == [{}]
    config = ttds.first_stage(model_config(request["config"]))
    start = ttds.prepare(config, request["inputs"], ALONE).index
    assert start is not None
    codes_NL = read_codes([request["output"]], LEVELS)
    assert np.array_equal(codes_NL, start.codes_NL)
    found, learned = Codebook.load(request["output"]), start.towers["items"].module.state_dict()
    assert found.autoencoder is not None
    for name, tensor in found.autoencoder.state_dict().items():
        assert name == "codes_LKZ" or torch.equal(tensor, learned[name]), name
    # What later items are read with: the model as it ended, and a codebook that knows its states.
    texts = read_items(f"{request['inputs']['training_set']}/items", ["text"])["text"].to_pylist()
    text_NH = load_file(f"{request['output']}/{VIEWS_FILE}")["text"]
    np.testing.assert_allclose(ttds.item_states(request["output"], texts), text_NH, atol=1e-4)
    np.testing.assert_allclose(found.transform.text_mean_E, text_NH.mean(0), atol=1e-5)


def test_renewals_do_not_open_the_data_anew(stage_one: Request, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[tuple[int, int]] = []
    read = Batches.read

    def counted(self: Batches, epoch: int, shard: int, shards: int, skip: int = 0) -> Iterator[Batch]:
        opened.append((epoch, shard))
        return read(self, epoch, shard, shards, skip)

    monkeypatch.setattr(Batches, "read", counted)
    metrics = tokenized(stage_one(finetune={"batch_size": 8, "shards": 2}))
    assert len(metrics["renewals"]) > 2
    assert opened == [(epoch, shard) for epoch in range(MOVING["epochs"]) for shard in range(2)]


def test_a_killed_training_goes_on_to_the_same_end(
    stage_one: Request, tmp_path: Path, kill: Kill, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object) -> None:
        raise AssertionError("the towers were fitted anew")

    recipe = {"checkpoint_steps": 1, "batch_size": 16}
    undisturbed = stage_one("undisturbed", finetune=recipe)
    expected = tokenized(undisturbed)
    for killed_at in (2, 3, 4, 9):  # before, at and after a renewal; late
        request = stage_one(f"resumed-{killed_at}", finetune=recipe) | {"checkpoints": f"{tmp_path}/kept-{killed_at}"}
        done = kill(killed_at, lambda request=request: ttds.tokenize(request))  # type: ignore[misc]
        with monkeypatch.context() as patched:
            patched.setattr(Codebook, "train", never)  # what the towers know is in the checkpoint
            assert tokenized(request) == expected
        assert len(done) < killed_at + expected["steps"], "it began anew"
        assert files(request["output"]) == files(undisturbed["output"])


def test_two_processes_hold_one_index(stage_one: Request, tmp_path: Path) -> None:
    """As many shards on one process and on two: the same codes at each renewal, the same model. What the second one's
    towers found for themselves, however far off, counts for nothing.
    """
    alone = stage_one("alone", finetune={"shards": 2, "accumulation": 2, "batch_size": 8})
    both = stage_one("both", finetune={"shards": 2, "accumulation": 1, "batch_size": 8})
    expected = tokenized(alone)
    Path(tmp_path / "request.json").write_text(json.dumps(both))
    code = (
        "import json, sys, torch.distributed as dist\n"
        "from model.recommender import ttds\n"
        "from model.recommender.dynamic_index import DynamicIndex\n"
        "refresh = DynamicIndex.refresh\n"
        "def checked(self, *arguments):\n"
        "    for tower in self.towers.values():\n"
        "        for each in tower.module.parameters():\n"
        "            each.data.mul_(1 + dist.get_rank())\n"
        "    refresh(self, *arguments)\n"
        "    tensors, of_users = self.state()[0], self.users.codes(self._history_VH).tolist()\n"
        "    held = [None] * dist.get_world_size()\n"
        "    dist.all_gather_object(held, ({name: each.tolist() for name, each in tensors.items()}, of_users))\n"
        "    assert held[0] == held[1], 'the processes hold different towers or codes'\n"
        "DynamicIndex.refresh = checked\n"
        "ttds.tokenize(json.load(open(sys.argv[1])))\n"
    )
    Path(tmp_path / "two.py").write_text(code)
    run_two(tmp_path / "two.py", tmp_path / "request.json")
    assert np.array_equal(read_codes([both["output"]], LEVELS), read_codes([alone["output"]], LEVELS))
    one, two = (load_file(f"{each['output']}/{LANGUAGE_MODEL}/model.safetensors") for each in (alone, both))
    for name, tensor in one.items():
        np.testing.assert_allclose(two[name], tensor, atol=2e-5)
    assert expected["renewals"]


def test_states_of_texts_do_not_depend_on_their_packing(stage_one: Request, monkeypatch: pytest.MonkeyPatch) -> None:
    request = stage_one(ttds=MOVING | {"epochs": 1}, finetune={"row_tokens": 200, "batch_size": 16})
    tokenized(request)
    packed: list[int] = []

    def counted(lengths: np.ndarray, row_tokens: int) -> Layout:
        packed.append(row_tokens)
        return pack(lengths, row_tokens)

    monkeypatch.setattr(states, "pack", counted)
    model, tokenizer, _ = load_model(f"{request['output']}/{LANGUAGE_MODEL}")
    texts = ["Amber anchor", "", "Dark drum, part 3 and a good deal more", "Blue"]
    found_NH = ttds.item_states(request["output"], texts)
    assert packed == [200]  # as in training, however much the backbone could read
    for text, state_H in zip(texts, found_NH, strict=True):
        if not text:
            assert not state_H.any()
            continue
        ids = torch.tensor([tokenizer(f" {text}", add_special_tokens=False)["input_ids"]])
        with torch.no_grad():
            mean_H = model.base_model(input_ids=ids).last_hidden_state[0].mean(0)
        np.testing.assert_allclose(state_H, mean_H.numpy(), atol=1e-5)
    known = load_file(f"{request['output']}/{VIEWS_FILE}")
    assert known["text"].shape == (ITEMS, found_NH.shape[1])
    assert not text_states(model, np.full((2, 3), -1), 8).any()


def codebook_of(x_NP: np.ndarray) -> Codebook:
    config = TokenizerConfig(levels=2, codes_per_level=4, input_dim=2)
    ids = [f"{row:02}" for row in range(len(x_NP))]
    return Codebook.train(config, ids, x_NP, x_NP, np.ones(len(x_NP), bool))


def test_an_item_moves_only_where_it_is_nearer_by_the_margin() -> None:
    rng = np.random.default_rng(0)
    x_NE = rng.normal(size=(12, 2))
    codebook = codebook_of(x_NE)
    x_NP = codebook.inputs(x_NE, x_NE, np.ones(12, bool))
    assigned_NL = codebook.assign([f"{row:02}" for row in range(12)], x_NP, np.empty((0, 2), np.int64))
    assert np.array_equal(moved(codebook, x_NP, assigned_NL, hysteresis=0.99), assigned_NL)
    shuffled_NL = assigned_NL[rng.permutation(12)]
    after_NL = moved(codebook, x_NP, shuffled_NL, hysteresis=0.1)
    assert len(np.unique(after_NL, axis=0)) == 12
    went_N = (after_NL != shuffled_NL).any(1)
    assert went_N.any()
    taken = {tuple(code) for code in shuffled_NL.tolist()}
    assert not any(tuple(code) in taken for code in after_NL[went_N].tolist())
    away = [((x_NP - codebook.rebuilt(codes_NL)) ** 2).sum(1) for codes_NL in (shuffled_NL, after_NL)]
    assert (away[1][went_N] < 0.9 * away[0][went_N]).all()


def test_code_strings_are_told_from_those_of_their_kind() -> None:
    state_SH, text_SH = torch.tensor([[1.0, 0], [0, 2], [3, 0]]), torch.tensor([[1.0, 0], [0, 1], [0, 1]])
    is_user_S = torch.tensor([False, False, True])
    contrast, distance = string_losses(state_SH, text_SH, is_user_S, temperature=0.5).tolist()
    # The two items have cosines 1 with their own and 0 with the other's text; the user has nobody to be taken for.
    assert contrast == pytest.approx(2 * np.log(1 + np.exp(-2)))
    assert distance == pytest.approx(0 + 1 / 2 + (9 + 1) / 2)


def test_users_without_any_history_cannot_have_codes(stage_one: Request, monkeypatch: pytest.MonkeyPatch) -> None:
    none = Prefixes(np.empty(0, np.int64), np.empty(0, np.int64), np.empty((0, 5), np.int64))
    monkeypatch.setattr(ttds, "read_prefixes", lambda *_: none)
    with pytest.raises(ValueError, match=r"Empty ttds\.mixture"):
        ttds.tokenize(stage_one())


def test_a_margin_that_no_item_can_pass_is_refused(stage_one: Request) -> None:
    with pytest.raises(ValueError, match=r"ttds\.hysteresis = 1\.0 lets no item move"):
        stage_one(ttds={"hysteresis": 1.0})
