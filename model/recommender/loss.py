"""The loss of a packed micro-batch: on responses only, with logits only where there are labels.

Shapes: R packed rows, P positions, M labels, H hidden size, V vocabulary, L code levels, K codes a level, Y tasks.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel

from model.config import Normalisation
from model.recommender.examples import Batch
from model.recommender.vocabulary import CodeVocabulary

LABELS_AT_A_TIME = 1024
"""Rows of logits held together: with a vocabulary of 50,000 that is 200 MB."""


class TensorBatch(NamedTuple):
    """`examples.Batch` on the training device."""

    ids_RP: Tensor
    position_RP: Tensor
    block_RP: Tensor
    label_M: Tensor
    target_M: Tensor
    task_M: Tensor
    kind_sizes: tuple[int, ...]

    @classmethod
    def of(cls, batch: Batch, device: torch.device) -> TensorBatch:
        names = cls._fields[:-1]
        tensors = {name: torch.from_numpy(getattr(batch, name)).to(device, non_blocking=True) for name in names}
        return cls(**tensors, kind_sizes=batch.kind_sizes)


def within_blocks(block_RP: Tensor) -> Tensor:
    """Which position may read which [R,1,P,P]: causal, and only of the same example. Padding reads itself."""
    P = block_RP.shape[1]
    same_RPP = block_RP[:, :, None] == block_RP[:, None, :]
    causal_PP = torch.ones(P, P, dtype=torch.bool, device=block_RP.device).tril()
    return (same_RPP & causal_PP)[:, None]


class AlignmentLoss(nn.Module):
    """Summed losses of each task. A module of its own, so that DDP wraps the one forward pass of a micro-batch."""

    token_ids_LK: Tensor
    code_V: Tensor

    def __init__(
        self, model: PreTrainedModel, vocabulary: CodeVocabulary, normalisation: Normalisation, tasks: int
    ) -> None:
        super().__init__()
        self.model, self.normalisation, self.tasks = model, normalisation, tasks
        token_ids_LK = torch.as_tensor(vocabulary.token_ids_LK)
        code_V = torch.zeros(int(token_ids_LK.max()) + 1, dtype=torch.int64)
        code_V[token_ids_LK] = torch.arange(token_ids_LK.shape[1])
        self.register_buffer("token_ids_LK", token_ids_LK, persistent=False)
        self.register_buffer("code_V", code_V, persistent=False)

    def forward(self, batch: TensorBatch) -> Tensor:
        """Sums of the labels' losses by task [Y]."""
        hidden_RPH = self.model.base_model(
            input_ids=batch.ids_RP,
            position_ids=batch.position_RP,
            attention_mask=within_blocks(batch.block_RP),
            use_cache=False,
        ).last_hidden_state
        loss_M = self._label_losses(hidden_RPH.flatten(0, 1)[batch.label_M], batch)
        return loss_M.new_zeros(self.tasks).index_add(0, batch.task_M, loss_M)

    def _label_losses(self, hidden_MH: Tensor, batch: TensorBatch) -> Tensor:
        head_VH = self.model.get_output_embeddings().weight
        if self.normalisation == "vocabulary":
            return _cross_entropy(hidden_MH, head_VH, batch.target_M)
        # Code positions meet only the rows of their level.
        text_MH, *code_LMH = torch.split(hidden_MH, list(batch.kind_sizes))
        text_M, *token_LM = torch.split(batch.target_M, list(batch.kind_sizes))
        losses = [_cross_entropy(text_MH, head_VH, text_M)]
        for head_KH, code_MH, token_M in zip(head_VH[self.token_ids_LK], code_LMH, token_LM, strict=True):
            losses.append(_cross_entropy(code_MH, head_KH, self.code_V[token_M]))
        return torch.cat(losses)


def _cross_entropy(hidden_MH: Tensor, head_KH: Tensor, target_M: Tensor) -> Tensor:
    """Losses [M], some rows of logits at a time; more than one piece is computed again in the backward pass."""

    def piece(hidden: Tensor, target: Tensor) -> Tensor:
        return F.cross_entropy(F.linear(hidden, head_KH).float(), target, reduction="none")

    pieces = list(zip(hidden_MH.split(LABELS_AT_A_TIME), target_M.split(LABELS_AT_A_TIME), strict=True))
    if len(pieces) == 1:
        return piece(*pieces[0])
    return torch.cat(
        [torch.utils.checkpoint.checkpoint(piece, *each, use_reentrant=False) for each in pieces]  # type: ignore[misc]
    )
