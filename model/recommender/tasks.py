"""The alignment tasks as data, and how their examples become token batches [paper: task families; wording is ours].

    sequential      "Items in order:" code code code …       every target item from the items before it, in one pass
    title_to_codes  "Title:" title "\\nItem:" -> codes
    codes_to_title  "Item:" codes "\\nTitle:" -> title, end

An example is a row of segments: fixed text, a title, or codes. Segments are arrays padded with -1, so that a batch is
put together by one concatenation and one shift to the left, with no loop over rows.

Shapes: B rows, P positions of a row, X positions of a segment, T items of a window, N items, L code levels, M labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

import numpy as np
from transformers import PreTrainedTokenizerBase

from model.recommender.methods.base import PAD, Bools, Ints
from model.recommender.vocabulary import CodeVocabulary

MAX_TITLE_TOKENS = 24


class Slot(Enum):
    """What stands in a template where an item's own content goes."""

    TITLE = "title"
    CODES = "codes"
    END = "end"


@dataclass(frozen=True)
class TextualTask:
    name: str
    prompt: tuple[str | Slot, ...]
    response: tuple[Slot, ...]
    """The loss is on these alone."""


SEQUENTIAL = "sequential"
SEQUENTIAL_INSTRUCTION = "Items in order:"

TEXTUAL_TASKS = (
    TextualTask("title_to_codes", ("Title:", Slot.TITLE, "\nItem:"), (Slot.CODES,)),
    TextualTask("codes_to_title", ("Item:", Slot.CODES, "\nTitle:"), (Slot.TITLE, Slot.END)),
)


@dataclass(frozen=True)
class Batch:
    """Token rows, and the labels sorted by kind: text tokens first, then the codes of level 0, 1, …"""

    ids_BP: Ints
    """Right-padded; what stands in the padding is never read, because attention is causal."""
    position_M: Ints
    """Flat index into B x P of the position that predicts the label, which is the one before it."""
    target_M: Ints
    """Token id of the label."""
    kind_sizes: tuple[int, ...]
    """Labels of each kind: [text, level 0, …, level L-1]; their sum is M."""


class Segment(NamedTuple):
    """A stretch of every row; padding may stand anywhere in it."""

    ids_BX: Ints
    is_label_BX: Bools
    kind_BX: Ints
    """0 for text, 1 + level for a code."""


class Examples:
    """Turns items and windows of items into batches."""

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        vocabulary: CodeVocabulary,
        codes_NL: Ints,
        titles: Sequence[str] | None = None,
    ) -> None:
        """`titles` of all items are needed for the textual tasks only."""
        self._tokenizer, self._levels = tokenizer, vocabulary.levels
        self._codes_NL = vocabulary.encode(codes_NL)
        self._titles_NX = None if titles is None else self._encode(titles)
        self._instruction_X = self._encode([SEQUENTIAL_INSTRUCTION])[0]

    @property
    def items(self) -> int:
        return len(self._codes_NL)

    @property
    def instruction_tokens(self) -> int:
        return len(self._instruction_X)

    def sequential(self, items_BT: Ints, targets_BT: Ints) -> Batch:
        """Windows of item indices padded with -1 behind; `targets_BT` is 1 where an item is to be predicted."""
        return _batch(self._history(items_BT, targets_BT == 1), kinds=1 + self._levels)

    def textual(self, task: TextualTask, items_B: Ints) -> Batch:
        """One example of the task for each item."""
        prompt = [self._segment(slot, items_B, is_response=False) for slot in task.prompt]
        response = [self._segment(slot, items_B, is_response=True) for slot in task.response]
        return _batch(prompt + response, kinds=1 + self._levels)

    def prompts(self, history_BT: Ints) -> tuple[Ints, Ints]:
        """What inference reads: right-padded token rows [B,P] and their lengths [B]. A history may be empty."""
        instruction, codes = self._history(history_BT, np.zeros(history_BT.shape, bool))
        ids_BP, _ = _left_aligned([instruction.ids_BX, codes.ids_BX])
        return ids_BP.clip(min=0), (ids_BP != PAD).sum(axis=1)

    def _history(self, items_BT: Ints, is_target_BT: Bools) -> list[Segment]:
        codes_BTL = np.where(items_BT[..., None] == PAD, PAD, self._codes_NL[items_BT])
        codes = self._codes(codes_BTL.reshape(len(items_BT), -1), np.repeat(is_target_BT, self._levels, axis=1))
        return [_text(self._instruction_X, len(items_BT)), codes]

    def _segment(self, slot: str | Slot, items_B: Ints, is_response: bool) -> Segment:
        if slot is Slot.CODES:
            codes_BL = self._codes_NL[items_B]
            return self._codes(codes_BL, np.full(codes_BL.shape, is_response))
        if slot is Slot.TITLE:
            assert self._titles_NX is not None
            return _text(self._titles_NX[items_B], len(items_B), is_response)
        end = np.array([self._tokenizer.eos_token_id])
        return _text(end if slot is Slot.END else self._encode([str(slot)])[0], len(items_B), is_response)

    def _codes(self, ids_BX: Ints, is_label_BX: Bools) -> Segment:
        kind_X = 1 + np.arange(ids_BX.shape[1]) % self._levels
        return Segment(ids_BX, is_label_BX, np.broadcast_to(kind_X, ids_BX.shape))

    def _encode(self, texts: Sequence[str]) -> Ints:
        """Token ids of texts, padded with -1 [len(texts), X]; a code token's name inside a text stays plain text."""
        rows = self._tokenizer(
            list(texts),
            add_special_tokens=False,
            split_special_tokens=True,
            truncation=True,
            max_length=MAX_TITLE_TOKENS,
        )["input_ids"]
        lengths = np.array([len(row) for row in rows])
        padded = np.full((len(rows), max(lengths, default=0)), PAD, np.int64)
        padded[np.arange(padded.shape[1]) < lengths[:, None]] = np.concatenate([np.asarray(r, np.int64) for r in rows])
        return padded


def _text(ids_X: Ints, rows: int, is_response: bool = False) -> Segment:
    """Text that is the same for all rows [X], or one for each [B,X]."""
    ids_BX = np.broadcast_to(ids_X, (rows, ids_X.shape[-1]))
    return Segment(ids_BX, np.full(ids_BX.shape, is_response), np.zeros(ids_BX.shape, np.int64))


def _batch(segments: list[Segment], kinds: int) -> Batch:
    ids_BP, order_BP = _left_aligned([segment.ids_BX for segment in segments])
    is_label_BP, kind_BP = (
        np.take_along_axis(np.concatenate(parts, axis=1), order_BP, axis=1)
        for parts in ([s.is_label_BX for s in segments], [s.kind_BX for s in segments])
    )
    row_M, position_M = np.nonzero(is_label_BP & (ids_BP != PAD))
    by_kind = np.argsort(kind_BP[row_M, position_M], kind="stable")
    row_M, position_M = row_M[by_kind], position_M[by_kind]
    return Batch(
        ids_BP=ids_BP.clip(min=0),
        position_M=row_M * ids_BP.shape[1] + position_M - 1,
        target_M=ids_BP[row_M, position_M],
        kind_sizes=tuple(np.bincount(kind_BP[row_M, position_M], minlength=kinds).tolist()),
    )


def _left_aligned(segments: list[Ints]) -> tuple[Ints, Ints]:
    """The segments side by side with the padding moved behind, cut to the longest row; and the order that did it."""
    row_BP = np.concatenate(segments, axis=1)
    order_BP = np.argsort(row_BP == PAD, axis=1, kind="stable")[:, : (row_BP != PAD).sum(axis=1).max()]
    return np.take_along_axis(row_BP, order_BP, axis=1), order_BP
