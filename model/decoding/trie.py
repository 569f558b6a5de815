"""All valid codes as a prefix tree in tables, and what is left of it for a user [ours; the idea of CSR is STATIC's].

Nodes of a depth are the distinct prefixes of that length, numbered in lexicographic order. So the children of a node
are neighbours (CSR: one offset a node), and the items below a node are one range of the leaves. That range makes masks
cheap: how many items a user may still get below a node is a difference of two prefix counts, minus the user's seen
items in the range, found by binary search. A node with none left is closed. Nothing here costs O(N) per user.

The first depths are dense by nature (each node has up to K children in code order); no separate dense form is needed,
because a beam reads its children by offset either way.

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
        self.levels, self.items = levels, items
        self.item_N = torch.as_tensor(item_N, device=device)
        self.leaf_N = torch.empty_like(self.item_N).scatter_(0, self.item_N, torch.arange(items, device=device))
        self.depths: list[Depth] = []
        parents_first_leaf = np.array([0])
        for depth in range(levels):
            first_leaf = np.flatnonzero(differs_NL[:, depth])
            first_child = np.append(np.searchsorted(first_leaf, parents_first_leaf), len(first_leaf))
            self.depths.append(
                Depth(
                    first_child=torch.as_tensor(first_child, device=device),
                    code=torch.as_tensor(sorted_NL[first_leaf, depth], device=device),
                    first_leaf=torch.as_tensor(np.append(first_leaf, items), device=device),
                    most_children=int(np.diff(first_child).max()),
                )
            )
            parents_first_leaf = first_leaf


class Allowed:
    """The items that each user of a batch may get: available ones that the user has not seen."""

    def __init__(self, trie: Trie, seen_BS: Tensor, available_N: Tensor) -> None:
        """`seen_BS` int64 item indices padded with -1, repeats allowed; `available_N` bool."""
        self._trie = trie
        available_leaf_N = available_N[trie.item_N]
        self._before = torch.nn.functional.pad(available_leaf_N.cumsum(0), (1, 0))
        # Seen leaves in order, each once; what does not count (padding, repeats, unavailable) goes behind the last.
        leaf_BS = torch.where(seen_BS < 0, trie.items, trie.leaf_N[seen_BS.clamp(min=0)]).sort(dim=1).values
        void_BS = leaf_BS == trie.items
        void_BS |= ~available_leaf_N[leaf_BS.clamp(max=trie.items - 1)]
        void_BS[:, 1:] |= leaf_BS[:, 1:] == leaf_BS[:, :-1]
        self._seen_BS = leaf_BS.masked_fill(void_BS, trie.items).sort(dim=1).values

    def children(self, depth: int, parent_BW: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Nodes one step below the parents, their codes, and which are open (hold an allowed item): each [B,W,C].

        Rows of parents with fewer than C children are filled with closed ones.
        """
        table = self._trie.depths[depth]
        offset_C1 = torch.arange(table.most_children + 1, device=parent_BW.device)
        start_BW, end_BW = table.first_child[parent_BW], table.first_child[parent_BW + 1]
        # Boundaries between neighbours; behind the last child they all fall together, so that those ranges are empty.
        edge_BWC1 = torch.minimum(start_BW[..., None] + offset_C1, end_BW[..., None])
        leaf_BX = table.first_leaf[edge_BWC1].flatten(1)
        left_BX = self._before[leaf_BX] - torch.searchsorted(self._seen_BS, leaf_BX)
        open_BWC = left_BX.view(edge_BWC1.shape).diff(dim=-1) > 0
        child_BWC = edge_BWC1[..., :-1].clamp(max=len(table.code) - 1)
        return child_BWC, table.code[child_BWC], open_BWC
