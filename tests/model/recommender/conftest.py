"""A catalogue that walks in a circle: after item i comes item i + 1. A model that learns at all learns that."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from model.config import BackboneConfig, DecodingConfig, FinetuneConfig, ModelConfig, TokenizerConfig
from model.data.files import save_table, save_tensors
from model.data.targets import LATER_ITEMS
from model.recommender.methods.base import Ints
from model.recommender.trainer import Trainer
from model.recommender.users import UserCoder, Views
from model.tokenizer.codebook import Codebook

ITEMS, WINDOWS, WINDOW, CASES = 30, 96, 8, 10
LEVELS, CODES = 4, 8
COLOURS = ("Amber", "Blue", "Crimson", "Dark", "Emerald")
THINGS = ("anchor", "bottle", "candle", "drum", "engine", "feather")

CONFIG = ModelConfig(
    backbone=BackboneConfig(
        hidden_size=32, layers=1, heads=2, intermediate_size=64, text_vocabulary=300, max_positions=64
    ),
    finetune=FinetuneConfig(epochs=1, batch_size=16, learning_rate=1e-2),
    decoding=DecodingConfig(beam_width=8, top_k=5, batch_tokens=300),
    history_items=5,
    window_items=WINDOW,
)


def item_codes(items: int, seed: int = 0) -> Ints:
    flat = np.random.default_rng(seed).choice(CODES**LEVELS, size=items, replace=False)
    return np.stack(np.unravel_index(flat, (CODES,) * LEVELS), axis=1).astype(np.int64)


def code_table(codes_NL: Ints, first_index: int = 0) -> pa.Table:
    index = np.arange(first_index, first_index + len(codes_NL), dtype=np.int32)
    columns = {"item_index": index, "item_id": [f"i{i}" for i in index], "text_hash": [""] * len(index)}
    return pa.table(columns | {f"code_{level}": codes_NL[:, level].astype(np.int32) for level in range(LEVELS)})


def user_coder(items: int, seed: int = 0) -> UserCoder:
    """Codes of users over items about which random things are known; every fifth has no behaviour."""
    rng = np.random.default_rng(seed)
    text_NE, behaviour_ND = (rng.normal(size=(items, dim)).astype(np.float32) for dim in (6, 4))
    views = Views(text_NE, behaviour_ND, np.arange(items) % 5 > 0)
    config = TokenizerConfig(levels=LEVELS, codes_per_level=CODES, input_dim=4)
    return UserCoder(Codebook.train(config, [str(item) for item in range(items)], *views), views)


def write_inputs(folder: Path) -> dict[str, str]:
    """A training set and a codebook as the steps before write them."""
    titles = [f"{COLOURS[i % 5]} {THINGS[i % 6]}, part {i}" for i in range(ITEMS)]
    ids = [f"i{i}" for i in range(ITEMS)]
    index = pa.array(range(ITEMS), pa.int32())
    hashes = pa.array([""] * ITEMS)
    items = pa.table({"item_index": index, "item_id": ids, "title": titles, "text": titles, "text_hash": hashes})
    save_table(f"{folder}/training_set/items/part-0.parquet", items)
    rng = np.random.default_rng(0)
    length = rng.integers(2, WINDOW + 1, WINDOWS)
    windows = (rng.integers(ITEMS, size=WINDOWS)[:, None] + np.arange(WINDOW)) % ITEMS
    windows[np.arange(WINDOW) >= length[:, None]] = -1
    targets = (windows >= 0) & (np.arange(WINDOW) >= 1)
    # Each window is a user of its own.
    later = np.full((WINDOWS, LATER_ITEMS), -1)
    later[:, :WINDOW] = windows
    lists = pa.list_(pa.int32())
    named = {"items": windows, "targets": targets.astype(int), "later": later}
    sequences = pa.table(
        {"user_id": [f"u{user}" for user in range(WINDOWS)]}
        | {name: pa.array(rows.tolist(), lists) for name, rows in named.items()}
    )
    (folder / "training_set/sequences").mkdir(parents=True)
    pq.write_table(sequences, folder / "training_set/sequences/part-0.parquet", row_group_size=24)
    cases = (rng.integers(ITEMS, size=CASES)[:, None] + np.arange(CONFIG.history_items + 1)) % ITEMS
    history, target = cases[:, :-1], cases[:, -1]
    validation = {"items": pa.array(history.tolist(), lists), "target": pa.array(target, pa.int32())}
    save_table(f"{folder}/training_set/validation/part-0.parquet", pa.table(validation))
    angle_N = np.arange(ITEMS) / ITEMS * 2 * np.pi
    on_circle_ND = np.stack([np.cos(angle_N), np.sin(angle_N)], axis=1).astype(np.float32)
    save_tensors(
        f"{folder}/behaviour/vectors.safetensors", {"vectors": on_circle_ND, "count": np.ones(ITEMS, np.int64)}
    )
    save_table(f"{folder}/behaviour/items.parquet", pa.table({"item_index": index, "item_id": ids}))
    save_table(f"{folder}/codebook/items.parquet", code_table(item_codes(ITEMS)))
    save_tensors(f"{folder}/codebook/codebook.safetensors", {"centroids_LKP": rng.normal(size=(LEVELS, CODES, 6))})
    return {"training_set": str(folder / "training_set"), "codebook": str(folder / "codebook")}


@pytest.fixture(scope="session")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return write_inputs(tmp_path_factory.mktemp("circle"))


@pytest.fixture
def request_of(inputs: dict[str, str], tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """request_of(name, backbone={…}, finetune={…}, …): a request with settings changed and an output of its own."""

    def make(name: str = "model", **changes: dict[str, Any]) -> dict[str, Any]:
        parts = {part: replace(getattr(CONFIG, part), **fields) for part, fields in changes.items()}
        config = replace(CONFIG, **parts)
        return {"config": asdict(config), "inputs": inputs, "output": str(tmp_path / name)}

    return make


@pytest.fixture
def kill(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, Callable[[], object]], list[int]]:
    """kill(at, train): train until that step begins; a list of the steps begun, which grows with later ones."""

    def until(at: int, train: Callable[[], object]) -> list[int]:
        step, begun = Trainer._step, []

        def dies(self: Trainer, *arguments: Any) -> Any:
            begun.append(self.position.step)
            if len(begun) == at:
                raise KeyboardInterrupt
            return step(self, *arguments)

        monkeypatch.setattr(Trainer, "_step", dies)
        with pytest.raises(KeyboardInterrupt):
            train()
        return begun

    return until
