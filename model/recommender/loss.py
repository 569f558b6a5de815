"""The loss of a packed micro-batch: on responses only, with logits only where there are labels.

Shapes: R packed rows, P positions, M labels, H hidden size, V vocabulary, L code levels, X kinds of code labels (a
level of items' or users' codes each), K codes a level, Y tasks, S code strings.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel

from model.config import FinetuneConfig, Normalisation
from model.method_config import TtdsConfig
from model.recommender.rows import Batch
from model.recommender.vocabulary import CodeVocabulary

TEMPERATURE = 0.1
"""Of the InfoNCE between code strings and texts [code]."""
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
    strings: tuple[Tensor, Tensor, Tensor] | None
    """Of code strings: places of the codes [S,L], states of the texts [S,H], whether it is a user's [S]."""

    @classmethod
    def of(cls, batch: Batch, device: torch.device) -> TensorBatch:
        def sent(array: np.ndarray) -> Tensor:
            return torch.from_numpy(array).to(device, non_blocking=True)

        tensors = {name: sent(getattr(batch, name)) for name in cls._fields[:-2]}
        own = batch.strings
        strings = None if own is None else (sent(own.place_SL), sent(own.text_SH), sent(own.is_user_S))
        return cls(**tensors, kind_sizes=batch.kind_sizes, strings=strings)


def within_blocks(block_RP: Tensor) -> Tensor:
    """Which position may read which [R,1,P,P]: causal, and only of the same example. Padding reads itself."""
    P = block_RP.shape[1]
    same_RPP = block_RP[:, :, None] == block_RP[:, None, :]
    causal_PP = torch.ones(P, P, dtype=torch.bool, device=block_RP.device).tril()
    return (same_RPP & causal_PP)[:, None]


def string_losses(state_SH: Tensor, text_SH: Tensor, is_user_S: Tensor, temperature: float = TEMPERATURE) -> Tensor:
    """Sums over the strings [2]: InfoNCE (nats) between a code string's state and its text's, each of which has to
    find the other among the strings of its kind; and the mean over H of their squared distance [code: TTDS].
    """
    similar_SS = F.normalize(state_SH) @ F.normalize(text_SH).T / temperature
    similar_SS = similar_SS.masked_fill(is_user_S[:, None] != is_user_S, -torch.inf)
    own_S = torch.arange(len(similar_SS), device=similar_SS.device)
    to_text, to_codes = (F.cross_entropy(each, own_S, reduction="sum") for each in (similar_SS, similar_SS.T))
    distance = (state_SH - text_SH).square().mean(1).sum()
    return torch.stack([(to_text + to_codes) / 2, distance])


def weighted(
    losses_Y: Tensor, labels_Y: Tensor, of_window_Y: Tensor, recipe: FinetuneConfig, ttds: TtdsConfig
) -> Tensor:
    """One loss of the sums: the mean over the labels of windows (`of_window_Y`: which tasks have them), beside it the
    weighted means over all other tasks' labels, and over code strings.
    """
    tasks = len(of_window_Y)
    main, others = (
        losses_Y[:tasks][of_Y].sum() / labels_Y[:tasks][of_Y].sum().clamp(min=1) for of_Y in (of_window_Y, ~of_window_Y)
    )
    loss: Tensor = main + recipe.auxiliary_weight * others
    means = losses_Y[tasks:] / labels_Y[tasks:]
    for weight, mean in zip((ttds.contrast_weight, ttds.distance_weight), means, strict=False):
        loss = loss + weight * mean
    return loss


class AlignmentLoss(nn.Module):
    """Summed losses of each task. A module of its own, so that DDP wraps the one forward pass of a micro-batch."""

    token_ids_XK: Tensor
    code_V: Tensor

    def __init__(
        self, model: PreTrainedModel, vocabulary: CodeVocabulary, normalisation: Normalisation, tasks: int
    ) -> None:
        super().__init__()
        self.model, self.normalisation, self.tasks = model, normalisation, tasks
        token_ids_XK = torch.as_tensor(vocabulary.all_ids)
        code_V = torch.zeros(int(token_ids_XK.max()) + 1, dtype=torch.int64)
        code_V[token_ids_XK] = torch.arange(token_ids_XK.shape[1])
        self.register_buffer("token_ids_XK", token_ids_XK, persistent=False)
        self.register_buffer("code_V", code_V, persistent=False)

    def forward(self, batch: TensorBatch) -> Tensor:
        """Sums of the labels' losses by task [Y]; behind them, for a batch with code strings, `string_losses`."""
        hidden_RPH = self.model.base_model(
            input_ids=batch.ids_RP,
            position_ids=batch.position_RP,
            attention_mask=within_blocks(batch.block_RP),
            use_cache=False,
        ).last_hidden_state
        hidden_FH = hidden_RPH.flatten(0, 1)
        loss_M = self._label_losses(hidden_FH[batch.label_M], batch)
        losses_Y = loss_M.new_zeros(self.tasks).index_add(0, batch.task_M, loss_M)
        if batch.strings is None:
            return losses_Y
        place_SL, text_SH, is_user_S = batch.strings
        state_SH = hidden_FH[place_SL].float().mean(1)
        return torch.cat([losses_Y, string_losses(state_SH, text_SH, is_user_S)])

    def _label_losses(self, hidden_MH: Tensor, batch: TensorBatch) -> Tensor:
        head_VH = self.model.get_output_embeddings().weight
        if self.normalisation == "vocabulary":
            return cross_entropy(hidden_MH, head_VH, batch.target_M)
        # Code positions meet only the rows of their level.
        text_MH, *code_XMH = torch.split(hidden_MH, list(batch.kind_sizes))
        text_M, *token_XM = torch.split(batch.target_M, list(batch.kind_sizes))
        losses = [cross_entropy(text_MH, head_VH, text_M)]
        for head_KH, code_MH, token_M in zip(head_VH[self.token_ids_XK], code_XMH, token_XM, strict=True):
            losses.append(cross_entropy(code_MH, head_KH, self.code_V[token_M]))
        return torch.cat(losses)


def cross_entropy(hidden_MH: Tensor, head_KH: Tensor, target_M: Tensor) -> Tensor:
    """Losses [M], some rows of logits at a time; more than one piece is computed again in the backward pass."""

    def piece(hidden: Tensor, target: Tensor) -> Tensor:
        return F.cross_entropy(F.linear(hidden, head_KH).float(), target, reduction="none")

    pieces = list(zip(hidden_MH.split(LABELS_AT_A_TIME), target_M.split(LABELS_AT_A_TIME), strict=True))
    if len(pieces) == 1:
        return piece(*pieces[0])
    return torch.cat(
        [torch.utils.checkpoint.checkpoint(piece, *each, use_reentrant=False) for each in pieces]  # type: ignore[misc]
    )
