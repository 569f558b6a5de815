"""What is known of all items for a history before the language model is asked: the dense signals of late fusion [ours].

teacher               log-probability after the sequential encoder
item_knn, successor   log of the item's share of that floor's scores, plus a constant for the items without any
text, last_text       cosine of the item's text with the history's, weighed by .7^age, and with the newest item's

Shapes: B users, H history items, N items, D encoder width, E text dimensions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, get_args

import numpy as np
import torch
from scipy import sparse

from model.behaviour.ranker import load_encoder, log_probabilities
from model.behaviour.sasrec import SasRec
from model.config import SignalName
from model.data.files import load_tensors
from model.evaluation.cooccurrence import DECAYS, decayed_sum, load_weights
from model.recommender.methods.base import PAD, Floats, Ints

LANGUAGE_MODEL: SignalName = "language_model"
DENSE: tuple[SignalName, ...] = tuple(name for name in get_args(SignalName) if name != LANGUAGE_MODEL)
COUNTS = "cooccurrence"
TEXT_VECTORS_FILE = "text_vectors.safetensors"
SHARE_OF_NONE = 1e-4
TEXT_DECAY = 0.7


class Signals:
    """The dense signals of a catalogue, items that came after the training included."""

    def __init__(self, encoder: SasRec, weights: dict[str, sparse.csr_array], text_NE: Floats) -> None:
        """`text_NE`: of unit length. The encoder and the weights are of N items, too."""
        self._encoder, self._weights, self._text_NE = encoder, weights, text_NE

    @classmethod
    def load(cls, inputs: dict[str, Any], counts: str) -> Signals:
        """`inputs`: "behaviour", "text_vectors" and, optionally, "codebook_additions"; `counts`: URI of COUNTS."""
        later = (f"{folder}/{TEXT_VECTORS_FILE}" for folder in inputs.get("codebook_additions", ()))
        text_NE = np.concatenate([load_tensors(uri)["vectors"] for uri in (inputs["text_vectors"], *later)])
        encoder, _ = load_encoder(inputs["behaviour"], text_NE)
        length_N1 = np.linalg.norm(text_NE, axis=1, keepdims=True)
        text_NE = np.divide(text_NE, length_N1, out=np.zeros_like(text_NE), where=length_N1 > 0)
        return cls(encoder, load_weights(counts, COUNTS, len(text_NE)), text_NE)

    @property
    def items(self) -> int:
        return len(self._text_NE)

    def __call__(self, history_BH: Ints, names: Sequence[SignalName]) -> dict[SignalName, Floats]:
        """Scores [B,N] of each of these signals."""
        return {name: self._signal(name, history_BH) for name in names if name != LANGUAGE_MODEL}

    def _signal(self, name: SignalName, history_BH: Ints) -> Floats:
        if name == "teacher":
            return log_probabilities(self._encoder, history_BH)
        if name == "text":
            known_BH = history_BH != PAD
            age_BH = np.maximum(known_BH.sum(axis=1, keepdims=True) - 1 - np.arange(history_BH.shape[1]), 0)
            return self._alike(history_BH, np.where(known_BH, TEXT_DECAY**age_BH, 0))
        if name == "last_text":
            newest_B1 = (history_BH != PAD).sum(axis=1, keepdims=True) - 1
            return self._alike(np.take_along_axis(history_BH, newest_B1.clip(min=0), axis=1), (newest_B1 >= 0) * 1.0)
        scores_BN = decayed_sum(history_BH, self._weights[name], DECAYS[name])
        shares_BN = scores_BN / np.maximum(scores_BN.sum(axis=1, keepdims=True), 1e-9)
        logarithms_BN: Floats = np.log(shares_BN + SHARE_OF_NONE)
        return logarithms_BN

    def _alike(self, items_BH: Ints, weight_BH: np.ndarray) -> Floats:
        """Cosines [B,N] of all texts with the weighted sum of these items'."""
        sum_BE = np.einsum("bh,bhe->be", weight_BH.astype(np.float32), self._text_NE[items_BH.clip(min=0)])
        length_B1 = np.linalg.norm(sum_BE, axis=1, keepdims=True)
        sum_BE = np.divide(sum_BE, length_B1, out=np.zeros_like(sum_BE), where=length_B1 > 0)
        alike_BN: Floats = (torch.from_numpy(sum_BE) @ torch.from_numpy(self._text_NE).T).numpy()
        return alike_BN
