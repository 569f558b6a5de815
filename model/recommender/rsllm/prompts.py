"""Prompts of titles and ID tokens [paper: RSLLM], as packed batches.

An item is its title and one ID token behind it. The state there, or of the instruction's last token, says which item
comes next; one pass over a window predicts every target in it, the title by words and the item by its vector [ours].

In the first stage an ID token is a word like any other; from the second on it is the item's vector. Which of the two
an example has is drawn: the share of the second rises along the curriculum. Both learn to rank [ours; the paper's first
learns words alone]: what is learned from titles is what the teacher does not know.

Shapes: B examples, T items of a window, C candidates, W words of a title, X positions of an example, R packed rows,
P positions of a row, F tokens, M labels, I ID tokens, Q states that predict an item, O choices, S and A drawn items,
N items.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from model.data.packing import pack
from model.method_config import RsllmConfig
from model.recommender.examples import token_rows
from model.recommender.methods.base import PAD, Bools, Ints
from model.recommender.rows import TokenRows
from model.recommender.tasks import INSTRUCTION

ITEM_TOKEN = "<item>"  # noqa: S105  # a word of the vocabulary, no secret
CANDIDATES = 20
"""Of the choice [paper]: the item and others at random."""
QUESTION = "\nNext:"
NONE = np.empty(0, np.int64)
TERMS = ("title", "choice", "id_text", "user_item")
"""Summed losses of a batch: words of titles, ID tokens among candidates, and the two contrastive ones."""


@dataclass(frozen=True)
class IdRows(TokenRows):
    """Rows in which ID tokens stand among words."""

    item_BX: Ints
    """At ID tokens that are read as vectors, the item; else -1."""
    next_BX: Ints
    """Where the state is to predict an item, that item; else -1."""

    def as_words(self, chosen_B: Bools) -> IdRows:
        """With ID tokens that are mere words in the rows so marked."""
        return replace(self, item_BX=np.where(chosen_B[:, None], PAD, self.item_BX))


@dataclass(frozen=True)
class IdBatch:
    """Packed rows of examples."""

    ids_RP: Ints
    position_RP: Ints
    block_RP: Ints
    label_M: Ints
    """Flat index into R x P of the position that predicts the label, which is the one before it; choices' are last."""
    target_M: Ints
    id_place_I: Ints
    """Flat index of ID tokens that are read as vectors."""
    id_item_I: Ints
    state_Q: Ints
    """Flat index of the states that predict an item; those of choices are the last."""
    next_Q: Ints
    candidates_OC: Ints
    drawn_S: Ints
    """Items that all processes compare states with, beside the targets of all of them."""
    aligned_A: Ints
    """And those whose vectors they compare with texts."""
    choice_tokens: int

    @property
    def tokens(self) -> int:
        """Without padding."""
        return int((self.block_RP > 0).sum())

    @property
    def kind_sizes(self) -> tuple[int, ...]:
        return (len(self.label_M),)

    @property
    def labels(self) -> Ints:
        """By TERMS. What is compared with texts is known on the device only; `loss` gives a mean there."""
        choices = len(self.candidates_OC)
        return np.array([len(self.label_M) - choices, choices, 1, len(self.next_Q) - choices])

    @property
    def tokens_of(self) -> Ints:
        """By TERMS; both contrastive losses read the windows that the words are in."""
        return np.array([self.tokens - self.choice_tokens, self.choice_tokens, 0, 0])


class TensorIds:
    """`IdBatch` on the training device."""

    def __init__(self, batch: IdBatch, device: torch.device) -> None:
        for name, values in vars(batch).items():
            if isinstance(values, np.ndarray):
                setattr(self, name, torch.from_numpy(values).to(device, non_blocking=True))

    ids_RP: Tensor
    position_RP: Tensor
    block_RP: Tensor
    label_M: Tensor
    target_M: Tensor
    id_place_I: Tensor
    id_item_I: Tensor
    state_Q: Tensor
    next_Q: Tensor
    candidates_OC: Tensor
    drawn_S: Tensor
    aligned_A: Tensor


class ItemPrompts:
    """Turns windows, histories and candidates into token rows."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, titles: Sequence[str], config: RsllmConfig) -> None:
        """`titles` of all items."""
        self.titles_NW = token_rows(tokenizer, [f" {title}" for title in titles], config.title_tokens)
        if config.prompts == "ids":
            self.titles_NW = self.titles_NW[:, :0]
        self._vectors = config.prompts != "titles"
        self._tokenizer = tokenizer
        self.item_token = int(tokenizer.convert_tokens_to_ids(ITEM_TOKEN))  # type: ignore[arg-type]
        self._instruction, self._question = (self._encoded(text) for text in (INSTRUCTION, QUESTION))

    @property
    def item_tokens(self) -> int:
        """The most tokens that an item has."""
        return int(self.titles_NW.shape[1]) + 1

    def longest(self, window_items: int, history_items: int) -> int:
        """The most tokens that an example can have."""
        asked = history_items * self.item_tokens + len(self._question) + 1
        return len(self._instruction) + max(window_items * self.item_tokens, asked)

    def windows(self, items_BT: Ints, targets_BT: Ints) -> IdRows:
        """Every target of the windows is predicted: its words, and itself from the state before them."""
        wanted_BT = np.where(targets_BT == 1, items_BT, PAD)
        instruction = self._text(self._instruction, len(items_BT))
        next_BX = instruction.next_BX.copy()
        next_BX[:, -1] = wanted_BT[:, 0]
        return IdRows.left_aligned([replace(instruction, next_BX=next_BX), self._items(items_BT, wanted_BT)])

    def histories(self, history_BT: Ints) -> IdRows:
        """Prompts of inference; a history may be empty. The state of the last token says what comes next."""
        rows = IdRows.left_aligned([self._text(self._instruction, len(history_BT)), self._items(history_BT)])
        return asking(rows, np.zeros(len(history_BT), np.int64), behind=0)

    def choices(self, history_BT: Ints, item_B: Ints) -> IdRows:
        """Which item is next: answered by an ID token, where windows go on with words.

        Candidates are no part of the prompt, they are the items that the ID token may name [ours; the paper lists
        them]: what could be read of them is in their vectors.
        """
        B = len(history_BT)
        answer = replace(self._text(np.array([self.item_token]), B), is_label_BX=np.ones((B, 1), bool))
        question = [self._text(self._question, B), answer]
        rows = IdRows.left_aligned([self._text(self._instruction, B), self._items(history_BT), *question])
        return asking(rows, item_B, behind=1)

    def _items(self, items_BT: Ints, wanted_BT: Ints | None = None) -> IdRows:
        """Titles with an ID token behind each. Items that are wanted are labels, and predicted by the state before."""
        there_BT, shape = items_BT != PAD, (len(items_BT), items_BT.shape[1] * self.item_tokens)
        if wanted_BT is None:
            wanted_BT = np.full(items_BT.shape, PAD)
        ids_BTX, item_BTX, next_BTX = np.full((3, *items_BT.shape, self.item_tokens), PAD)
        ids_BTX[..., :-1] = np.where(there_BT[..., None], self.titles_NW[items_BT], PAD)
        ids_BTX[..., -1] = np.where(there_BT, self.item_token, PAD)
        item_BTX[..., -1] = items_BT if self._vectors else PAD
        next_BTX[:, :-1, -1] = wanted_BT[:, 1:]
        is_label_BX = np.repeat(wanted_BT != PAD, self.item_tokens, axis=1)
        return IdRows(ids_BTX.reshape(shape), is_label_BX, item_BTX.reshape(shape), next_BTX.reshape(shape))

    def _text(self, ids_X: Ints, rows: int) -> IdRows:
        return _plain(np.broadcast_to(ids_X, (rows, len(ids_X))))

    def _encoded(self, text: str) -> Ints:
        ids_X: Ints = token_rows(self._tokenizer, [text], len(text))[0]
        return ids_X


def asking(rows: IdRows, item_B: Ints, behind: int) -> IdRows:
    """The examples, asked for these items at the last token but `behind`; to inference any item will do."""
    next_BX = np.full_like(rows.ids_BX, PAD)
    next_BX[np.arange(len(next_BX)), rows.lengths - 1 - behind] = item_B
    return replace(rows, next_BX=next_BX)


def packed(
    parts: Sequence[IdRows], row_tokens: int, candidates_OC: Ints = NONE, drawn_S: Ints = NONE, aligned_A: Ints = NONE
) -> IdBatch:
    """Examples side by side: windows or histories, then choices if any."""
    there = [each.ids_BX != PAD for each in parts]
    length_B = np.concatenate([each.sum(1) for each in there])
    layout = pack(length_B, row_tokens)
    ids_F, is_label_F, item_F, next_F = (
        np.concatenate([getattr(part, each.name)[inside] for part, inside in zip(parts, there, strict=True)])
        for each in fields(IdRows)
    )
    label_F, state_F, id_F = (np.flatnonzero(each) for each in (is_label_F, next_F != PAD, item_F != PAD))
    return IdBatch(
        ids_RP=layout.spread(ids_F),
        position_RP=layout.position_RP,
        block_RP=layout.block_RP,
        label_M=layout.place_F[label_F] - 1,
        target_M=ids_F[label_F],
        id_place_I=layout.place_F[id_F],
        id_item_I=item_F[id_F],
        state_Q=layout.place_F[state_F],
        next_Q=next_F[state_F],
        candidates_OC=candidates_OC,
        drawn_S=drawn_S,
        aligned_A=aligned_A,
        choice_tokens=int(sum(each.sum() for each in there[1:])),
    )


def _plain(ids_BX: Ints) -> IdRows:
    nothing_BX = np.full(ids_BX.shape, PAD)
    return IdRows(ids_BX, np.zeros(ids_BX.shape, bool), nothing_BX, nothing_BX)
