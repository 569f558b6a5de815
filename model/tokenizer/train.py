"""Train the item tokenizer: from item vectors to a frozen codebook, one code for every item, and the health figures.

The request is {"config": ModelConfig as JSON, "inputs": {"training_set": URI, "behaviour": URI, "text_vectors": URI of
a safetensors file {vectors [N,E]} in the order of item_index}, "output": URI of a folder}. Written there:
`codebook.safetensors`, `codebook.json`, `items.parquet` (item_index, item_id, text_hash, code_0 …), `health.json` and
`picture.safetensors` {place [N,2] float32, first [N] int64: the first codes}.

Shapes: N items, M codes taken already, D behaviour dimensions, E text dimensions, L levels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from model.config import model_config
from model.data.files import ITEMS_FILE, load_tensors, save_json, save_table, save_tensors
from model.data.reader import read_items
from model.data.targets import read_targets
from model.tokenizer.codebook import Codebook
from model.tokenizer.health import health, reserve
from model.tokenizer.neighbours import preservation, together
from model.tokenizer.portrait import examples, picture, tree
from model.tokenizer.quantizer import Ints

SAMPLED_BATCHES = 16
"""Of windows, for the figures on neighbours: the training set grows with the users, the tokenizer must not."""


def train_tokenizer(request: dict[str, Any]) -> dict[str, Any]:
    """Train and write the codebook; returns the health figures.

    Raises ValueError when the inputs are not about the same items, or the catalogue is larger than the code space.
    """
    config, inputs = model_config(request["config"]).tokenizer, request["inputs"]
    item_ids = read_items(f"{inputs['training_set']}/items", ["item_id"])["item_id"].to_pylist()
    text_NE = load_tensors(inputs["text_vectors"])["vectors"]
    if len(text_NE) != len(item_ids):
        raise ValueError(f"{inputs['text_vectors']} has {len(text_NE)} vectors for {len(item_ids)} items. Embed again.")
    behaviour_ND, has_behaviour_N = read_behaviour(inputs, item_ids)
    codebook = Codebook.train(config, item_ids, text_NE, behaviour_ND, has_behaviour_N)
    x_NP = codebook.inputs(text_NE, behaviour_ND, has_behaviour_N)
    codes_NL = codebook.assign(item_ids, x_NP, np.empty((0, config.levels), np.int64))
    return write_codebook(request["output"], codebook, inputs["training_set"], x_NP, codes_NL, has_behaviour_N)


def read_behaviour(inputs: dict[str, str], item_ids: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Vectors [N,D] of the behaviour encoder, and which items have behaviour [N]. ValueError for other items."""
    if read_items(f"{inputs['behaviour']}/items.parquet", ["item_id"])["item_id"].to_pylist() != item_ids:
        raise ValueError(f"{inputs['behaviour']} is about other items than {inputs['training_set']}. Train it again.")
    behaviour = load_tensors(f"{inputs['behaviour']}/vectors.safetensors")
    return behaviour["vectors"], behaviour["count"] > 0


def write_codebook(
    output: str,
    codebook: Codebook,
    training_set: str,
    x_NP: np.ndarray,
    codes_NL: Ints,
    has_behaviour_N: np.ndarray,
) -> dict[str, Any]:
    """Everything of a codebook's folder; returns the health figures. `x_NP`: the codebook's inputs of the items."""
    config = codebook.config
    items = read_items(f"{training_set}/items", ["item_id", "title", "text_hash"])
    user_E, item_E = read_targets(training_set, SAMPLED_BATCHES)
    figures = health(codebook, x_NP, codes_NL) | {
        "items_with_behaviour": int(has_behaviour_N.sum()),
        # On what the encoder saw: whether codes keep what the vectors know, not whether that is true.
        "neighbours": preservation(codes_NL, *together(user_E, item_E, len(codes_NL))),
        "reserve": reserve(codes_NL, config.codes_per_level),
        "tree": tree(codes_NL),
        "examples": examples(x_NP, codes_NL, items["title"].to_pylist()),
    }
    save_tensors(f"{output}/picture.safetensors", {"place": picture(x_NP), "first": codes_NL[:, 0].copy()})
    codebook.save(output)
    item_ids, text_hashes = (items[name].to_pylist() for name in ("item_id", "text_hash"))
    write_item_codes(f"{output}/{ITEMS_FILE}", item_ids, text_hashes, codes_NL)
    save_json(f"{output}/health.json", figures)
    return figures


def append_codes(codebook_uri: str, item_ids: Sequence[str], text_NE: np.ndarray, taken_ML: Ints) -> Ints:
    """Codes [N,L] for new items from their text vectors; `taken_ML` are the codebook's own and all additions so far."""
    return Codebook.load(codebook_uri).append(item_ids, text_NE, taken_ML)


def write_item_codes(
    uri: str, item_ids: Sequence[str], text_hashes: Sequence[str], codes_NL: Ints, first_index: int = 0
) -> None:
    """One row an item (item_index, item_id, text_hash, code_0 …); indices go on from `first_index`."""
    index_N = np.arange(first_index, first_index + len(item_ids), dtype=np.int32)
    codes = {f"code_{level}": codes_N.astype(np.int32) for level, codes_N in enumerate(codes_NL.T)}
    save_table(uri, pa.table({"item_index": index_N, "item_id": item_ids, "text_hash": text_hashes, **codes}))
