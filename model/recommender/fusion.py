"""Late fusion: many signals decide together [ours], by what was learned on the validation cases.

The signals that score all items choose a shortlist by a weighted sum; the language model scores the codes on it,
exactly, in one search. What all of them say of it is then weighed anew (`listwise.py`). A user without a history is
left to the language model's own beam search, or to what is popular.

Shapes: B users, V validation cases, C items of a shortlist, S seen items, N items, K results, L code levels, F signals.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch

from model.config import LANGUAGE_MODEL, OTHER_LANGUAGE_MODELS, FusionConfig, SignalName, model_config
from model.data.files import load_json, load_tensors, save_json
from model.data.reader import read_table
from model.evaluation.baselines import PopularityRanker
from model.evaluation.metrics import ndcg, rank_of_target
from model.recommender.language_models import LanguageModel, load_language_model
from model.recommender.listwise import DEFAULTS, ListScorer, Shortlist, best, held_out, learned_weights
from model.recommender.methods.base import PAD, Bools, Floats, Ints, Ranked, Ranker, Users, newest
from model.recommender.signals import COUNTS, DENSE, Signals, count
from model.recommender.vocabulary import read_codes

FUSION_FILE = "fusion.json"
FURTHER_MODELS = "further_models"
"""Among the inputs, optionally: {signal: inputs of that model}, for language models beside the main one."""
BLOCK_SCORES = 1 << 23
"""Scores [B,N] of a signal that are held at once: 32 MiB."""
K = 10


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
        self._history_items, self._dense = fitted["history_items"], fitted["shortlist"]
        self._scorer = ListScorer.of_json(fitted["list"], fusion.names)

    @classmethod
    def load(cls, request: dict[str, Any]) -> FusedRanker:
        """`request["inputs"]`: those of SemanticRanker.load and Signals.load, and "fusion", what `fit` wrote."""
        inputs = request["inputs"]
        fitted = _fitted(inputs["fusion"])
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
        return best(short.items_BC, self._scorer(short), k)


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
    """Learn from the training set's validation cases; returns NDCG@10 on them, of each step of the ladder.

    It is counted on each half by what the other half teaches; what is kept is learned from all cases.

    `request`: {"config": ModelConfig as JSON, "inputs": those of FusedRanker.load but "fusion", and "training_set",
    "output": URI}. Written: `fusion.json`, and what the signals count. Without a case the weights are the defaults.
    """
    config, inputs, output = model_config(request["config"]), request["inputs"], request["output"]
    count(inputs, output)
    fusion, _ = open_fusion(request, config.fusion, output)
    rows = read_table(f"{inputs['training_set']}/validation", ["items", "target"])
    history_F = rows["items"].combine_chunks().flatten().to_numpy().astype(np.int64)
    history_VH = history_F.reshape(rows.num_rows, config.history_items)
    target_V = rows["target"].to_numpy().astype(np.int64)
    cases = [(history_VH[block], target_V[block]) for block in fusion.blocks(len(target_V))]
    everything_N: Bools = np.ones(fusion.items, np.bool_)

    def shortlists(weights: dict[SignalName, float]) -> list[Shortlist]:
        most = max(K, config.decoding.top_k)
        return [fusion.shortlist(history, history, everything_N, weights, most) for history, _ in cases]

    learn = partial(ListScorer.learned, penalty=config.fusion.penalty, seed=config.finetune.seed)

    def reached(lists: list[Shortlist], names: list[SignalName]) -> float:
        short = Shortlist.joined(lists, len(names))
        return _ndcg(held_out(short, target_V, partial(learn, names=names), K), target_V)

    of_all = Shortlist.joined(shortlists(DEFAULTS), len(fusion.dense))
    choosing = learned_weights(of_all, target_V, fusion.dense, config.fusion.penalty)
    chosen = shortlists(choosing)
    heard = [
        fusion.with_language_models(Users([""] * len(history), history), one)
        for (history, _), one in zip(cases, chosen, strict=True)
    ]
    scorer = learn(Shortlist.joined(heard, len(fusion.names)), target_V, names=fusion.names)
    fused = reached(heard, fusion.names)
    without = fused if fusion.names == fusion.dense else reached(chosen, fusion.dense)
    fitted = {
        "config": request["config"]["fusion"],
        "history_items": config.history_items,
        "shortlist": choosing,
        "list": scorer.to_json(),
    }
    save_json(f"{output}/{FUSION_FILE}", fitted)
    return {
        "weights": {"shortlist": choosing, "list": scorer.weights},
        "validation_cases": len(target_V),
        "validation_ndcg10": {"without_language_model": without, "fused": fused},
    }


def _fitted(uri: str) -> dict[str, Any]:
    """What `fit` wrote there. Models of before the network have one sum for each step, as "weights"."""
    fitted: dict[str, Any] = load_json(f"{uri}/{FUSION_FILE}")
    if (sums := fitted.get("weights")) is None:
        return fitted
    return fitted | {"shortlist": sums["shortlist"], "list": {"weights": sums["list"], "network": None}}


def _ndcg(items_VK: Ints, target_V: Ints) -> float:
    return float(ndcg(rank_of_target(items_VK, target_V), K).mean()) if len(target_V) else 0.0
