"""The words that the language model learns for items: one token per (level, code), `<u_0>` … `<y_255>` [paper].

Where users have codes as well (TTDS), theirs are `<user_u_0>` … `<user_y_255>` [code: tokens of their own].

Shapes: N items, L code levels, K codes a level.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
from transformers import PreTrainedTokenizerBase

from model.data.reader import read_table
from model.recommender.methods.base import Ints

LEVEL_LETTERS = ("u", "v", "x", "y", "z", "w", "s", "t")
"""Four levels are the paper's; the rest is room for longer codes."""


@dataclass(frozen=True)
class CodeVocabulary:
    """Which token stands for which code."""

    token_ids_LK: Ints
    """Of items."""
    user_ids_LK: Ints = field(default_factory=lambda: np.empty((0, 0), np.int64))
    """Of users; no row where they have no codes."""

    @classmethod
    def extend(
        cls, tokenizer: PreTrainedTokenizerBase, levels: int, codes_per_level: int, *, users: bool = False
    ) -> CodeVocabulary:
        """Add the code tokens to the tokenizer, at the end of its vocabulary, and say where they stand.

        They are special tokens, so that `encode` can be told not to find them inside an item's title.
        """
        if levels > len(LEVEL_LETTERS):
            raise ValueError(f"tokenizer.levels is {levels}; codes have at most {len(LEVEL_LETTERS)} levels.")

        def added(prefix: str) -> Ints:
            letters, codes = LEVEL_LETTERS[:levels], range(codes_per_level)
            tokens = [f"<{prefix}{letter}_{code}>" for letter in letters for code in codes]
            tokenizer.add_tokens(tokens, special_tokens=True)
            ids = np.asarray(tokenizer.convert_tokens_to_ids(tokens), np.int64)
            return ids.reshape(levels, codes_per_level)

        return cls(added(""), added("user_")) if users else cls(added(""))

    @property
    def has_users(self) -> bool:
        return len(self.user_ids_LK) > 0

    @property
    def all_ids(self) -> Ints:
        """Tokens of each kind of label: X = the items' levels, then the users'."""
        return np.concatenate([self.token_ids_LK, self.user_ids_LK]) if self.has_users else self.token_ids_LK

    @property
    def levels(self) -> int:
        return len(self.token_ids_LK)

    def encode(self, codes_NL: Ints) -> Ints:
        """Items' codes [..., L] -> token ids [..., L]."""
        return self.token_ids_LK[np.arange(self.levels), codes_NL]

    def encode_users(self, codes_BL: Ints) -> Ints:
        """Users' codes [..., L] -> token ids [..., L]."""
        return self.user_ids_LK[np.arange(self.levels), codes_BL]

    def decode(self, tokens_NL: Ints) -> Ints:
        """Token ids [..., L] -> codes [..., L]; -1 where a token is no code of its level."""
        codes_NL = np.full(tokens_NL.shape, -1, np.int64)
        for level, token_ids_K in enumerate(self.token_ids_LK):
            order = np.argsort(token_ids_K)
            place = np.searchsorted(token_ids_K, tokens_NL[..., level], sorter=order).clip(max=len(order) - 1)
            code = order[place]
            codes_NL[..., level] = np.where(token_ids_K[code] == tokens_NL[..., level], code, -1)
        return codes_NL


def read_codes(uris: Sequence[str], levels: int) -> Ints:
    """Codes of all items [N,L] in the order of item_index, from a codebook generation and those with its additions.

    ValueError when a level is missing or the item indices do not run from 0 to N-1.
    """
    columns = ["item_index", *(f"code_{level}" for level in range(levels))]
    table = pa.concat_tables([read_table(f"{uri}/items.parquet", columns) for uri in uris]).sort_by("item_index")
    index_N, *codes_LN = (column.to_numpy().astype(np.int64) for column in table.columns)
    if not np.array_equal(index_N, np.arange(len(index_N))):
        raise ValueError(
            f"item_index does not run from 0 to {len(index_N) - 1} over {', '.join(uris)}. Rebuild the codes."
        )
    return np.stack(codes_LN, axis=1)
