"""SASRec as a method of its own: the strongest plain baseline, and the teacher whose item vectors the tokenizer reads.

Shapes: B users, H history items, N items, M later items, E text dimensions, D width.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from model.behaviour.sasrec import PAD, SasRec
from model.behaviour.train import ENCODER_FILE
from model.config import BehaviourConfig
from model.data.files import load_json, load_tensors
from model.evaluation.scored import ScoreRanker, Scores
from model.recommender.methods.base import Ints


def load_encoder(behaviour: str, later_text_ME: np.ndarray | None = None) -> tuple[SasRec, np.ndarray]:
    """The encoder, and how often each of the items that it was trained on was a target.

    `later_text_ME`: text vectors of items that came later, which get vectors from them, or the average item's.
    ValueError for an encoder that knows no order of items.
    """
    shape = load_json(f"{behaviour}/{ENCODER_FILE}")
    config = BehaviourConfig(**shape["behaviour"])
    if config.kind != "sasrec":
        raise ValueError(f"behaviour.kind = {config.kind!r} cannot rank: take sasrec, or fuse without the teacher.")
    weights = load_tensors(f"{behaviour}/model.safetensors")
    known = load_tensors(f"{behaviour}/vectors.safetensors")
    if later_text_ME is not None:
        later_MD = _vectors_of_later(known, later_text_ME)
        weights["item_embedding.weight"] = np.concatenate([known["vectors"], later_MD])
    model = SasRec(len(weights["item_embedding.weight"]), shape["window_items"], config)
    model.load_state_dict({name: torch.from_numpy(values) for name, values in weights.items()})
    return model.eval(), known["count"]


def _vectors_of_later(known: dict[str, np.ndarray], text_ME: np.ndarray) -> np.ndarray:
    if "text_map_ED" not in known:
        return np.repeat(known["vectors"].mean(axis=0, keepdims=True), len(text_ME), axis=0)
    vectors_MD: np.ndarray = ((text_ME - known["text_mean_E"]) @ known["text_map_ED"]).astype(np.float32)
    return vectors_MD


@torch.inference_mode()
def log_probabilities(encoder: SasRec, history_BH: Ints) -> Scores:
    """Of each item to come next [B,N], in nats; uniform for an empty history."""
    log_p: Scores = _logits(encoder, history_BH).log_softmax(dim=1).float().numpy()
    return log_p


def load_ranker(request: dict[str, Any]) -> ScoreRanker:
    """The scores are the logits after the newest item; a user without a history gets the popular items."""
    encoder, count_N = load_encoder(request["inputs"]["behaviour"])

    @torch.inference_mode()
    def score(history_BH: Ints) -> Scores:
        logits: Scores = _logits(encoder, history_BH).numpy()
        return logits

    return ScoreRanker(score, count_N)


def _logits(encoder: SasRec, history_BH: Ints) -> Tensor:
    if history_BH.shape[1] == 0:
        return encoder.item_embedding.weight.new_zeros(len(history_BH), encoder.item_embedding.num_embeddings)
    history_BT = torch.from_numpy(history_BH)
    newest_B = (history_BT != PAD).sum(dim=1) - 1
    state_BD = encoder.encode(history_BT)[torch.arange(len(history_BT)), newest_B.clamp(min=0)]
    state_BD[newest_B < 0] = 0
    logits_BN: Tensor = state_BD @ encoder.item_embedding.weight.T
    return logits_BN
