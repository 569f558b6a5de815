"""Floors: what counting which items go together can do, on two cores. They beat many published models.

item_knn      M = users x items, C = M' diag(1 / sqrt(items of the user)) M without its diagonal, n = item counts:
              W = diag(n^-.5) C diag(n^-.25); score = sum over the history of .8^age W[i]
successor     T[i,j] += 1 / gap for the three items before j, rows of T sum to 1; score = sum of .5^age T[i]
cooccurrence  the two, each divided by its greatest value for the user, added

Ages count from 0 at the newest item [ours, all three].

Shapes: N items, B users, H history items, E events, T window.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import sparse

from model.data.files import load_tensors, save_tensors
from model.data.targets import count_items, read_targets, read_windows
from model.evaluation.scored import ScoreRanker
from model.recommender.methods.base import PAD, Ints

Scores = npt.NDArray[np.float32]

KNN, SUCCESSOR = "item_knn", "successor"
DECAYS = {KNN: 0.8, SUCCESSOR: 0.5}
PARTS = {KNN: (KNN,), SUCCESSOR: (SUCCESSOR,), "cooccurrence": (KNN, SUCCESSOR)}
"""What each method adds up."""
PIECES = ("data", "indices", "indptr")
REACH = 3
"""How many items before an item count as the ones that it succeeds."""


def follow_counts(training_set: str, items: int) -> sparse.csr_array:
    """[N,N]: how often, and how closely, an item followed another. What stands before a target stands in its window."""
    follows = sparse.csr_array((items, items), dtype=np.float64)
    for _, item_BT, wanted_BT in read_windows(training_set):
        for gap in range(1, REACH + 1):
            before, after = item_BT[:, :-gap], item_BT[:, gap:]
            pairs = wanted_BT[:, gap:] & (before != PAD)
            weight = np.full(int(pairs.sum()), 1 / gap)
            follows += sparse.csr_array((weight, (before[pairs], after[pairs])), shape=follows.shape)
    return follows


def item_knn_weights(user_E: Ints, item_E: Ints, items: int) -> sparse.csr_array:
    """W [N,N] as above."""
    user_items = sparse.csr_array((np.ones(user_E.size), (user_E, item_E)), shape=(user_E.max() + 1, items))
    user_items.data[:] = 1  # an item that somebody took twice counts once
    together = user_items.T @ sparse.diags_array(user_items.sum(axis=1) ** -0.5) @ user_items
    together = sparse.csr_array(together - sparse.diags_array(together.diagonal()))
    count_N = np.maximum(user_items.sum(axis=0), 1)
    weights = sparse.diags_array(count_N**-0.5) @ together @ sparse.diags_array(count_N**-0.25)
    return _without_zeros(weights)


def successor_weights(follows: sparse.csr_array) -> sparse.csr_array:
    """T [N,N] as above."""
    sums_N = follows.sum(axis=1)
    return _without_zeros(
        sparse.diags_array(np.divide(1, sums_N, out=np.zeros_like(sums_N), where=sums_N > 0)) @ follows
    )


def decayed_sum(history_BH: Ints, weights: sparse.csr_array, decay: float) -> Scores:
    """[B,N]: sum over the history of decay^age times the item's row of `weights`."""
    known_BH = history_BH != PAD
    age_BH = known_BH.sum(axis=1, keepdims=True) - 1 - np.arange(history_BH.shape[1])
    rows = np.broadcast_to(np.arange(len(history_BH))[:, None], history_BH.shape)[known_BH]
    shape = (len(history_BH), weights.shape[0])
    ages = sparse.csr_array((decay ** age_BH[known_BH], (rows, history_BH[known_BH])), shape=shape)
    scores: Scores = (ages @ weights).toarray().astype(np.float32)
    return scores


def _without_zeros(weights: Any) -> sparse.csr_array:
    weights = sparse.csr_array(weights)
    weights.eliminate_zeros()
    weights.sort_indices()
    return weights


def train(request: dict[str, Any], name: str) -> dict[str, Any]:
    """Count for one of PARTS; writes its matrices and the items' counts."""
    training_set = request["inputs"]["training_set"]
    items = count_items(training_set)
    user_E, item_E = read_targets(training_set)
    tensors: dict[str, np.ndarray] = {"count": np.bincount(item_E, minlength=items)}
    for part in PARTS[name]:
        weights = (
            item_knn_weights(user_E, item_E, items)
            if part == KNN
            else successor_weights(follow_counts(training_set, items))
        )
        tensors |= {f"{part}.{piece}": getattr(weights, piece) for piece in PIECES}
    save_tensors(f"{request['output']}/{name}.safetensors", tensors)
    return {"items": items, "targets": len(item_E)}


def load_weights(uri: str, name: str, items: int) -> dict[str, sparse.csr_array]:
    """The matrices [N,N] of a counted method's parts; `items`: N, more than were counted where items came later."""
    tensors = load_tensors(f"{uri}/{name}.safetensors")
    shape = (len(tensors["count"]),) * 2
    weights = {
        part: sparse.csr_array(tuple(tensors[f"{part}.{piece}"] for piece in PIECES), shape=shape)
        for part in PARTS[name]
    }
    for one in weights.values():
        one.resize(items, items)
    return weights


def load_ranker(request: dict[str, Any], name: str) -> ScoreRanker:
    uri = request["inputs"][name]
    count_N = load_tensors(f"{uri}/{name}.safetensors")["count"]
    weights = load_weights(uri, name, len(count_N))

    def score(history_BH: Ints) -> Scores:
        scores = [decayed_sum(history_BH, one, DECAYS[part]) for part, one in weights.items()]
        return scores[0] if len(scores) == 1 else np.sum([_by_greatest(one) for one in scores], axis=0)

    return ScoreRanker(score, count_N)


def _by_greatest(score_BN: Scores) -> Scores:
    greatest_B = score_BN.max(axis=1, keepdims=True)
    scaled_BN: Scores = np.divide(score_BN, greatest_B, out=np.zeros_like(score_BN), where=greatest_B > 0)
    return scaled_BN
