"""All valid codes as a prefix tree in tables, and what is left of it for a user [ours; the idea of CSR is STATIC's].

Nodes of a depth are the distinct prefixes of that length, numbered in lexicographic order. So the children of a node
are neighbours (CSR: one offset a node), and the items below a node are one range of the leaves. That range makes masks
cheap: how many items a user may still get below a node is a difference of two prefix counts, minus the user's seen
items in the range, found by binary search. A node with none left is closed. Only the counts cost O(N), once a day.

The first depths are dense by nature (each node has up to K children in code order); no separate dense form is needed,
because a beam reads its children by offset either way. Tables are int32: 1e8 items need about 2.5 GB.

Shapes: B users, W nodes a user, C children looked at (the most that a node of the depth has), N items, S seen items.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from model.recommender.methods.base import Ints


@dataclass(frozen=True)
class Depth:
    """The nodes whose prefix has one code more than their parents'."""

    first_child: Tensor
    """Offset of each parent's first node here, and the end [parents + 1]."""
    code: Tensor
    """Last code of each node [nodes]."""
    first_leaf: Tensor
    """Offset of each node's first leaf, and the end [nodes + 1]."""
    most_children: int


class Trie:
    """Prefix tree over the codes of all items; leaf j of the lexicographic order is item `item_N[j]`."""

    def __init__(self, codes_NL: Ints, device: torch.device | str = "cpu") -> None:
        """ValueError when the codes are empty, or two items share one."""
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
        self.levels, self.items, self.device = levels, items, torch.device(device)
        self.item_N = self._table(item_N)
        self.leaf_N = torch.empty_like(self.item_N)
        self.leaf_N[self.item_N] = torch.arange(items, dtype=torch.int32, device=device)
        self.depths: list[Depth] = []
        parents_first_leaf = np.array([0])
        for depth in range(levels):
            first_leaf = np.flatnonzero(differs_NL[:, depth])
            first_child = np.append(np.searchsorted(first_leaf, parents_first_leaf), len(first_leaf))
            self.depths.append(
                Depth(
                    first_child=self._table(first_child),
                    code=self._table(sorted_NL[first_leaf, depth]),
                    first_leaf=self._table(np.append(first_leaf, items)),
                    most_children=int(np.diff(first_child).max()),
                )
            )
            parents_first_leaf = first_leaf

    def _table(self, values: Ints) -> Tensor:
        return torch.as_tensor(values.astype(np.int32), device=self.device)


class Available:
    """The items that lists may hold today, counted along the leaves: O(N), once for all users."""

    def __init__(self, trie: Trie, available_N: Tensor) -> None:
        """`available_N` bool."""
        self.trie, self.leaf_N = trie, available_N[trie.item_N]
        self.before = torch.nn.functional.pad(self.leaf_N.cumsum(0, dtype=torch.int32), (1, 0))
        """How many there are before each leaf, and in all [N+1]."""


class Allowed:
    """The items that each user of a batch may get: available ones that the user has not seen."""

    def __init__(self, available: Available, seen_BS: Tensor) -> None:
        """`seen_BS` int64 item indices padded with -1, repeats allowed."""
        self._trie, self._before = available.trie, available.before
        items = self._trie.items
        # Seen leaves in order, each once; what does not count (padding, repeats, unavailable) goes behind the last.
        leaf_BS = torch.where(seen_BS < 0, items, self._trie.leaf_N[seen_BS.clamp(min=0)]).sort(dim=1).values
        void_BS = leaf_BS == items
        void_BS |= ~available.leaf_N[leaf_BS.clamp(max=items - 1)]
        void_BS[:, 1:] |= leaf_BS[:, 1:] == leaf_BS[:, :-1]
        self._seen_BS = leaf_BS.masked_fill(void_BS, items).sort(dim=1).values

    def children(self, depth: int, parent_BW: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Nodes one step below the parents, their codes, and which are open (hold an allowed item). Each [B,W,C].

        Rows of parents with fewer than C children are filled with closed ones.
        """
        table = self._trie.depths[depth]
        offset_C1 = torch.arange(table.most_children + 1, dtype=torch.int32, device=parent_BW.device)
        start_BW, end_BW = table.first_child[parent_BW], table.first_child[parent_BW + 1]
        # Boundaries between neighbours; behind the last child they all fall together, so that those ranges are empty.
        edge_BWC1 = torch.minimum(start_BW[..., None] + offset_C1, end_BW[..., None])
        leaf_BX = table.first_leaf[edge_BWC1].flatten(1)
        left_BX = self._before[leaf_BX] - torch.searchsorted(self._seen_BS, leaf_BX)
        open_BWC = left_BX.view(edge_BWC1.shape).diff(dim=-1) > 0
        child_BWC = edge_BWC1[..., :-1].clamp(max=len(table.code) - 1)
        return child_BWC.long(), table.code[child_BWC].long(), open_BWC
