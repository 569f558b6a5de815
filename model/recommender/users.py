"""Codes for users: the users' tower over what is known of the items in their history.

[paper] users get codes of their own; [code] a user's text is the history in words. [ours] The items' texts are read one
by one, so that the state of a history is the mean of its items' states: every prefix of a history has its code without
another pass of the language model, nothing of a later day is in it, and reading the catalogue anew renews all users.
Users may share a code.

Shapes: N items, B users, H history items, E text dimensions, D behaviour dimensions, L levels, V histories, U buyers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import NamedTuple

import numpy as np

from model.data.files import load_tensors, save_tensors
from model.data.targets import read_windows, user_numbers
from model.recommender.methods.base import PAD, Bools, Floats, Ints
from model.tokenizer.codebook import Codebook
from model.tokenizer.quantizer import nearest_codes

USERS_FOLDER, VIEWS_FILE = "users", "views.safetensors"
"""In a codebook's folder: the users' tower; the views of its items."""
STATES_FILE = "states.safetensors"
"""In additions to such a codebook: the states of their texts."""
SAMPLED_BATCHES = 64
"""Of windows, at most, that buyers are drawn from: the training set grows with the users, this must not."""
BUYERS_PER_ITEM = 8
NAMED_BUYERS = 3


class Views(NamedTuple):
    """What is known of items, or of users: states of their text, vectors of behaviour where they have any."""

    text_NE: Floats
    behaviour_ND: Floats
    has_behaviour_N: Bools

    def of_histories(self, history_BH: Ints) -> Views:
        """Means over the items of each history (padded with -1); zeros where there is none."""
        there_BH = history_BH != PAD
        known_BH = there_BH & self.has_behaviour_N[history_BH]
        return Views(
            _means(self.text_NE, history_BH, there_BH),
            _means(self.behaviour_ND, history_BH, known_BH),
            np.asarray(known_BH.any(axis=1)),
        )

    def save(self, uri: str) -> None:
        has_behaviour_N = self.has_behaviour_N.astype(np.uint8)
        save_tensors(uri, {"text": self.text_NE, "behaviour": self.behaviour_ND, "has_behaviour": has_behaviour_N})

    @classmethod
    def load(cls, uri: str, later: Sequence[str]) -> Views:
        """What `save` wrote, and behind it the items of files {text [N,E]}, which have no behaviour yet."""
        known = load_tensors(uri)
        text_NE = np.concatenate([known["text"], *(load_tensors(each)["text"] for each in later)])
        more = len(text_NE) - len(known["text"])
        behaviour_ND = np.pad(known["behaviour"], ((0, more), (0, 0)))
        return cls(text_NE, behaviour_ND, np.pad(known["has_behaviour"] == 1, (0, more)))


def _means(vectors_ND: Floats, item_BH: Ints, wanted_BH: Bools) -> Floats:
    """[B,D]; one item of all histories at a time, because [B,H,D] is large."""
    sum_BD = np.zeros((len(item_BH), vectors_ND.shape[1]), np.float64)
    for item_B, wanted_B in zip(item_BH.T, wanted_BH.T, strict=True):
        sum_BD[wanted_B] += vectors_ND[item_B[wanted_B]]
    return np.asarray(sum_BD / wanted_BH.sum(axis=1).clip(min=1)[:, None], np.float32)


@dataclass(frozen=True)
class UserCoder:
    """The users' tower, and the items that histories are made of."""

    tower: Codebook
    items: Views

    @classmethod
    def load(cls, codebook: str, additions: Sequence[str]) -> UserCoder:
        """Of a codebook's folder and those of its additions, URIs."""
        views = Views.load(f"{codebook}/{VIEWS_FILE}", [f"{uri}/{STATES_FILE}" for uri in additions])
        return cls(Codebook.load(f"{codebook}/{USERS_FOLDER}"), views)

    def codes(self, history_BH: Ints) -> Ints:
        """[B,L]; -1 for a user without a history."""
        users = self.items.of_histories(history_BH)
        tower = self.tower
        x_BP = tower.inputs(users.text_NE, users.behaviour_ND, users.has_behaviour_N)
        codes_BL = nearest_codes(tower.quantised(x_BP), tower.centroids_LKZ)
        return np.where((history_BH != PAD).any(axis=1)[:, None], codes_BL, PAD)


class Prefixes(NamedTuple):
    """Targets, and what their users took before."""

    item_V: Ints
    user_V: Ints
    """`user_numbers`."""
    history_VH: Ints
    """None of them empty; padded with -1 in front."""


def read_prefixes(training_set: str, history_items: int) -> Prefixes:
    """Those with a history of at most SAMPLED_BATCHES batches of windows, in their order."""
    items, users = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    histories = [np.empty((0, history_items), np.int64)]
    for user_ids, item_BT, wanted_BT in islice(read_windows(training_set), SAMPLED_BATCHES):
        row_V, place_V = np.nonzero(wanted_BT)
        before_VH = place_V[:, None] - history_items + np.arange(history_items)
        history_VH = np.where(before_VH < 0, PAD, item_BT[row_V[:, None], before_VH.clip(min=0)])
        has_V = (history_VH != PAD).any(axis=1)
        items.append(item_BT[row_V[has_V], place_V[has_V]].astype(np.int64))
        users.append(user_numbers(user_ids.to_numpy(zero_copy_only=False))[row_V[has_V]])
        histories.append(history_VH[has_V].astype(np.int64))
    return Prefixes(np.concatenate(items), np.concatenate(users), np.concatenate(histories))


class Buyers:
    """Who took an item, as the histories they had before they first did."""

    def __init__(self, prefixes: Prefixes) -> None:
        """At most BUYERS_PER_ITEM users of an item are kept: those of the smallest numbers."""
        pair_V2 = np.column_stack([prefixes.item_V, prefixes.user_V])
        first_V = np.unique(pair_V2, axis=0, return_index=True)[1]
        item_V = prefixes.item_V[first_V]
        kept_V = first_V[np.arange(len(item_V)) - np.searchsorted(item_V, item_V) < BUYERS_PER_ITEM]
        self._item_V, self._user_V, self._history_VH = (each[kept_V] for each in prefixes)

    def draw(self, rng: np.random.Generator, item_B: Ints, user_B: Ints) -> Ints:
        """Histories [B,U,H] of up to NAMED_BUYERS users other than `user_B` who took the item; -1 alone where there
        are no more.
        """
        if not len(self._item_V):
            return np.full((len(item_B), NAMED_BUYERS, self._history_VH.shape[1]), PAD, np.int64)
        first_B, last_B = (np.searchsorted(self._item_V, item_B, side) for side in ("left", "right"))
        chosen_BX = first_B[:, None] + np.argsort(rng.random((len(item_B), BUYERS_PER_ITEM)), axis=1)
        there_BX = chosen_BX < last_B[:, None]
        chosen_BX = np.where(there_BX, chosen_BX, 0)
        there_BX &= self._user_V[chosen_BX] != user_B[:, None]
        best_BU = np.argsort(~there_BX, axis=1, kind="stable")[:, :NAMED_BUYERS]
        found_BUH = self._history_VH[np.take_along_axis(chosen_BX, best_BU, axis=1)]
        return np.where(np.take_along_axis(there_BX, best_BU, axis=1)[:, :, None], found_BUH, PAD)
