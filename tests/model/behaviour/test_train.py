"""The encoder learns a pattern, gives the same artefact twice, and trains in two processes."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from model.behaviour.ranker import load_encoder
from model.behaviour.train import train_behaviour
from model.config import BehaviourConfig, ModelConfig
from model.data.files import load_json, load_tensors, save_json, save_tensors
from model.data.reader import read_items
from tests.two_processes import run_two

ITEMS, WINDOW = 20, 6
CONFIG = ModelConfig(
    behaviour=BehaviourConfig(
        dim=16, layers=1, heads=2, dropout=0.0, epochs=12, batch_size=16, learning_rate=0.01, text_dim=4
    ),
    window_items=WINDOW,
)


@pytest.fixture
def request_(tmp_path: Path) -> dict[str, Any]:
    """200 windows that count upwards from a random item, modulo 20; the last item never occurs."""
    rng = np.random.default_rng(0)
    items, targets = [], []
    for _ in range(200):
        length = int(rng.integers(2, WINDOW + 1))
        items.append([*((rng.integers(ITEMS) + np.arange(length)) % (ITEMS - 1)), *[-1] * (WINDOW - length)])
        targets.append([0, *[1] * (length - 1), *[0] * (WINDOW - length)])
    training_set = tmp_path / "training_set"
    for name in ("items", "sequences"):
        (training_set / name).mkdir(parents=True)
    index = list(range(ITEMS))
    pq.write_table(
        pa.table({"item_index": index, "item_id": [f"i{i:02}" for i in index]}), training_set / "items/0.parquet"
    )
    pq.write_table(
        pa.table(
            {
                "user_id": [f"user {window}" for window in range(len(items))],
                "items": pa.array(items, pa.list_(pa.int32())),
                "targets": pa.array(targets, pa.list_(pa.int32())),
            }
        ),
        training_set / "sequences/0.parquet",
        row_group_size=50,
    )
    text_vectors = f"{tmp_path}/text_vectors.safetensors"
    save_tensors(text_vectors, {"vectors": rng.normal(size=(ITEMS, 6)).astype(np.float32)})
    return {
        "config": dataclasses.asdict(CONFIG),
        "inputs": {"training_set": str(training_set), "text_vectors": text_vectors},
        "output": str(tmp_path / "behaviour"),
    }


def test_it_learns_and_writes_the_artefact(request_: dict[str, Any]) -> None:
    metrics = train_behaviour(request_)
    assert metrics["loss_by_epoch"][0] > 2.0  # nats; a blind guess costs ln 20 = 3.0
    assert metrics["loss"] < 0.5
    assert metrics["items_with_behaviour"] == ITEMS - 1
    tensors = load_tensors(f"{request_['output']}/vectors.safetensors")
    assert tensors["vectors"].shape == (ITEMS, 16)
    assert tensors["count"][-1] == 0
    assert tensors["count"].sum() == metrics["targets"]
    items = read_items(f"{request_['output']}/items.parquet", ["item_id"])
    assert items["item_id"].to_pylist() == [f"i{i:02}" for i in range(ITEMS)]
    assert load_json(f"{request_['output']}/metrics.json") == metrics


def test_the_same_request_gives_the_same_weights(request_: dict[str, Any]) -> None:
    again = request_ | {"output": request_["output"] + "-again"}
    for one in (request_, again):
        one["config"]["behaviour"]["epochs"] = 1
        one["config"]["behaviour"]["dropout"] = 0.2
        train_behaviour(one)
    for file in ("model.safetensors", "vectors.safetensors"):
        assert Path(request_["output"], file).read_bytes() == Path(again["output"], file).read_bytes()


@pytest.mark.parametrize("kind", ["sasrec", "dccf"])
def test_two_processes_train_one_model(request_: dict[str, Any], tmp_path: Path, kind: str) -> None:
    request_["config"]["behaviour"]["kind"] = kind
    save_json(f"{tmp_path}/request.json", request_)
    run_two("-m", "model.behaviour.train", tmp_path / "request.json")
    metrics = json.loads(Path(request_["output"], "metrics.json").read_text())
    assert metrics["loss"] < 0.8


def test_what_it_read_of_texts_is_in_the_items_vectors(request_: dict[str, Any]) -> None:
    """The encoder opens without texts; the text of a later item gives it a vector, the average item's if texts are
    not read."""
    train_behaviour(request_)
    text_NE = load_tensors(request_["inputs"]["text_vectors"])["vectors"]
    encoder, count_N = load_encoder(request_["output"])
    assert len(count_N) == encoder.item_embedding.num_embeddings == ITEMS
    known = load_tensors(f"{request_['output']}/vectors.safetensors")
    assert np.array_equal(encoder.item_embedding.weight.detach().numpy(), known["vectors"])
    grown, _ = load_encoder(request_["output"], text_NE[3:4] - 1)
    later_D = grown.item_embedding.weight[ITEMS].detach().numpy()
    expected_D = (text_NE[3] - 1 - known["text_mean_E"]) @ known["text_map_ED"]
    np.testing.assert_allclose(later_D, expected_D, atol=1e-5)
    request_["config"]["behaviour"]["text_dim"] = 0
    train_behaviour(request_)
    grown, _ = load_encoder(request_["output"], text_NE[:1])
    vectors_ND = grown.item_embedding.weight.detach().numpy()
    np.testing.assert_allclose(vectors_ND[ITEMS], vectors_ND[:ITEMS].mean(axis=0), atol=1e-6)


def test_texts_that_do_not_fit_are_refused(request_: dict[str, Any]) -> None:
    save_tensors(request_["inputs"]["text_vectors"], {"vectors": np.zeros((3, 6), np.float32)})
    with pytest.raises(ValueError, match=r"has 3 vectors for 20 items. Embed again."):
        train_behaviour(request_)
    del request_["inputs"]["text_vectors"]
    with pytest.raises(ValueError, match=r"behaviour.text_dim = 4 needs the items' text vectors; 0 does without"):
        train_behaviour(request_)


def test_mistakes_are_named(request_: dict[str, Any]) -> None:
    request_["config"]["behaviour"]["learning_rate"] = float("inf")
    with pytest.raises(ValueError, match=r"loss is nan at step 1 of epoch 0. Lower behaviour.learning_rate"):
        train_behaviour(request_)
    request_["config"]["window_items"] = 7
    with pytest.raises(ValueError, match=r"windows of 6, but model.window_items = 7"):
        train_behaviour(request_)
    request_["config"]["windows"] = 7
    with pytest.raises(ValueError, match=r"Settings model have unknown key\(s\) windows"):
        train_behaviour(request_)
