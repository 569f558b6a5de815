"""What the examples of a task are about: which items, which histories, and the other items they are told apart from.

Negatives are uniform, by popularity^.75, or of the same first code (hard), a third each. None is an item that the
window holds or that its user takes later within the training set [paper: negative sampling; the mixture is ours].

Shapes: B rows, T items of a window, H history items, X items named, O other items, C candidates, N items,
A attributes, U buyers.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace

import numpy as np

from model.data.targets import TOO_MANY
from model.recommender.methods.base import PAD, Bools, Ints
from model.recommender.tasks import OF_HISTORY, Slot, Task
from model.recommender.users import NAMED_BUYERS, Buyers

ROUNDS = 8
"""Draws of a negative before its example is given up."""


@dataclass(frozen=True)
class Windows:
    """A batch of the training set's rows."""

    items_BT: Ints
    """Padded with -1 behind."""
    targets_BT: Ints
    """1 where the item is to be predicted."""
    later_BX: Ints
    """What the user takes from the window's day on; see TOO_MANY."""
    user_B: Ints
    """`user_numbers`."""

    def thinned(self, share: float, rng: np.random.Generator) -> Windows:
        """Each item left out with this chance, but for the last target; what is left out is no negative either."""
        last_B = self.targets_BT.shape[1] - 1 - self.targets_BT[:, ::-1].argmax(1)
        gone_BT = rng.random(self.items_BT.shape) < share
        gone_BT[np.arange(len(gone_BT)), last_B] = False
        moved_up_BT = np.argsort(gone_BT, axis=1, kind="stable")
        items_BT, targets_BT = (
            np.take_along_axis(np.where(gone_BT, none, each_BT), moved_up_BT, 1)
            for each_BT, none in ((self.items_BT, PAD), (self.targets_BT, 0))
        )
        never_BX = np.concatenate([self.later_BX, np.where(gone_BT, self.items_BT, PAD)], axis=1)
        return replace(self, items_BT=items_BT, targets_BT=targets_BT, later_BX=never_BX)


@dataclass(frozen=True)
class Cases:
    """A row for each example of one task; what the task does not need is empty."""

    windows: Windows
    """Of tasks that predict whole windows."""
    history_BH: Ints
    """Items before the one in question, oldest first; padded with -1 in front."""
    item_B: Ints
    others_BO: Ints
    is_item_B: Bools
    """Whether the candidate is the item."""
    place_B: Ints
    """Of the item among the candidates."""
    buyers_BUH: Ints
    """Histories of others who took the item; -1 alone where there are fewer."""

    def __len__(self) -> int:
        return len(self.item_B)

    @property
    def candidate(self) -> Ints:
        """[B]: the item or the first of the others."""
        return np.where(self.is_item_B, self.item_B, self.others_BO[:, 0])

    @property
    def candidates(self) -> Ints:
        """[B,C]: the others with the item among them, at place_B."""
        rows_B = np.arange(len(self))
        found_BC = np.insert(self.others_BO, 0, self.item_B, axis=1)
        found_BC[rows_B, self.place_B], found_BC[:, 0] = self.item_B, found_BC[rows_B, self.place_B]
        return found_BC

    def where(self, wanted_B: Bools) -> Cases:
        """The rows so marked."""
        windows = Windows(*(each[wanted_B[: len(each)]] for each in vars(self.windows).values()))
        rest = (each[wanted_B] for name, each in vars(self).items() if name != "windows")
        return Cases(windows, *rest)


class Negatives:
    """Draws other items than those in question."""

    def __init__(self, count_N: Ints, first_N: Ints, attributes_NA: Ints) -> None:
        """`count_N`: how often each item is a target; `first_N`: first codes; items that agree in any attribute (an
        equal title, say) are no negatives of each other.
        """
        weight_N = np.maximum(count_N, 1) ** 0.75
        self._up_to_N = np.cumsum(weight_N / weight_N.sum())
        self._attributes_NA = attributes_NA
        self._by_first_codes(first_N)

    def _by_first_codes(self, first_N: Ints) -> None:
        self._first_N = first_N
        self._by_first = np.argsort(first_N, kind="stable")
        self._sizes = np.bincount(first_N)
        self._starts = np.cumsum(self._sizes) - self._sizes

    def recoded(self, codes_NL: Ints) -> Negatives:
        """The same, where items have other codes now."""
        other = copy.copy(self)
        other._by_first_codes(codes_NL[:, 0])
        return other

    def draw(self, rng: np.random.Generator, item_B: Ints, never_BX: Ints, others: int) -> Ints:
        """Other items [B,O], different ones, none of them in `never_BX`; -1 where none was found."""
        other_BO = np.full((len(item_B), others), PAD, np.int64)
        for _ in range(ROUNDS):
            missing_BO = other_BO == PAD
            if not missing_BO.any():
                break
            drawn_BO = self._drawn(rng, np.broadcast_to(item_B[:, None], other_BO.shape))
            other_BO = np.where(missing_BO, drawn_BO, other_BO)
            for column in range(others):
                other_BO[self._wrong(column, other_BO, item_B, never_BX), column] = PAD
        return other_BO

    def _drawn(self, rng: np.random.Generator, item_BO: Ints) -> Ints:
        N = len(self._first_N)
        uniform_BO = rng.integers(N, size=item_BO.shape)
        popular_BO = np.searchsorted(self._up_to_N, rng.random(item_BO.shape)).clip(max=N - 1)
        first_BO = self._first_N[item_BO]
        place_BO = (rng.random(item_BO.shape) * self._sizes[first_BO]).astype(np.int64)
        alike_BO = self._by_first[self._starts[first_BO] + place_BO]
        return np.choose(rng.integers(3, size=item_BO.shape), [uniform_BO, popular_BO, alike_BO])

    def _wrong(self, column: int, other_BO: Ints, item_B: Ints, never_BX: Ints) -> Bools:
        other_B = other_BO[:, column]
        agrees_B = (self._attributes_NA[other_B] == self._attributes_NA[item_B]).any(1)
        named_B = (never_BX == other_B[:, None]).any(1) | (other_BO[:, :column] == other_B[:, None]).any(1)
        wrong_B: Bools = (other_B == item_B) | agrees_B | named_B
        return wrong_B


def draw_cases(
    task: Task,
    rows: int,
    windows: Windows,
    negatives: Negatives,
    items: int,
    history_items: int,
    rng: np.random.Generator,
    buyers: Buyers | None = None,
) -> Cases:
    """So many cases of a task: of the windows' targets, or of items drawn at random for a task without a history.

    A case whose negatives or buyers were not found is left out, so that there may be fewer. Of a task that tells
    whose window it is, the targets before the one drawn are context: the user is known by what stands before it.
    """
    none = Windows(*(each[:0] for each in vars(windows).values()))
    if not task.uses(OF_HISTORY):
        item_B, history_BH = rng.integers(items, size=rows), np.empty((rows, 0), np.int64)
        never_BX = np.empty((rows, 0), np.int64)
    else:
        # Each window once before any comes again.
        count = len(windows.items_BT)
        chosen_B = np.concatenate([rng.permutation(count) for _ in range(rows // count + 1)])
        windows = Windows(*(each[chosen_B[:rows]] for each in vars(windows).values()))
        if task.others:
            named_B = windows.later_BX[:, 0] != TOO_MANY
            windows = Windows(*(each[named_B] for each in vars(windows).values()))
        item_B, history_BH, place_B = one_target(windows, history_items, rng)
        if task.uses({Slot.WINDOW}):
            none = _from_place(windows, place_B) if task.uses({Slot.USER}) else windows
        never_BX = np.concatenate([windows.items_BT, windows.later_BX], axis=1)
    others_BO = negatives.draw(rng, item_B, never_BX, task.others)
    buyers_BUH = np.empty((len(item_B), NAMED_BUYERS, 0), np.int64)
    wanted_B = (others_BO != PAD).all(1)
    if buyers is not None and task.uses({Slot.BUYERS}):
        buyers_BUH = buyers.draw(rng, item_B, windows.user_B)
        wanted_B &= (buyers_BUH != PAD).any((1, 2))
    if task.uses({Slot.USER}):
        wanted_B &= (history_BH != PAD).any(1)
    cases = Cases(
        windows=none,
        history_BH=history_BH,
        item_B=item_B,
        others_BO=others_BO,
        is_item_B=rng.random(len(item_B)) < 0.5,
        place_B=rng.integers(task.others + 1, size=len(item_B)),
        buyers_BUH=buyers_BUH,
    )
    return cases.where(wanted_B)


def _from_place(windows: Windows, place_B: Ints) -> Windows:
    """The windows with the targets from these places on alone."""
    later_BT = np.arange(windows.items_BT.shape[1]) >= place_B[:, None]
    return replace(windows, targets_BT=np.where(later_BT, windows.targets_BT, 0))


def one_target(windows: Windows, history_items: int, rng: np.random.Generator) -> tuple[Ints, Ints, Ints]:
    """One target [B] of each window, drawn, the items before it [B,H], and its place in the window [B]."""
    key_BT = np.where(windows.targets_BT == 1, rng.random(windows.items_BT.shape), -1.0)
    place_B1 = key_BT.argmax(1)[:, None]
    item_B = np.take_along_axis(windows.items_BT, place_B1, 1)[:, 0]
    before_BH = place_B1 - history_items + np.arange(history_items)
    history_BH = np.where(before_BH < 0, PAD, np.take_along_axis(windows.items_BT, before_BH.clip(min=0), 1))
    return item_B, history_BH, place_B1[:, 0]
