"""All valid codes as a prefix tree in tables, and what is left of it for a user [ours; cf. STATIC's sparse tables].

Nodes of a depth are the distinct prefixes of that length, numbered in lexicographic order, so the items below a node
are one range of the leaves. Which codes may follow a node is a set of K bits. A day's bits leave out children without
an available item. For a user only the children on the way to items that the user has seen can differ: those whose
available items have all been seen are closed. So a step's mask costs B x W x K, whatever the number of items; only the
tables cost O(N), once a model, and the bits, once a day.

Shapes: B users, W nodes a user, K codes a level, N items, S seen items, U words of 64 bits.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from model.recommender.methods.base import Ints

WORD = 64


class Depth(NamedTuple):
    """The nodes whose prefix has one code more than their parents'."""

    key: Tensor
    """parent x K + last code of each node [nodes], ascending."""
    first_leaf: Tensor
    """Offset of each node's first leaf, and the end [nodes + 1]."""


class Trie:
    """Prefix tree over the codes of all items; leaf j of the lexicographic order is item `item_N[j]`."""

    def __init__(self, codes_NL: Ints, codes_per_level: int, device: torch.device | str = "cpu") -> None:
        """ValueError when there are no codes, or two items share one."""
        items, levels = codes_NL.shape
        if items == 0:
            raise ValueError("The codebook has no items: there is nothing to recommend.")
        item_N = np.lexsort(codes_NL.T[::-1])
        sorted_NL = codes_NL[item_N]
        # The depth at which a leaf leaves its predecessor's path: there and below it starts nodes of its own.
        differs_NL = np.ones((items, levels), bool)
        differs_NL[1:] = np.logical_or.accumulate(sorted_NL[1:] != sorted_NL[:-1], axis=1)
        twins = np.flatnonzero(~differs_NL[:, -1])
        if len(twins):
            one, other = sorted(item_N[twins[0] - 1 : twins[0] + 1].tolist())
            code = "-".join(map(str, sorted_NL[twins[0]]))
            raise ValueError(
                f"Items {one} and {other} share the code {code}: the codebook is not a bijection. Rebuild it."
            )
        self.levels, self.items, self.codes_per_level = levels, items, codes_per_level
        self.device = torch.device(device)
        self.item_N = torch.as_tensor(item_N.astype(np.int32), device=device)
        self.leaf_N = torch.empty_like(self.item_N)
        self.leaf_N[self.item_N] = torch.arange(items, dtype=torch.int32, device=device)
        self.depths: list[Depth] = []
        parents_first_leaf = np.array([0])
        for depth in range(levels):
            first_leaf = np.flatnonzero(differs_NL[:, depth])
            parent = np.searchsorted(parents_first_leaf, first_leaf, side="right") - 1
            key = parent * codes_per_level + sorted_NL[first_leaf, depth]
            ends = np.append(first_leaf, items).astype(np.int32)
            self.depths.append(Depth(torch.as_tensor(key, device=device), torch.as_tensor(ends, device=device)))
            parents_first_leaf = first_leaf

    def child(self, depth: int, node_BW: Tensor, code_BW: Tensor) -> Tensor:
        """The nodes that these codes lead to; they must exist."""
        return torch.searchsorted(self.depths[depth].key, node_BW * self.codes_per_level + code_BW)


class Available:
    """The items that lists may hold today: O(N), once for all users."""

    def __init__(self, trie: Trie, available_N: Tensor) -> None:
        """`available_N` bool."""
        self.trie = trie
        before_N1 = torch.nn.functional.pad(available_N[trie.item_N].cumsum(0, dtype=torch.int32), (1, 0))
        K, words = trie.codes_per_level, -(-trie.codes_per_level // WORD)
        self.counts: list[Tensor] = []
        """How many there are below each node of a depth."""
        self.bits: list[Tensor] = []
        """Codes that lead on from each parent of a depth, as bits [parents,U]."""
        parents = 1
        for key, first_leaf in trie.depths:
            count = before_N1[first_leaf].diff()
            parent, code = key // K, key % K
            bit = torch.where(count > 0, torch.ones_like(code) << code % WORD, 0)
            place = parent * words + code // WORD
            self.bits.append(bit.new_zeros(parents * words).index_add_(0, place, bit).view(parents, words))
            self.counts.append(count)
            parents = len(key)


class Allowed:
    """The items that each user of a batch may get: available ones that the user has not seen."""

    def __init__(self, available: Available, seen_BS: Tensor) -> None:
        """`seen_BS` int64 item indices padded with -1, repeats allowed."""
        trie = self._trie = available.trie
        self._bits = available.bits
        self._shift = torch.arange(WORD, device=trie.device)
        # Seen leaves in order, each once; what does not count (padding, repeats, unavailable) goes behind the last.
        leaf_BS = torch.where(seen_BS < 0, trie.items, trie.leaf_N[seen_BS.clamp(min=0)]).sort(dim=1).values
        void_BS = leaf_BS == trie.items
        void_BS |= available.counts[-1][leaf_BS.clamp(max=trie.items - 1)] == 0
        void_BS[:, 1:] |= leaf_BS[:, 1:] == leaf_BS[:, :-1]
        leaf_BS = leaf_BS.masked_fill(void_BS, trie.items).sort(dim=1).values
        self._closed = list(reversed(list(self._closed_upwards(available.counts, leaf_BS))))

    def _closed_upwards(self, counts: Sequence[Tensor], leaf_BS: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """From the leaves up: nodes of which a user has seen all, by parent and code [B,S]; parent -1 for no node."""
        K, counted_BS = self._trie.codes_per_level, leaf_BS < self._trie.items
        node_BS = leaf_BS.long()
        for depth, count in zip(reversed(self._trie.depths), reversed(counts), strict=True):
            # Items below a node are neighbours: all of them stand between the first and the last of their node.
            seen_BS = torch.searchsorted(node_BS, node_BS, right=True) - torch.searchsorted(node_BS, node_BS)
            known_BS = node_BS.masked_fill(~counted_BS, 0)
            key_BS = depth.key[known_BS]
            parent_BS = key_BS // K
            yield parent_BS.masked_fill(~counted_BS | (seen_BS < count[known_BS]), -1), key_BS % K
            node_BS = torch.where(counted_BS, parent_BS, self._trie.items)

    def open(self, depth: int, node_BW: Tensor) -> Tensor:
        """Which codes lead on from the nodes, of depth - 1, to an item that the user may get: bool [B,W,K]."""
        words_BWU = self._bits[depth][node_BW]
        bits_BWK = (words_BWU[..., None] >> self._shift).flatten(2)[..., : self._trie.codes_per_level]
        open_BWK = bits_BWK.bitwise_and_(1).bool()
        parent_BS, code_BS = self._closed[depth]
        user, beam, seen = (parent_BS[:, None, :] == node_BW[..., None]).nonzero(as_tuple=True)
        open_BWK[user, beam, code_BS[user, seen]] = False
        return open_BWK


class Listed:
    """Items that are named for each user: these, and no others, may come out."""

    def __init__(self, trie: Trie, item_BC: Tensor) -> None:
        """`item_BC` int64 item indices padded with -1."""
        self._codes_per_level = trie.codes_per_level
        named_BC = item_BC >= 0
        node_BC = trie.leaf_N[item_BC.clamp(min=0)].long()
        self._open: list[tuple[Tensor, Tensor]] = []
        for depth in reversed(trie.depths):
            key_BC = depth.key[node_BC]
            node_BC = key_BC // trie.codes_per_level
            self._open.insert(0, (node_BC.masked_fill(~named_BC, -1), key_BC % trie.codes_per_level))

    def open(self, depth: int, node_BW: Tensor) -> Tensor:
        """Which codes lead on from the nodes, of depth - 1, to a named item: bool [B,W,K]."""
        open_BWK = torch.zeros(*node_BW.shape, self._codes_per_level, dtype=torch.bool, device=node_BW.device)
        parent_BC, code_BC = self._open[depth]
        user, beam, named = (parent_BC[:, None, :] == node_BW[..., None]).nonzero(as_tuple=True)
        open_BWK[user, beam, code_BC[user, named]] = True
        return open_BWK
