"""SASRec: a causal transformer over item indices, whose input embeddings are its output weights too.

[paper] Kang & McAuley 2018, with full softmax cross-entropy instead of sampled negatives (Klenitskiy & Vasilev 2023);
pre-norm blocks with GELU [ours]. An item's embedding may have a part that is projected from the item's text [ours; cf.
UniSRec, Hou et al. 2022], by which items with few events learn from those with similar texts.

Shapes: B sequences, T positions, N items, D width, H heads, Q positions to predict, S sampled items, X text dimensions.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from model.config import BehaviourConfig
from model.data.reader import Batch

PAD = -1
"""Fills `items_BT` behind a sequence's last item."""

LENGTH_GROUPS = 6
TARGETS_PER_PIECE = 256


class SasRec(nn.Module):
    """Next-item model over the items 0..N-1. Sequences are left-aligned, so that no item ever attends to padding."""

    columns = ("items", "targets")
    text_NX: Tensor

    def __init__(
        self, items: int, positions: int, config: BehaviourConfig, text_NX: npt.NDArray[np.float32] | None = None
    ) -> None:
        """`text_NX`: vectors of the items' texts, each dimension of about unit scale; None: items are their ids."""
        super().__init__()
        dim = config.dim
        if dim % config.heads:
            raise ValueError(f"behaviour.dim = {dim} is no multiple of behaviour.heads = {config.heads}.")
        self.item_embedding = nn.Embedding(items, dim)
        self.position_embedding = nn.Embedding(positions, dim)
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(Block(dim, config.heads, config.dropout) for _ in range(config.layers))
        self.norm = nn.LayerNorm(dim)
        self.sampled_softmax_above, self.negatives = config.sampled_softmax_above, config.negatives
        for embedding in (self.item_embedding, self.position_embedding):
            nn.init.normal_(embedding.weight, std=0.02)
        self.text_projection = None
        if text_NX is not None:
            self.register_buffer("text_NX", torch.from_numpy(text_NX), persistent=False)
            self.text_projection = nn.Linear(text_NX.shape[1], dim, bias=False)
            nn.init.normal_(self.text_projection.weight, std=text_NX.shape[1] ** -0.5)

    def batch(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """What `forward` takes, of a batch of windows."""
        items_BT, targets_BT = (torch.from_numpy(batch[name]).long() for name in self.columns)
        return items_BT, targets_BT

    @torch.no_grad()
    def item_vectors(self) -> Tensor:
        """[N,D]: what the tokenizer reads."""
        return self._table().detach()

    def weights(self) -> dict[str, Tensor]:
        """The state of the same model without text: what the text adds is in the items' embeddings."""
        own = {name: tensor for name, tensor in self.state_dict().items() if not name.startswith("text_projection")}
        return own | {"item_embedding.weight": self.item_vectors()}

    def _table(self) -> Tensor:
        """Embeddings of all items [N,D]."""
        id_ND: Tensor = self.item_embedding.weight
        return id_ND if self.text_projection is None else id_ND + self.text_projection(self.text_NX)

    def _embedded(self, items: Tensor, table_ND: Tensor | None) -> Tensor:
        """Rows of the table, or of these items alone where there is none."""
        if table_ND is not None:
            return F.embedding(items, table_ND)
        id_D: Tensor = self.item_embedding(items)
        return id_D if self.text_projection is None else id_D + self.text_projection(self.text_NX[items])

    def encode(self, items_BT: Tensor, table_ND: Tensor | None = None) -> Tensor:
        """States [B,T,D]: what is known after each item. States at padded positions mean nothing."""
        # Padding reads item 0; causality keeps it from every real position, which all stand before it.
        x_BTD = self._embedded(items_BT.clamp(min=0), table_ND) * self.item_embedding.embedding_dim**0.5
        x_BTD = self.dropout(x_BTD + self.position_embedding.weight[: items_BT.shape[1]])
        for block in self.blocks:
            x_BTD = block(x_BTD)
        states_BTD: Tensor = self.norm(x_BTD)
        return states_BTD

    def forward(self, items_BT: Tensor, targets_BT: Tensor) -> tuple[Tensor, int]:
        """Mean cross-entropy (nats) over the Q target positions, each predicted from all earlier ones, and Q.

        `targets_BT` is 1 where an item is to be predicted; a sequence's first item, with nothing before it, never is.
        """
        length_B = (items_BT != PAD).sum(dim=1)
        # A catalogue that is too large for the full softmax is too large to be projected at every step, too.
        table_ND = self._table() if self.item_embedding.num_embeddings <= self.sampled_softmax_above else None
        states, labels = [], []
        # Sequences of like length go together: most are short, and what pads them to the longest is work for nothing.
        for rows in length_B.argsort(stable=True).tensor_split(LENGTH_GROUPS):
            longest = max(int(length_B[rows].max()), 2) if len(rows) else 2
            group_BT = items_BT[rows, :longest]
            wanted_BT = (targets_BT[rows, 1:longest] == 1) & (group_BT[:, 1:] != PAD)
            states.append(self.encode(group_BT[:, :-1], table_ND)[wanted_BT])
            labels.append(group_BT[:, 1:][wanted_BT])
        states_QD, labels_Q = torch.cat(states), torch.cat(labels)
        # A batch without targets has loss 0 and zero gradients, so that all ranks still take the step together.
        return self._loss(states_QD, labels_Q, table_ND) / max(len(labels_Q), 1), len(labels_Q)

    def _loss(self, states_QD: Tensor, labels_Q: Tensor, table_ND: Tensor | None) -> Tensor:
        """Summed cross-entropy over all items, or over `negatives` drawn ones where there is no table."""
        if table_ND is not None:
            # In pieces: storing and loading the logits [Q,N] costs more time than computing them.
            pieces = nn.LinearCrossEntropyOptions(batch_chunk_size=TARGETS_PER_PIECE)
            return F.linear_cross_entropy(states_QD, table_ND, labels_Q, reduction="sum", options=pieces)
        N = self.item_embedding.num_embeddings
        drawn_S = torch.randint(N, (self.negatives,), device=labels_Q.device)
        own_Q = (states_QD * self._embedded(labels_Q, None)).sum(dim=1)
        # Each drawn item stands for N / S of the catalogue; a drawn target would count twice.
        others_QS = states_QD @ self._embedded(drawn_S, None).T + math.log(N / self.negatives)
        others_QS = others_QS.masked_fill(drawn_S == labels_Q[:, None], -math.inf)
        return (torch.cat([own_Q[:, None], others_QS], dim=1).logsumexp(dim=1) - own_Q).sum()


class Block(nn.Module):
    def __init__(self, dim: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.attention_dropout = heads, dropout
        self.attention_norm, self.mlp_norm = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.qkv, self.out = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.mlp = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), nn.Dropout(dropout), nn.Linear(4 * dim, dim))
        self.dropout = nn.Dropout(dropout)

    def forward(self, x_BTD: Tensor) -> Tensor:
        x_BTD = x_BTD + self.dropout(self.out(self._attend(self.attention_norm(x_BTD))))
        result_BTD: Tensor = x_BTD + self.dropout(self.mlp(self.mlp_norm(x_BTD)))
        return result_BTD

    def _attend(self, x_BTD: Tensor) -> Tensor:
        B, T, D = x_BTD.shape
        q, k, v = self.qkv(x_BTD).view(B, T, 3, self.heads, D // self.heads).permute(2, 0, 3, 1, 4)
        drop = self.attention_dropout if self.training else 0.0
        mixed_BHTd = F.scaled_dot_product_attention(q, k, v, dropout_p=drop, is_causal=True)
        return mixed_BHTd.transpose(1, 2).reshape(B, T, D)
