"""Rows of different lengths in rectangles, so that hardly anything is padding.

Sequence packing, for training: examples side by side in rows of one length. Batches of similar length, for inference.

Shapes: E examples, F tokens of all examples, R rows, P positions of a row, B users.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Layout:
    """Where examples stand; `place` spreads their tokens."""

    place_F: Ints
    """Flat index into R x P of each token, example after example."""
    position_RP: Ints
    """Position within the token's own example."""
    block_RP: Ints
    """Number of the example, from 1 on; 0 in the padding. Attention must stay within a block."""

    def spread(self, token_F: Ints) -> Ints:
        """Tokens [F] in their rows [R,P]; 0 in the padding."""
        row_RP = np.zeros(self.block_RP.shape, np.int64)
        row_RP.flat[self.place_F] = token_F
        return row_RP


def pack(length_E: Ints, row_tokens: int) -> Layout:
    """First fit, longest first. Rows are as long as the fullest of them, at most `row_tokens`.

    Raises ValueError for an example longer than a row.
    """
    if length_E.max(initial=0) > row_tokens:
        raise ValueError(f"An example has {length_E.max()} tokens, a row {row_tokens}. Raise finetune.row_tokens.")
    free_R = np.full(len(length_E), row_tokens)
    row_E, offset_E = np.zeros_like(length_E), np.zeros_like(length_E)
    for example in np.argsort(-length_E, kind="stable"):
        row = int((free_R >= length_E[example]).argmax())
        row_E[example], offset_E[example] = row, row_tokens - free_R[row]
        free_R[row] -= length_E[example]
    P, R = int((offset_E + length_E).max(initial=0)), int(row_E.max(initial=-1)) + 1
    within_F = np.arange(length_E.sum()) - np.repeat(np.cumsum(length_E) - length_E, length_E)
    place_F = np.repeat(row_E * P + offset_E, length_E) + within_F
    position_RP, block_RP = np.zeros((2, R, P), np.int64)
    position_RP.flat[place_F] = within_F
    block_RP.flat[place_F] = np.repeat(np.arange(1, len(length_E) + 1), length_E)
    return Layout(place_F, position_RP, block_RP)


def batches_of_similar_length(length_B: Ints, extra: int, most: int) -> Iterator[Ints]:
    """Places of the rows, longest first, in batches of at most `most` cells, or of one row.

    A row has as many cells as its batch's longest is long, and `extra` ones.
    """
    order_B = np.argsort(-length_B, kind="stable")
    start = 0
    while start < len(order_B):
        size = max(1, most // max(1, int(length_B[order_B[start]]) + extra))
        yield order_B[start : start + size]
        start += size
