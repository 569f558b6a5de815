"""SASRec as a method of its own: the strongest plain baseline, and the teacher whose item vectors the tokenizer reads.

Shapes: B users, H history items, N items.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from model.behaviour.sasrec import PAD, SasRec
from model.config import model_config
from model.data.files import load_tensors
from model.evaluation.scored import ScoreRanker, Scores
from model.recommender.methods.base import Ints


def load_ranker(request: dict[str, Any]) -> ScoreRanker:
    """The scores are the logits after the newest item; a user without a history gets the popular items."""
    config, behaviour = model_config(request["config"]), request["inputs"]["behaviour"]
    weights = load_tensors(f"{behaviour}/model.safetensors")
    count_N = load_tensors(f"{behaviour}/vectors.safetensors")["count"]
    model = SasRec(len(count_N), config.window_items, config.behaviour)
    model.load_state_dict({name: torch.from_numpy(values) for name, values in weights.items()})
    model.eval()

    def score(history_BH: Ints) -> Scores:
        if history_BH.shape[1] == 0:
            return np.zeros((len(history_BH), len(count_N)), np.float32)
        history_BT = torch.from_numpy(history_BH)
        newest_B = (history_BT != PAD).sum(dim=1) - 1
        with torch.inference_mode():
            state_BD = model.encode(history_BT)[torch.arange(len(history_BT)), newest_B.clamp(min=0)]
            state_BD[newest_B < 0] = 0
            scores: Scores = (state_BD @ model.item_embedding.weight.T).numpy()
        return scores

    return ScoreRanker(score, count_N)
