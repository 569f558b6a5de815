"""A graph encoder with latent intents, after DCCF: item vectors from who took what, whatever the order.

[paper] Ren et al. 2023 (arXiv 2305.02759), named by a review of Semantic Convergence: graph layers beside a global view
through learned intents, held together by InfoNCE; ranking loss BPR. Its adaptive edge masks are left out [ours].

Shapes: U users, N items, E edges, D width, C intents, P pairs of a batch.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import torch
from scipy import sparse
from torch import Tensor, nn
from torch.nn import functional as F

from model.config import BehaviourConfig
from model.data.reader import Batch, read_batches

COLUMNS = ("user_id", "items", "targets")
EPSILON = 1e-12


class Dccf(nn.Module):
    """User and item vectors out of the graph of the training set's targets."""

    columns = COLUMNS

    def __init__(self, users: dict[str, int], edges_UN: sparse.csr_array, config: BehaviourConfig) -> None:
        super().__init__()
        self.users = users
        self.layers, self.temperature = config.layers, config.temperature
        self.contrast_weight, self.decay = config.contrast_weight, config.embedding_decay
        self.user_embedding = nn.Embedding(edges_UN.shape[0], config.dim)
        self.item_embedding = nn.Embedding(edges_UN.shape[1], config.dim)
        self.user_intents_DC, self.item_intents_DC = (
            nn.Parameter(torch.empty(config.dim, config.intents)) for _ in range(2)
        )
        for weight in self.parameters():
            nn.init.xavier_uniform_(weight)
        # Divided by the roots of both degrees, as LightGCN does.
        scales = [np.maximum(edges_UN.sum(axis=axis), 1) ** -0.5 for axis in (1, 0)]
        scaled_UN = sparse.csr_array(sparse.diags_array(scales[0]) @ edges_UN @ sparse.diags_array(scales[1]))
        self.register_buffer("graph_UN", _tensor(scaled_UN), persistent=False)
        self.register_buffer("graph_NU", _tensor(sparse.csr_array(scaled_UN.T)), persistent=False)

    @classmethod
    def of_training_set(cls, sequences: str, items: int, config: BehaviourConfig) -> Dccf:
        """Reads the graph in one pass over the windows; a user's windows meet in one node."""
        users: dict[str, int] = {}
        rows, columns = [], []
        for batch in read_batches(sequences, COLUMNS, 8192, seed=0, epoch=0, shuffle=False):
            wanted_BT = _wanted(batch)
            user_B = np.array([users.setdefault(user, len(users)) for user in batch["user_id"]])
            rows.append(np.broadcast_to(user_B[:, None], wanted_BT.shape)[wanted_BT])
            columns.append(batch["items"][wanted_BT])
        user_E, item_E = np.concatenate(rows), np.concatenate(columns)
        edges_UN = sparse.csr_array((np.ones(user_E.size), (user_E, item_E)), shape=(len(users), items))
        edges_UN.data[:] = 1
        return cls(users, edges_UN, config)

    def batch(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """User and item [P] of each target in the windows."""
        wanted_BT = _wanted(batch)
        user_B = np.array([self.users[user] for user in batch["user_id"]])
        user_P = np.broadcast_to(user_B[:, None], wanted_BT.shape)[wanted_BT]
        return torch.from_numpy(user_P), torch.from_numpy(batch["items"][wanted_BT]).long()

    def vectors(self) -> tuple[Tensor, Tensor, list[tuple[Tensor, Tensor]]]:
        """User vectors [U,D], item vectors [N,D], and each layer's two views of all of them [U+N,D]."""
        user_UD, item_ND = self.user_embedding.weight, self.item_embedding.weight
        user_sum_UD, item_sum_ND = user_UD, item_ND
        views = []
        for _ in range(self.layers):
            near_UD = _spread(self.graph_UN, self.graph_NU, item_ND)
            near_ND = _spread(self.graph_NU, self.graph_UN, user_UD)
            intent_UD = (user_UD @ self.user_intents_DC).softmax(dim=1) @ self.user_intents_DC.T
            intent_ND = (item_ND @ self.item_intents_DC).softmax(dim=1) @ self.item_intents_DC.T
            views.append((torch.cat([near_UD, near_ND]), torch.cat([intent_UD, intent_ND])))
            user_UD, item_ND = user_UD + near_UD + intent_UD, item_ND + near_ND + intent_ND
            user_sum_UD, item_sum_ND = user_sum_UD + user_UD, item_sum_ND + item_ND
        return user_sum_UD, item_sum_ND, views

    def forward(self, user_P: Tensor, item_P: Tensor) -> tuple[Tensor, int]:
        """Mean loss over the pairs, and their number. The other item of each pair is drawn from the whole catalogue."""
        user_UD, item_ND, views = self.vectors()
        other_P = torch.randint(len(item_ND), item_P.shape, device=item_P.device)
        margin_P = (user_UD[user_P] * (item_ND[item_P] - item_ND[other_P])).sum(dim=1)
        nodes = torch.cat([user_P.unique(), len(user_UD) + item_P.unique()])
        contrast = sum(self._contrast(near[nodes], intent[nodes]) for near, intent in views)
        own = (self.user_embedding(user_P), self.item_embedding(item_P), self.item_embedding(other_P))
        length = sum(rows.square().sum() for rows in own) / max(len(item_P), 1)
        # A batch without targets has loss 0 and zero gradients, so that all ranks still take the step together.
        ranking = -F.logsigmoid(margin_P).sum() / max(len(item_P), 1)
        return ranking + self.contrast_weight * contrast + self.decay * length, len(item_P)

    def _contrast(self, near_XD: Tensor, intent_XD: Tensor) -> Tensor:
        """InfoNCE: each node's two views beside those of the batch's other nodes."""
        a_XD, b_XD = F.normalize(near_XD, eps=EPSILON), F.normalize(intent_XD, eps=EPSILON)
        labels_X = torch.arange(len(a_XD), device=a_XD.device)
        return F.cross_entropy(a_XD @ b_XD.T / self.temperature, labels_X, reduction="sum") / max(len(a_XD), 1)

    def weights(self) -> dict[str, Tensor]:
        return self.state_dict()

    @torch.no_grad()
    def item_vectors(self) -> Tensor:
        """[N,D]: what the tokenizer reads, the vectors of what an item's takers take [ours].

        An item's own part of its vector tells it from others: without this step items that are taken together are
        hardly nearer to each other than any two.
        """
        user_UD = _spread(self.graph_UN, self.graph_NU, self.vectors()[1])
        return _spread(self.graph_NU, self.graph_UN, user_UD)


class _Spread(torch.autograd.Function):
    """Sparse [X,Y] times dense [Y,D]; the transposed matrix is given, so that the way back is as fast."""

    @staticmethod
    def forward(context: Any, graph_XY: Tensor, graph_YX: Tensor, rows_YD: Tensor) -> Tensor:
        context.graph_YX = graph_YX
        return graph_XY @ rows_YD

    @staticmethod
    def backward(context: Any, grad_XD: Tensor) -> tuple[None, None, Tensor]:  # type: ignore[override]
        return None, None, context.graph_YX @ grad_XD


def _spread(graph_XY: Any, graph_YX: Any, rows_YD: Tensor) -> Tensor:
    spread_XD: Tensor = _Spread.apply(graph_XY, graph_YX, rows_YD)  # type: ignore[no-untyped-call]
    return spread_XD


def _wanted(batch: Batch) -> np.ndarray:
    return np.asarray((batch["targets"] == 1) & (batch["items"] >= 0))


def _tensor(matrix: sparse.csr_array) -> Tensor:
    starts, columns = (torch.from_numpy(part).long() for part in (matrix.indptr, matrix.indices))
    values = torch.from_numpy(matrix.data).float()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta")
        return torch.sparse_csr_tensor(starts, columns, values, matrix.shape, check_invariants=True)
