"""Token rows and packed batches: what the language model reads in a training step, as arrays.

Shapes: B rows, X positions of a segment or row, L code levels, M labels, R packed rows, P positions of a packed row,
S code strings, H hidden size, Y tasks and behind them the terms of code strings where there are any.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Self

import numpy as np

from model.recommender.methods.base import PAD, Bools, Floats, Ints

STRING_TERMS = ("contrast", "distance")
"""What code strings add to the loss: see `loss.string_losses`."""


@dataclass(frozen=True)
class TokenRows:
    """Token rows, or a stretch of them. Padding (-1) may stand anywhere in a stretch; in whole rows it is last."""

    ids_BX: Ints
    is_label_BX: Bools

    @classmethod
    def left_aligned(cls, segments: Sequence[Self]) -> Self:
        """The segments side by side with the padding moved behind, cut to the longest row."""
        rows = [np.concatenate([getattr(each, field.name) for each in segments], axis=1) for field in fields(cls)]
        away_BX = rows[0] == PAD
        length = int((~away_BX).sum(axis=1).max(initial=0))
        order_BX = np.argsort(away_BX, axis=1, kind="stable")[:, :length]
        return cls(*(np.take_along_axis(each, order_BX, axis=1) for each in rows))

    @property
    def lengths(self) -> Ints:
        """[B], without padding."""
        return np.asarray((self.ids_BX != PAD).sum(1))

    def where(self, wanted_B: Bools | Ints) -> Self:
        """Some of the rows, by mark or index."""
        return type(self)(*(each[wanted_B] for each in vars(self).values()))


@dataclass(frozen=True)
class Rows(TokenRows):
    """Rows in which codes stand among words."""

    kind_BX: Ints
    """0 for text, 1 + level for an item's code, 1 + levels + level for a user's."""


@dataclass(frozen=True)
class Batch:
    """Packed rows, and the labels sorted by kind: text tokens first, then the codes of level 0, 1, …"""

    ids_RP: Ints
    position_RP: Ints
    block_RP: Ints
    label_M: Ints
    """Flat index into R x P of the position that predicts the label, which is the one before it."""
    target_M: Ints
    """Token id of the label."""
    task_M: Ints
    """Number of the task that the label belongs to."""
    kind_sizes: tuple[int, ...]
    """Labels of each kind: [text, level 0, …]; their sum is M."""
    task_tokens: Ints
    """Tokens of each task."""
    strings: Strings | None = None

    @property
    def tokens(self) -> int:
        """Without padding."""
        return int(self.tokens_of.sum())

    @property
    def labels(self) -> Ints:
        """Labels [Y]; code strings count once for each of their terms."""
        strings = [] if self.strings is None else [len(self.strings.ids_SL)] * len(STRING_TERMS)
        return np.append(np.bincount(self.task_M, minlength=len(self.task_tokens)), np.array(strings, np.int64))

    @property
    def tokens_of(self) -> Ints:
        """Tokens [Y]; those of code strings stand with their first term."""
        strings = [] if self.strings is None else [self.strings.ids_SL.size, *[0] * (len(STRING_TERMS) - 1)]
        return np.append(self.task_tokens, np.array(strings, np.int64))


@dataclass(frozen=True)
class Strings:
    """Code strings of items and users that stand alone, and the states of their texts."""

    ids_SL: Ints
    text_SH: Floats
    is_user_S: Bools
    place_SL: Ints
    """Flat index into R x P of each code."""
