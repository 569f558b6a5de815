"""From artefacts to a codebook's folder, and on to codes for new items."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from model.config import ModelConfig, TokenizerConfig
from model.data.files import load_json, save_table, save_tensors
from model.data.reader import read_items
from model.tokenizer.train import append_codes, train_tokenizer, write_item_codes

CONFIG = ModelConfig(tokenizer=TokenizerConfig(levels=3, codes_per_level=8, input_dim=4))
ITEMS = 60


@pytest.fixture
def request_(tmp_path: Path) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    table = pa.table(
        {
            "item_index": pa.array(range(ITEMS), pa.int32()),
            "item_id": [f"i{i:02}" for i in range(ITEMS)],
            "title": [f"title {i}" for i in range(ITEMS)],
            "text_hash": [f"hash {i}" for i in range(ITEMS)],
        }
    )
    save_table(f"{tmp_path}/training_set/items/0.parquet", table)
    save_table(f"{tmp_path}/behaviour/items.parquet", table.drop_columns("text_hash"))
    count_N = (np.arange(ITEMS) % 3).astype(np.int64)
    behaviour = {"vectors": rng.normal(size=(ITEMS, 6)).astype(np.float32), "count": count_N}
    save_tensors(f"{tmp_path}/behaviour/vectors.safetensors", behaviour)
    sequences = {"user_id": ["a", "b"], "items": [[0, 1, 2], [1, 2, -1]], "targets": [[1, 1, 1], [1, 1, 0]]}
    save_table(f"{tmp_path}/training_set/sequences/0.parquet", pa.table(sequences))
    save_tensors(f"{tmp_path}/text.safetensors", {"vectors": rng.normal(size=(ITEMS, 7)).astype(np.float32)})
    inputs = {
        "training_set": f"{tmp_path}/training_set",
        "behaviour": f"{tmp_path}/behaviour",
        "text_vectors": f"{tmp_path}/text.safetensors",
    }
    return {"config": dataclasses.asdict(CONFIG), "inputs": inputs, "output": f"{tmp_path}/codebook"}


def codes_of(uri: str) -> np.ndarray:
    table = read_items(uri, ["code_0", "code_1", "code_2"])
    return np.column_stack([column.to_numpy().astype(np.int64) for column in table.columns])


@pytest.mark.parametrize("kind", ["residual_kmeans", "autoencoder", "dual_autoencoder"])
def test_a_codebook_and_its_addition(request_: dict[str, Any], kind: str) -> None:
    request_["config"]["tokenizer"] |= {"kind": kind, "epochs": 12, "check_every": 4}
    figures = train_tokenizer(request_)
    output = request_["output"]
    assert load_json(f"{output}/health.json") == figures
    assert (figures["items"], figures["items_with_behaviour"], figures["collisions_after"]) == (ITEMS, 40, 0)
    assert [depth["levels"] for depth in figures["neighbours"]] == [1, 2]
    assert sum(level["prefixes"] for level in figures["tree"][-1:]) == ITEMS
    assert figures["examples"][0]["titles"][0].startswith("title ")
    items = read_items(f"{output}/items.parquet", ["item_id", "text_hash"])
    assert items.to_pylist()[7] == {"item_id": "i07", "text_hash": "hash 7"}

    codes_NL = codes_of(f"{output}/items.parquet")
    text_NE = np.random.default_rng(1).normal(size=(5, 7)).astype(np.float32)
    ids = [f"new {i}" for i in range(5)]
    added_NL = append_codes(output, ids, text_NE, codes_NL)
    assert len(np.unique(np.concatenate([codes_NL, added_NL]), axis=0)) == ITEMS + 5
    write_item_codes(f"{output}/added/items.parquet", ids, ["hash"] * 5, added_NL, first_index=ITEMS)
    with pytest.raises(ValueError, match="from 0 to 4"):
        codes_of(f"{output}/added/items.parquet")


def test_the_same_request_gives_the_same_files(request_: dict[str, Any]) -> None:
    again = request_ | {"output": request_["output"] + "-again"}
    train_tokenizer(request_)
    train_tokenizer(again)
    for file in Path(request_["output"]).iterdir():
        assert file.read_bytes() == Path(again["output"], file.name).read_bytes()


def test_mistakes_are_named(request_: dict[str, Any], tmp_path: Path) -> None:
    small = dataclasses.replace(CONFIG, tokenizer=dataclasses.replace(CONFIG.tokenizer, levels=2, codes_per_level=7))
    with pytest.raises(ValueError, match=r"60 items need a code .* 2 levels of 7 codes name only 49"):
        train_tokenizer(request_ | {"config": dataclasses.asdict(small)})
    save_table(f"{tmp_path}/behaviour/items.parquet", pa.table({"item_index": [0], "item_id": ["other"]}))
    with pytest.raises(ValueError, match="is about other items"):
        train_tokenizer(request_)
    sequences = {"user_id": ["a", "b"], "items": [[0, 1, 2], [1, 2, -1]], "targets": [[1, 1, 1], [1, 1, 0]]}
    save_table(f"{tmp_path}/training_set/sequences/0.parquet", pa.table(sequences))
    save_tensors(f"{tmp_path}/text.safetensors", {"vectors": np.zeros((3, 7), np.float32)})
    with pytest.raises(ValueError, match="has 3 vectors for 60 items"):
        train_tokenizer(request_)
