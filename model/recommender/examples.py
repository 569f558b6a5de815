"""From tasks and cases to packed token batches.

An example is a row of segments: fixed text, words of an item, or codes. Segments are arrays padded with -1, so that the
examples of one template are put together by one concatenation and one shift to the left, with no loop over rows.

Shapes: B rows, X positions of a segment or row, T items of a window, N items, L code levels, F tokens, M labels,
R packed rows, P positions of a packed row, V key terms, S code strings, H hidden size, U buyers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache

import numpy as np
from transformers import PreTrainedTokenizerBase

from model.data.packing import pack
from model.recommender.cases import Cases
from model.recommender.methods.base import PAD, Bools, Ints
from model.recommender.queries import INTERESTS, KeyTerms
from model.recommender.rows import Batch, Rows, Strings
from model.recommender.tasks import INSTRUCTION, Slot, Template
from model.recommender.users import NAMED_BUYERS, UserCoder, Views
from model.recommender.vocabulary import CodeVocabulary

MAX_TITLE_TOKENS, MAX_TEXT_TOKENS, MAX_TERM_TOKENS = 24, 64, 6
WORDING_TOKENS, MOST_NAMED = 32, 5
"""At most: the fixed text of a template, and the items that it names beside a history."""
SHOWN_TITLES = 5
"""Of a history that is told in titles."""
YES, NO = " yes", " no"


class Examples:
    """Turns cases of tasks into token rows, and histories into prompts."""

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        vocabulary: CodeVocabulary,
        codes_NL: Ints,
        titles: Sequence[str] = (),
        texts: Sequence[str] = (),
        terms: KeyTerms | None = None,
    ) -> None:
        """Titles, texts and key terms are those of all items; prompts for inference need none of them."""
        self._tokenizer, self._vocabulary, self._levels = tokenizer, vocabulary, vocabulary.levels
        self.recode(codes_NL)
        self.titles_NX = self._encode([f" {title}" for title in titles], MAX_TITLE_TOKENS)
        self.texts_NX = text_rows(tokenizer, texts)
        self.terms = terms
        self._terms_VX = self._encode([f" {term}" for term in terms.terms] if terms else [], MAX_TERM_TOKENS)
        self._fixed = cache(self._fixed_text)

    def recode(self, codes_NL: Ints, users: UserCoder | None = None) -> None:
        """From now on items have these codes, and users theirs, if any."""
        self._codes_NL, self._users = self._vocabulary.encode(codes_NL), users

    @property
    def items(self) -> int:
        return len(self._codes_NL)

    def window_tokens(self, items: int) -> int:
        """The most tokens that a prompt of so many items has."""
        return len(self._fixed(INSTRUCTION)) + self._levels * (items + (self._vocabulary.has_users and items > 0))

    def longest(self, window_items: int, history_items: int) -> int:
        """The most tokens that an example can have."""
        title, text = int(self.titles_NX.shape[1]) + 1, int(self.texts_NX.shape[1])
        history = self._levels * (history_items + MOST_NAMED) + max(title, INTERESTS * MAX_TERM_TOKENS)
        told = max(history, (SHOWN_TITLES + 1) * title + self._levels, text + self._levels)
        return max(self.window_tokens(window_items), told + WORDING_TOKENS)

    def rows(self, template: Template, cases: Cases) -> Rows:
        """An example for each case."""
        parts = [(part, False) for part in template.prompt] + [(part, True) for part in template.response]
        segments = [segment for part, is_response in parts for segment in self._segments(part, cases, is_response)]
        return Rows.left_aligned(segments)

    @property
    def shared_prompt(self) -> Ints:
        """Token ids that all prompts begin with: all of the instruction but its last, which even an empty one needs."""
        return self._fixed(INSTRUCTION)[:-1]

    def prompts(self, history_BT: Ints) -> tuple[Ints, Ints]:
        """What inference reads behind `shared_prompt`: right-padded token rows [B,X] and their lengths [B], at least 1.

        A history may be empty; the codes of a user with one stand before it, where users have codes.
        """
        segments = [self._text(self._fixed(INSTRUCTION)[-1:], len(history_BT))]
        if self._users is not None:
            segments.append(self._user_codes(history_BT, is_response=False))
        rows = Rows.left_aligned([*segments, self._codes(history_BT)])
        return rows.ids_BX.clip(min=0), rows.lengths

    def user_codes(self, history_BT: Ints) -> Ints | None:
        """[B,L], -1 for users without a history; None where users have no codes."""
        return None if self._users is None else self._users.codes(history_BT)

    def strings(self, items: Views, item_S: Ints, history_SH: Ints) -> Strings:
        """Code strings of items and, where they have codes, of users with these histories, none of them empty."""
        ids_SL, text_SH = self._codes_NL[item_S], items.text_NE[item_S]
        if self._users is not None and len(history_SH):
            of_users_SL = self._vocabulary.encode_users(self._users.codes(history_SH))
            ids_SL = np.concatenate([ids_SL, of_users_SL])
            text_SH = np.concatenate([text_SH, items.of_histories(history_SH).text_NE])
        return Strings(ids_SL, text_SH, np.arange(len(ids_SL)) >= len(item_S), np.empty(0, np.int64))

    def pack(self, rows_of_task: Sequence[Sequence[Rows]], row_tokens: int, strings: Strings | None = None) -> Batch:
        """All tasks' rows side by side, and behind them the strings; see `model.data.packing`."""
        rows = [each for of_task in rows_of_task for each in of_task]
        if strings is not None:
            nothing = np.zeros(strings.ids_SL.shape, np.int64)
            rows.append(Rows(strings.ids_SL, nothing == 1, nothing))
        layout = pack(np.concatenate([np.empty(0, np.int64), *(each.lengths for each in rows)]), row_tokens)
        ids_F, is_label_F, kind_F = (
            np.concatenate([np.empty(0, np.int64), *(getattr(each, name)[each.ids_BX != PAD] for each in rows)])
            for name in ("ids_BX", "is_label_BX", "kind_BX")
        )
        task_tokens = np.array([sum(int(each.lengths.sum()) for each in of_task) for of_task in rows_of_task])
        task_F = np.repeat(np.arange(len(rows_of_task)), task_tokens)
        if strings is not None:
            place_SL = layout.place_F[len(task_F) :].reshape(strings.ids_SL.shape)
            strings = replace(strings, place_SL=place_SL)
        label_F = np.flatnonzero(is_label_F)
        label_F = label_F[np.argsort(kind_F[label_F], kind="stable")]
        return Batch(
            ids_RP=layout.spread(ids_F),
            position_RP=layout.position_RP,
            block_RP=layout.block_RP,
            label_M=layout.place_F[label_F] - 1,
            target_M=ids_F[label_F],
            task_M=task_F[label_F],
            kind_sizes=tuple(np.bincount(kind_F[label_F], minlength=1 + self._kinds).tolist()),
            task_tokens=task_tokens,
            strings=strings,
        )

    @property
    def _kinds(self) -> int:
        """Of code labels."""
        return len(self._vocabulary.all_ids)

    def _segments(self, part: str | Slot, cases: Cases, is_response: bool) -> list[Rows]:
        if not isinstance(part, Slot):
            return [self._text(self._fixed(part), len(cases), is_response)]
        fill: dict[Slot, Callable[[], list[Rows]]] = {
            Slot.WINDOW: lambda: [self._codes(cases.windows.items_BT, cases.windows.targets_BT == 1)],
            Slot.HISTORY: lambda: [self._codes(cases.history_BH)],
            Slot.TITLES: lambda: self._titles(cases.history_BH[:, -SHOWN_TITLES:]),
            Slot.INTERESTS: lambda: [self._key_terms(self._known_terms().interests(cases.history_BH), is_response)],
            Slot.ITEM: lambda: [self._codes(cases.item_B[:, None], np.full((len(cases), 1), is_response))],
            Slot.TITLE: lambda: [self._text(self.titles_NX[cases.item_B], len(cases), is_response)],
            Slot.TEXT: lambda: [self._text(self.texts_NX[cases.item_B], len(cases), is_response)],
            Slot.QUERY: lambda: [self._key_terms(self._known_terms().query_NQ[cases.item_B], is_response)],
            Slot.CANDIDATE: lambda: [self._codes(cases.candidate[:, None])],
            Slot.CANDIDATE_TITLE: lambda: [self._text(self.titles_NX[cases.candidate], len(cases))],
            Slot.CANDIDATES: lambda: [self._codes(cases.candidates)],
            Slot.CANDIDATE_TITLES: lambda: self._titles(cases.candidates),
            Slot.USER: lambda: [self._user_codes(cases.history_BH, is_response)],
            Slot.BUYERS: lambda: [
                self._user_codes(cases.buyers_BUH[:, place], is_response) for place in range(NAMED_BUYERS)
            ],
            Slot.ANSWER: lambda: [self._answer(cases.is_item_B, is_response)],
            Slot.END: lambda: [self._text(np.array([self._tokenizer.eos_token_id]), len(cases), is_response)],
        }
        return fill[part]()

    def _answer(self, is_item_B: Bools, is_response: bool) -> Rows:
        yes_X, no_X = self._encode([YES, NO], MAX_TERM_TOKENS)
        return self._text(np.where(is_item_B[:, None], yes_X, no_X), len(is_item_B), is_response)

    def _known_terms(self) -> KeyTerms:
        assert self.terms is not None, "queries need the items' key terms"
        return self.terms

    def _user_codes(self, history_BH: Ints, is_response: bool) -> Rows:
        assert self._users is not None, "the task needs users' codes"
        codes_BL = self._users.codes(history_BH)
        ids_BL = np.where(codes_BL == PAD, PAD, self._vocabulary.encode_users(codes_BL))
        kind_BL = np.broadcast_to(1 + self._levels + np.arange(self._levels), ids_BL.shape)
        return Rows(ids_BL, np.full(ids_BL.shape, is_response), kind_BL)

    def _codes(self, items_BT: Ints, is_target_BT: Bools | None = None) -> Rows:
        ids_BX = np.where(items_BT[..., None] == PAD, PAD, self._codes_NL[items_BT]).reshape(len(items_BT), -1)
        wanted_BT = np.zeros(items_BT.shape, bool) if is_target_BT is None else is_target_BT
        kind_X = 1 + np.arange(ids_BX.shape[1]) % self._levels
        return Rows(ids_BX, np.repeat(wanted_BT, self._levels, axis=1), np.broadcast_to(kind_X, ids_BX.shape))

    def _text(self, ids_X: Ints, rows: int, is_response: bool = False) -> Rows:
        """Text that is the same for all rows [X], or one for each [B,X]."""
        ids_BX = np.broadcast_to(ids_X, (rows, ids_X.shape[-1]))
        return Rows(ids_BX, np.full(ids_BX.shape, is_response), np.zeros(ids_BX.shape, np.int64))

    def _titles(self, items_BT: Ints) -> list[Rows]:
        """Titles, each closed by a semicolon."""
        stop_X = self._fixed(";")
        segments = []
        for item_B in items_BT.T:
            here_B1 = (item_B != PAD)[:, None]
            for ids_BX in (self.titles_NX[item_B], np.broadcast_to(stop_X, (len(item_B), len(stop_X)))):
                segments.append(self._text(np.where(here_B1, ids_BX, PAD), len(item_B)))
        return segments

    def _key_terms(self, term_BQ: Ints, is_response: bool) -> Rows:
        ids_BX = np.where(term_BQ[..., None] == PAD, PAD, self._terms_VX[term_BQ]).reshape(len(term_BQ), -1)
        return self._text(ids_BX, len(term_BQ), is_response)

    def _fixed_text(self, text: str) -> Ints:
        ids_X: Ints = self._encode([text], MAX_TEXT_TOKENS)[0]
        return ids_X

    def _encode(self, texts: Sequence[str], most: int) -> Ints:
        return token_rows(self._tokenizer, texts, most)


def text_rows(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> Ints:
    """Token ids [N,X] of items' texts as examples hold them, padded with -1 behind."""
    return token_rows(tokenizer, [f" {text}" if text else "" for text in texts], MAX_TEXT_TOKENS)


def token_rows(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], most: int) -> Ints:
    """Token ids of texts, padded with -1 [len(texts), X]; a code token's name inside a text stays plain text."""
    if not texts:
        return np.empty((0, 0), np.int64)
    rows = tokenizer(
        list(texts), add_special_tokens=False, split_special_tokens=True, truncation=True, max_length=most
    )["input_ids"]
    lengths = np.array([len(row) for row in rows])
    padded = np.full((len(rows), max(lengths)), PAD, np.int64)
    padded[np.arange(padded.shape[1]) < lengths[:, None]] = np.concatenate([np.asarray(r, np.int64) for r in rows])
    return padded
