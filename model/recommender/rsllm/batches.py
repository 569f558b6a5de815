"""What RSLLM learns from: windows as prompts and, if asked for, choices among candidates.

Shapes: B windows or examples, O choices, C candidates, N items, S items drawn.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from model.config import ModelConfig
from model.data.reader import steps_per_epoch
from model.data.targets import TOO_MANY
from model.method_config import RsllmConfig
from model.recommender.batches import read_drawn
from model.recommender.cases import Windows, one_target
from model.recommender.methods.base import PAD, Bools, Ints
from model.recommender.rsllm.prompts import CANDIDATES, IdBatch, IdRows, ItemPrompts, packed

ROUNDS = 20
"""Draws of a candidate before its example is given up."""
ALIGNED = 256
"""Items beside the targets whose texts are compared with their vectors."""


class IdBatches:
    """Micro-batches, each a function of (seed, epoch, shard, number) alone."""

    def __init__(self, training_set: str, prompts: ItemPrompts, has_behaviour_N: Bools, config: ModelConfig) -> None:
        self._sequences = f"{training_set}/sequences"
        self._prompts, self._config, self._known = prompts, config, np.flatnonzero(has_behaviour_N)

    def per_shard(self, shards: int) -> int:
        """Micro-batches of a shard in an epoch, the same for all."""
        return steps_per_epoch(self._sequences, self._config.finetune.batch_size, shards)

    def read(self, epoch: int, shard: int, shards: int, skip: int = 0) -> Iterator[IdBatch]:
        """An epoch's micro-batches of one shard, without the first `skip`."""
        recipe, per_shard = self._config.finetune, self.per_shard(shards)
        for number, windows, rng in read_drawn(self._sequences, recipe, epoch, shard, shards, skip):
            done = (epoch + number / per_shard) / recipe.epochs
            yield self.batch(windows, done, rng, np.random.default_rng([recipe.seed, epoch, number]))

    def batch(self, windows: Windows, done: float, rng: np.random.Generator, of_all: np.random.Generator) -> IdBatch:
        """`done`: share of the training so far. `of_all`: all processes draw the same from it."""
        unified = unified_share(self._config.rsllm, done)
        choices, candidates_OC = self._choices(windows, rng)
        parts = [self._prompts.windows(windows.items_BT, windows.targets_BT), choices]
        parts = [rows.as_words(rng.random(len(rows.ids_BX)) >= unified) for rows in parts]
        drawn = [self._drawn(count, of_all) for count in (self._config.rsllm.negatives, ALIGNED)]
        return packed(parts, self._config.finetune.row_tokens, candidates_OC, *drawn)

    def _choices(self, windows: Windows, rng: np.random.Generator) -> tuple[IdRows, Ints]:
        """And their candidates [O,C]; a choice whose candidates were not found is left out, and so is one of an item
        that is never among the others: it would be known by that.
        """
        named = np.flatnonzero(windows.later_BX[:, 0] != TOO_MANY)
        count = int(self._config.rsllm.choice_share * len(windows.items_BT) + rng.random()) if len(named) else 0
        chosen_O = named[rng.integers(max(1, len(named)), size=count)]
        some = Windows(*(each[chosen_O] for each in vars(windows).values()))
        item_O, history_OH, _ = one_target(some, self._config.history_items, rng)
        never_OX = np.concatenate([some.items_BT, some.later_BX, item_O[:, None]], axis=1)
        candidates_OC, _ = with_others(item_O, never_OX, self._known, rng)
        kept_O = (candidates_OC != PAD).all(1) & np.isin(item_O, self._known)
        history_OH, candidates_OC, item_O = history_OH[kept_O], candidates_OC[kept_O], item_O[kept_O]
        return self._prompts.choices(history_OH, item_O), candidates_OC

    def _drawn(self, count: int, rng: np.random.Generator) -> Ints:
        """Of the items that anybody took: all, or about so many different ones at random."""
        if len(self._known) <= count:
            return self._known
        return np.asarray(self._known[np.unique(rng.integers(len(self._known), size=count))])


def unified_share(recipe: RsllmConfig, done: float) -> float:
    """Of the examples, those whose ID tokens are read as vectors, when so much of the training is done."""
    text_share, curriculum = recipe.stages
    behind = done - text_share
    if behind < 0:
        return 0.0
    return min(1.0, behind / curriculum) if curriculum else 1.0


def with_others(item_B: Ints, never_BX: Ints, known_K: Ints, rng: np.random.Generator) -> tuple[Ints, Ints]:
    """The items among others at random: candidates [B,C], and the item's place [B].

    Others are different items that somebody took, none of `never_BX`; -1 where none was found.
    """
    others_BO = np.full((len(item_B), CANDIDATES - 1), PAD)
    for _ in range(ROUNDS):
        missing_BO = others_BO == PAD
        if not missing_BO.any():
            break
        others_BO = np.where(missing_BO, known_K[rng.integers(len(known_K), size=others_BO.shape)], others_BO)
        order_BO = np.argsort(others_BO, axis=1, kind="stable")
        sorted_BO = np.take_along_axis(others_BO, order_BO, axis=1)
        again_BO = np.zeros_like(missing_BO)
        np.put_along_axis(again_BO, order_BO[:, 1:], sorted_BO[:, 1:] == sorted_BO[:, :-1], axis=1)
        never_BO = (others_BO[:, :, None] == never_BX[:, None, :]).any(2)
        others_BO[again_BO | never_BO] = PAD
    place_B = rng.integers(CANDIDATES, size=len(item_B))
    candidates_BC = np.concatenate([others_BO, item_B[:, None]], axis=1)
    rows_B = np.arange(len(item_B))
    candidates_BC[rows_B, -1], candidates_BC[rows_B, place_B] = candidates_BC[rows_B, place_B], item_B
    return candidates_BC, place_B
