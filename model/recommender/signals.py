"""What is known of all items for a history before the language model is asked: the dense signals of late fusion [ours].

teacher               log-probability after the sequential encoder
item_knn, successor   log of the item's share of that floor's scores, plus a constant for the items without any
words                 cosine of the tf-idf of the item's text with that of the history's, weighed by .7^age; 0 for the
                      history's own items

What is said for a user does not depend on the batch: the encoder computes in float64, whose rounding errors are gone
when its log-probabilities become float32; sparse products go row by row.

Shapes: B users, H history items, N items, V terms.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, get_args

import numpy as np
import numpy.typing as npt
from scipy import sparse

from model.behaviour.ranker import load_encoder, log_probabilities
from model.behaviour.sasrec import SasRec
from model.config import DenseName, SignalName
from model.data.files import TEXT_VECTORS_FILE, TEXTS_FILE, load_json, load_tensors, save_json
from model.data.reader import item_column
from model.evaluation import cooccurrence
from model.evaluation.cooccurrence import DECAYS, decayed_sum, load_weights
from model.recommender.methods.base import PAD, Floats, Ints
from model.recommender.words import Words

DENSE: tuple[SignalName, ...] = get_args(DenseName)
COUNTS = "cooccurrence"
WORDS_FILE = "words.json"
SHARE_OF_NONE = 1e-4
TEXT_DECAY = 0.7


class Signals:
    """The dense signals of a catalogue, items that came after the training included."""

    def __init__(
        self, encoder: SasRec | None, weights: dict[str, sparse.csr_array], words_NV: sparse.csr_array
    ) -> None:
        """`words_NV`: rows of unit length. The encoder, if the teacher is asked for, and weights are of N items too."""
        self._encoder, self._weights = encoder and encoder.double(), weights
        self._words_NV, self._words_VN = words_NV, sparse.csr_array(words_NV.T)

    @classmethod
    def load(cls, inputs: dict[str, Any], counted: str, names: Sequence[SignalName] = DENSE) -> Signals:
        """`inputs`: "training_set", "behaviour" for the teacher and, optionally, "codebook_additions".

        `counted`: URI of what `count` wrote. `names`: the signals that will be asked for.
        """
        later = inputs.get("codebook_additions", ())
        tables = [f"{inputs['training_set']}/items", *(f"{folder}/{TEXTS_FILE}" for folder in later)]
        texts = [text for uri in tables for text in item_column(uri, "text")]
        words_NV = Words(**load_json(f"{counted}/{WORDS_FILE}")).vectors(texts)
        encoder = None
        if "teacher" in names:
            vectors = [load_tensors(f"{folder}/{TEXT_VECTORS_FILE}")["vectors"] for folder in later]
            encoder, _ = load_encoder(inputs["behaviour"], np.concatenate(vectors) if vectors else None)
        return cls(encoder, load_weights(counted, COUNTS, len(texts)), words_NV)

    @property
    def items(self) -> int:
        return int(self._words_NV.shape[0])

    def __call__(self, history_BH: Ints, names: Sequence[SignalName]) -> dict[SignalName, Floats]:
        """Scores [B,N] of each of these signals."""
        return {name: self._signal(name, history_BH) for name in names if name in DENSE}

    def _signal(self, name: SignalName, history_BH: Ints) -> Floats:
        if name == "teacher":
            assert self._encoder is not None
            return log_probabilities(self._encoder, history_BH)
        if name == "words":
            return self._words(history_BH)
        scores_BN = decayed_sum(history_BH, self._weights[name], DECAYS[name])
        shares_BN = scores_BN / np.maximum(scores_BN.sum(axis=1, keepdims=True), 1e-9)
        logarithms_BN: Floats = np.log(shares_BN + SHARE_OF_NONE)
        return logarithms_BN

    def _words(self, history_BH: Ints) -> Floats:
        weight_BH = _by_age(history_BH)
        row_BH = np.broadcast_to(np.arange(len(history_BH))[:, None], history_BH.shape)
        known_BH = history_BH != PAD
        ages = sparse.csr_array(
            (weight_BH[known_BH], (row_BH[known_BH], history_BH[known_BH])), shape=(len(history_BH), self.items)
        )
        sum_BV = sparse.csr_array(ages @ self._words_NV)
        length_B1 = np.sqrt(np.asarray((sum_BV**2).sum(axis=1)))[:, None]
        alike_BN = (sum_BV @ self._words_VN).toarray()
        np.divide(alike_BN, length_B1, out=alike_BN, where=length_B1 > 0)
        # That an item is like itself is no reason to take it again.
        alike_BN[row_BH[known_BH], history_BH[known_BH]] = 0
        cosines_BN: Floats = alike_BN.astype(np.float32)
        return cosines_BN


def count(inputs: dict[str, Any], output: str) -> None:
    """Count what signals are made of, on the training set: what goes with what, and words."""
    cooccurrence.train({"inputs": inputs, "output": output}, COUNTS)
    save_json(f"{output}/{WORDS_FILE}", asdict(Words.of(item_column(f"{inputs['training_set']}/items", "text"))))


def _by_age(history_BH: Ints) -> npt.NDArray[np.float64]:
    known_BH = history_BH != PAD
    age_BH = np.maximum(known_BH.sum(axis=1, keepdims=True) - 1 - np.arange(history_BH.shape[1]), 0)
    return np.where(known_BH, TEXT_DECAY**age_BH, 0.0)
