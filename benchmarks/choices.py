"""The protocol of RSLLM's paper: each user's last item has to be picked among 20 candidates.

The others are 19 items that the user never took, drawn once for all methods. A language model that answers with any
word but the ID token names none of them: hits are counted over all cases, and over the valid ones. Having learned that
an item follows the question it hardly ever does, so its ValidRatio says that this was learned and no more.

Shapes: B cases, H history items, C candidates.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import numpy as np
from rich.table import Table

from benchmarks.figures import Figure
from benchmarks.quality_rows import CHOOSING, CONFIG, OURS, TEXTS_READ, WITHOUT_LLM, quicker
from benchmarks.recipe import Recipe
from model.behaviour.ranker import load_encoder, log_probabilities
from model.config import FusionConfig
from model.evaluation.dataset import Interactions, Split
from model.evaluation.lists import histories, padded
from model.recommender.methods.base import PAD, Ints, Ranker, Users
from model.recommender.rsllm.batches import with_others
from model.recommender.rsllm.ranker import RsllmRanker

SEED = 0
BLOCK_CASES = 256


class Cases(NamedTuple):
    """Histories [B,H], candidates [B,C], and the place of the right one [B]."""

    history_BH: Ints
    candidates_BC: Ints
    place_B: Ints


def draw(data: Interactions, split: Split, history_items: int) -> Cases:
    """All cases of the split. ValueError for a user who took so much that 19 others are not found."""
    taken = [data.item_E[data.offset_U1[user] : data.offset_U1[user + 1]] for user in split.case_user_C]
    history_BH = histories(data, split.case_user_C, split.case_place_C, history_items)
    target_B = data.item_E[data.offset_U1[split.case_user_C] + split.case_place_C]
    known_K = np.unique(data.item_E)
    candidates_BC, place_B = with_others(target_B, padded(taken), known_K, np.random.default_rng(SEED))
    if (candidates_BC == PAD).any():
        raise ValueError("A user took so many of the items that 19 others cannot be drawn: more items are needed.")
    return Cases(history_BH, candidates_BC, place_B)


def pick(recipe: Recipe, cases: Cases, quick: bool) -> dict[str, Ints]:
    """What each method picks [B]; -1 for an answer that is no candidate."""
    picked = {}
    for name, config in (("sasrec", CONFIG), ("sasrec_with_text", TEXTS_READ)):
        encoder, _ = load_encoder(recipe.behaviour(quicker(config, quick)).uri)
        score_BC = np.concatenate(
            [
                np.take_along_axis(log_probabilities(encoder, cases.history_BH[rows]), cases.candidates_BC[rows], 1)
                for rows in _blocks(cases)
            ]
        )
        picked[name] = score_BC.argmax(1)
    config = quicker(CHOOSING, quick)
    ranker = recipe.ranker(config)
    assert isinstance(ranker, RsllmRanker)
    picked["rsllm"] = ranker.choose(cases.history_BH, cases.candidates_BC)
    users = Users([""] * len(cases.place_B), cases.history_BH)
    picked["rsllm_by_product"] = ranker.score(users, cases.candidates_BC).argmax(1)
    fused = {"rsllm_fused": replace(config, fusion=FusionConfig()), WITHOUT_LLM: quicker(OURS[WITHOUT_LLM], quick)}
    for name, each in fused.items():
        picked[name] = ranked_first(recipe.ranker(each), cases, len(recipe.data.item_ids))
    return picked


def ranked_first(ranker: Ranker, cases: Cases, items: int) -> Ints:
    """The place [B] of the candidate that a ranker of all items puts first, where nothing else may be recommended."""
    first = []
    for rows in _blocks(cases):
        candidates_BC = cases.candidates_BC[rows]
        others_BS = np.stack([np.setdiff1d(np.arange(items), candidates_C) for candidates_C in candidates_BC])
        users = Users([""] * len(candidates_BC), cases.history_BH[rows])
        ranked = ranker.rank(users, others_BS, np.ones(items, np.bool_), 1)
        found_BC = candidates_BC == ranked.items_BK
        assert found_BC.any(1).all(), "ranked what may not be recommended"
        first.append(found_BC.argmax(1))
    return np.concatenate(first)


def _blocks(cases: Cases) -> list[slice]:
    return [slice(low, low + BLOCK_CASES) for low in range(0, len(cases.place_B), BLOCK_CASES)]


def table_of(picked: dict[str, Ints], place_B: Ints, goal: bool = False) -> tuple[Table, list[Figure]]:
    """HitRatio@1 over all cases and over those with a valid answer, and the share of those, with its goal if asked."""
    table = Table(title=f"1 of 20, {len(place_B):,} cases", title_justify="left")
    figures = []
    for column in ("method", "HitRatio@1", "over valid answers", "ValidRatio"):
        table.add_column(column, justify="left" if column == "method" else "right")
    for name, picked_B in picked.items():
        hit_B, valid_B = picked_B == place_B, picked_B != PAD
        of_valid = hit_B[valid_B].mean() if valid_B.any() else 0.0
        values = {"hit_ratio1": hit_B.mean(), "hit_ratio1_of_valid": of_valid, "valid_ratio": valid_B.mean()}
        table.add_row(name, *(f"{value:.4f}" for value in values.values()))
        goals = {"valid_ratio": ">=0.99"} if name == "rsllm" and goal else {}
        figures += [
            Figure(f"quality.choices.{name}_{kind}", float(value), goals.get(kind, ""))
            for kind, value in values.items()
        ]
    return table, figures
