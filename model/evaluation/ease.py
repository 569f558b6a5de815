"""EASE: the linear model of a user's items by the user's other items, in closed form (Steck 2019, arXiv 1905.03375).

B = I - P / diag(P), P = (M'M + lambda I)^-1, M = users x items; score = sum over the history of the item's row of B.
Its memory is that of N x N numbers: a baseline for catalogues of some ten thousand items.

Shapes: N items, B users, H history items.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.linalg
from scipy import sparse

from model.data.files import load_tensors, save_tensors
from model.data.targets import count_items, read_targets
from model.evaluation.scored import ScoreRanker
from model.recommender.methods.base import PAD, Ints

Scores = npt.NDArray[np.float32]

FILE = "ease.safetensors"
REGULARISATION = 100.0
MOST_ITEMS = 30_000


def train(request: dict[str, Any]) -> dict[str, Any]:
    """Writes weights [N,N] float32 and count [N]. ValueError for a catalogue of more than MOST_ITEMS items."""
    training_set = request["inputs"]["training_set"]
    items = count_items(training_set)
    if items > MOST_ITEMS:
        raise ValueError(f"ease holds a matrix of items by items: {items} are more than {MOST_ITEMS}. Leave it out.")
    user_E, item_E = read_targets(training_set)
    user_items = sparse.csr_array((np.ones(user_E.size, np.float32), (user_E, item_E)), shape=(user_E.max() + 1, items))
    user_items.data[:] = 1
    gram = (user_items.T @ user_items).toarray()
    gram[np.diag_indices(items)] += REGULARISATION
    factor, _ = scipy.linalg.lapack.spotrf(gram, lower=True, overwrite_a=True)
    inverse, _ = scipy.linalg.lapack.spotri(factor, lower=True, overwrite_c=True)
    inverse = np.tril(inverse) + np.tril(inverse, -1).T
    weights = -inverse / np.diag(inverse)
    np.fill_diagonal(weights, 0)
    count_N = np.bincount(item_E, minlength=items)
    save_tensors(f"{request['output']}/{FILE}", {"weights": weights, "count": count_N})
    return {"items": items, "targets": len(item_E)}


def load_ranker(request: dict[str, Any]) -> ScoreRanker:
    tensors = load_tensors(f"{request['inputs']['ease']}/{FILE}")
    weights_NN = tensors["weights"]

    def score(history_BH: Ints) -> Scores:
        known_BH = history_BH != PAD
        rows = np.broadcast_to(np.arange(len(history_BH))[:, None], history_BH.shape)[known_BH]
        shape = (len(history_BH), len(weights_NN))
        taken = sparse.csr_array((np.ones(rows.size, np.float32), (rows, history_BH[known_BH])), shape=shape)
        return np.asarray(taken @ weights_NN, dtype=np.float32)

    return ScoreRanker(score, tensors["count"])
