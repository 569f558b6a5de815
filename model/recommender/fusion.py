"""Late fusion: a weighted sum of signals decides [ours], its weights learned on the validation cases.

The signals that score all items choose a shortlist; the language model scores the codes on it, exactly, in one search.
A user without a history is left to the language model's own beam search, or to what is popular.

Shapes: B users, C items of a shortlist, S seen items, N items, K results, L code levels, F signals.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from scipy.optimize import minimize
from scipy.special import log_softmax, softmax

from model.config import LANGUAGE_MODEL, OTHER_LANGUAGE_MODELS, FusionConfig, SignalName, model_config
from model.data.files import load_json, load_tensors, save_json
from model.data.reader import read_table
from model.evaluation.baselines import PopularityRanker
from model.evaluation.metrics import ndcg, rank_of_target
from model.recommender.inference import LanguageModel, load_language_model, newest
from model.recommender.methods.base import PAD, Bools, Floats, Ints, Ranked, Ranker, Users
from model.recommender.signals import COUNTS, DENSE, Signals, count
from model.recommender.vocabulary import read_codes

FUSION_FILE = "fusion.json"
FURTHER_MODELS = "further_models"
"""Among the inputs, optionally: {signal: inputs of that model}, for language models beside the main one."""
DEFAULTS: dict[SignalName, float] = {
    "language_model": 0.05,
    "ttds": 0.05,
    "rsllm": 0.05,
    "teacher": 0.5,
    "item_knn": 0.1,
    "successor": 0.1,
    "words": 3.0,
}
"""Weights of no data: about what the public data sets give."""
BLOCK_SCORES = 1 << 23
"""Scores [B,N] of a signal that are held at once: 32 MiB."""
K = 10

Doubles = npt.NDArray[np.float64]


class Shortlist(NamedTuple):
    """Best items by the dense signals, padded with -1, and what each signal says of them."""

    items_BC: Ints
    signals_BCF: Floats


class Fusion:
    """Dense signals, and the language models that are among the signals."""

    def __init__(
        self,
        signals: Signals,
        language_models: Mapping[SignalName, LanguageModel],
        names: Sequence[SignalName],
        shortlist: int,
    ) -> None:
        self._signals, self._language_models, self._shortlist = signals, language_models, shortlist
        self.names = list(names)
        self.dense = [name for name in self.names if name in DENSE]
        self.items = signals.items

    def shortlist(
        self, history_BH: Ints, seen_BS: Ints, available_N: Bools, weights: dict[SignalName, float], k: int
    ) -> Shortlist:
        """The best items by the dense signals under these weights, at least k where so many are allowed."""
        dense = self._signals(history_BH, self.dense)
        score_BN: Floats = np.zeros_like(dense[self.dense[0]])
        for name in self.dense:
            score_BN += np.float32(weights[name]) * dense[name]
        score_BN[:, ~available_N] = -np.inf
        row_BS = np.broadcast_to(np.arange(len(score_BN))[:, None], seen_BS.shape)
        score_BN[row_BS[seen_BS != PAD], seen_BS[seen_BS != PAD]] = -np.inf
        best = torch.from_numpy(score_BN).topk(min(max(self._shortlist, k), score_BN.shape[1]))
        items_BC = np.where(np.isneginf(best.values.numpy()), PAD, best.indices.numpy())
        signals = [np.take_along_axis(dense[name], items_BC.clip(min=0), axis=1) for name in self.dense]
        return Shortlist(items_BC, np.stack(signals, axis=2))

    def with_language_models(self, users: Users, short: Shortlist) -> Shortlist:
        """Adds what the language models say, each at its place among the names."""
        scores = dict(zip(self.dense, np.moveaxis(short.signals_BCF, 2, 0), strict=True))
        for name, model in self._language_models.items():
            score_BC = model.score(users, short.items_BC)
            score_BC[short.items_BC == PAD] = 0  # padding is left out by whoever ranks
            scores[name] = score_BC
        return short._replace(signals_BCF=np.stack([scores[name] for name in self.names], axis=2))

    def user_codes(self, users: Users) -> Ints | None:
        """What the language model calls the users, if it does."""
        main = self._language_models.get(LANGUAGE_MODEL)
        return None if main is None else main.user_codes(users)

    def blocks(self, users: int) -> Iterator[slice]:
        size = max(1, BLOCK_SCORES // self.items)
        return (slice(start, start + size) for start in range(0, users, size))


class FusedRanker:
    """Ranks by learned weights. `cold` ranks the users without a history."""

    def __init__(self, fusion: Fusion, fitted: dict[str, Any], cold: Ranker, codes_NL: Ints) -> None:
        """`fitted`: what `fit` wrote to FUSION_FILE."""
        self._fusion, self._cold, self._codes_NL = fusion, cold, codes_NL
        self._history_items, self._dense = fitted["history_items"], fitted["weights"]["shortlist"]
        self._weight_F = np.array([fitted["weights"]["list"][name] for name in fusion.names])

    @classmethod
    def load(cls, request: dict[str, Any]) -> FusedRanker:
        """`request["inputs"]`: those of SemanticRanker.load and Signals.load, and "fusion", what `fit` wrote."""
        inputs = request["inputs"]
        fitted = load_json(f"{inputs['fusion']}/{FUSION_FILE}")
        fusion, language_model = open_fusion(request, FusionConfig(**fitted["config"]), inputs["fusion"])
        if language_model is not None:
            return cls(fusion, fitted, language_model, language_model.codes_NL)
        levels = model_config(request["config"]).tokenizer.levels
        codes_NL = read_codes([inputs["codebook"], *inputs.get("codebook_additions", ())], levels)
        counted = load_tensors(f"{inputs['fusion']}/{COUNTS}.safetensors")["count"]
        popular = PopularityRanker(np.pad(counted, (0, len(codes_NL) - len(counted))))
        return cls(fusion, fitted, popular, codes_NL)

    def rank(self, users: Users, seen_BS: Ints, available_N: Bools, k: int) -> Ranked:
        """See `Ranker.rank`."""
        items_BK = np.full((len(users.ids), k), PAD, np.int64)
        scores_BK = np.full((len(users.ids), k), -np.inf, np.float32)
        known_B = (users.history_BH != PAD).any(axis=1)
        for rows in (*self._blocks(known_B), np.flatnonzero(~known_B)):
            if not len(rows):
                continue
            # As much as was learned with, whatever today's settings hand over: the encoder has no more positions.
            history_BH = newest(users.history_BH[rows], self._history_items)
            some = Users([users.ids[row] for row in rows], history_BH)
            if known_B[rows[0]]:
                items_BK[rows], scores_BK[rows] = self._rank(some, seen_BS[rows], available_N, k)
            else:
                ranked = self._cold.rank(some, seen_BS[rows], available_N, k)
                items_BK[rows], scores_BK[rows] = ranked.items_BK, ranked.scores_BK
        codes_BKL = np.where(items_BK[..., None] == PAD, PAD, self._codes_NL[items_BK])
        return Ranked(items_BK, codes_BKL, scores_BK, self._fusion.user_codes(users))

    def _blocks(self, known_B: Bools) -> Iterator[Ints]:
        known = np.flatnonzero(known_B)
        return (known[rows] for rows in self._fusion.blocks(len(known)))

    def _rank(self, users: Users, seen_BS: Ints, available_N: Bools, k: int) -> tuple[Ints, Floats]:
        short = self._fusion.shortlist(users.history_BH, seen_BS, available_N, self._dense, k)
        short = self._fusion.with_language_models(users, short)
        return best(short, self._weight_F, k)


def best(short: Shortlist, weight_F: npt.NDArray[np.floating[Any]], k: int) -> tuple[Ints, Floats]:
    """The k best of a shortlist [B,k] and their scores; equal scores go to the smaller item index.

    Scores that are no numbers come behind all others, but before padding: whoever reads the list has to see them.
    """
    score_BC = (short.signals_BCF @ weight_F).astype(np.float32)
    padding_BC = short.items_BC == PAD
    score_BC[padding_BC] = -np.inf
    order_BK = np.lexsort((short.items_BC, -score_BC, padding_BC), axis=1)[:, :k]
    items_BK, scores_BK = (np.take_along_axis(each, order_BK, axis=1) for each in (short.items_BC, score_BC))
    rest = ((0, 0), (0, k - items_BK.shape[1]))
    return np.pad(items_BK, rest, constant_values=PAD), np.pad(scores_BK, rest, constant_values=-np.inf)


def open_fusion(request: dict[str, Any], config: FusionConfig, counts: str) -> tuple[Fusion, LanguageModel | None]:
    """And the main language model, if it is a signal. ValueError for a further one that the inputs do not name."""
    inputs = request["inputs"]
    further = inputs.get(FURTHER_MODELS, {})
    models: dict[SignalName, LanguageModel] = {}
    for name in config.signals:
        if name in OTHER_LANGUAGE_MODELS and name not in further:
            raise ValueError(f"fusion.signals names {name}, but no such model is among the inputs: leave it out.")
        if name not in DENSE:
            models[name] = load_language_model(request | {"inputs": inputs | further.get(name, {})})
    signals = Signals.load(inputs, counts, config.signals)
    return Fusion(signals, models, config.signals, config.shortlist), models.get(LANGUAGE_MODEL)


def fit(request: dict[str, Any]) -> dict[str, Any]:
    """Learn the weights on the training set's validation cases; returns NDCG@10 there, of each step of the ladder.

    `request`: {"config": ModelConfig as JSON, "inputs": those of FusedRanker.load but "fusion", and "training_set",
    "output": URI}. Written: `fusion.json`, and what the signals count. Without a case the weights are DEFAULTS.
    Raises ValueError when there is no dense signal to make a shortlist with.
    """
    config, inputs, output = model_config(request["config"]), request["inputs"], request["output"]
    dense: list[SignalName] = [name for name in config.fusion.signals if name in DENSE]
    if not dense:
        raise ValueError("fusion.signals names none that can choose a shortlist: add teacher, or leave the list empty.")
    count(inputs, output)
    fusion, _ = open_fusion(request, config.fusion, output)
    rows = read_table(f"{inputs['training_set']}/validation", ["items", "target"])
    history_F = rows["items"].combine_chunks().flatten().to_numpy().astype(np.int64)
    history_VH = history_F.reshape(rows.num_rows, config.history_items)
    target_V = rows["target"].to_numpy().astype(np.int64)
    cases = [(history_VH[block], target_V[block]) for block in fusion.blocks(len(target_V))]
    everything_N: Bools = np.ones(fusion.items, np.bool_)

    def shortlists(weights: dict[SignalName, float]) -> Iterator[Shortlist]:
        return (fusion.shortlist(history, history, everything_N, weights, K) for history, _ in cases)

    weights: dict[str, dict[SignalName, float]] = {}
    weights["shortlist"] = learned(list(shortlists(DEFAULTS)), target_V, fusion.dense, config.fusion.penalty)
    short = list(shortlists(weights["shortlist"]))
    full = [
        fusion.with_language_models(Users([""] * len(history), history), one)
        for (history, _), one in zip(cases, short, strict=True)
    ]
    weights["list"] = learned(full, target_V, fusion.names, config.fusion.penalty)
    fitted = {"config": request["config"]["fusion"], "history_items": config.history_items, "weights": weights}
    save_json(f"{output}/{FUSION_FILE}", fitted)
    ndcg10 = {
        "without_language_model": _ndcg(short, target_V, [weights["shortlist"][name] for name in fusion.dense]),
        "fused": _ndcg(full, target_V, [weights["list"][name] for name in fusion.names]),
    }
    return {"weights": weights, "validation_cases": len(target_V), "validation_ndcg10": ndcg10}


def learned(
    lists: list[Shortlist], target_B: Ints, names: Sequence[SignalName], penalty: float
) -> dict[SignalName, float]:
    """Weights under which the targets are likeliest among their shortlists (conditional logit, McFadden 1974).

    Cases whose target is not on the shortlist teach nothing. The weights start from DEFAULTS and are pulled to them.
    """
    default_F = np.array([DEFAULTS[name] for name in names])
    if not lists:
        return dict(zip(names, default_F.tolist(), strict=True))
    items_BC = np.concatenate([each.items_BC for each in lists])
    signals_BCF = np.concatenate([each.signals_BCF for each in lists]).astype(np.float64)
    hit_BC = items_BC == target_B[:, None]
    found_B = hit_BC.any(axis=1)
    items_BC, signals_BCF, hit_BC = items_BC[found_B], signals_BCF[found_B], hit_BC[found_B]
    padding_BC = np.where(items_BC == PAD, -np.inf, 0.0)
    spread_F = np.maximum(signals_BCF[items_BC != PAD].std(axis=0), 1e-9) if len(items_BC) else np.ones(len(names))
    scaled_BCF = signals_BCF / spread_F

    def loss(weight_F: Doubles) -> tuple[float, Doubles]:
        score_BC = scaled_BCF @ weight_F + padding_BC
        away_F = weight_F - default_F * spread_F
        value = -log_softmax(score_BC, axis=1)[hit_BC].sum() + penalty * (away_F**2).sum()
        slope_F = np.einsum("bc,bcf->f", softmax(score_BC, axis=1) - hit_BC, scaled_BCF) + 2 * penalty * away_F
        return float(value), slope_F

    weight_F = minimize(loss, default_F * spread_F, jac=True, method="L-BFGS-B").x / spread_F
    return dict(zip(names, weight_F.tolist(), strict=True))


def _ndcg(lists: list[Shortlist], target_B: Ints, weights: list[float]) -> float:
    ranked = [best(each, np.array(weights), K)[0] for each in lists]
    return float(ndcg(rank_of_target(np.concatenate(ranked), target_B), K).mean()) if ranked else 0.0
