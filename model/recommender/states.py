"""States of texts: what the language model that is being trained knows of them [code: TTDS]. Packed, and dealt out.

Shapes: N texts, X positions of a text, H hidden size, R packed rows, P positions, F tokens.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch.distributed.fsdp import FSDPModule
from transformers import PreTrainedModel

from model.data.packing import pack
from model.processes import ALONE, Processes, gathered
from model.recommender.loss import within_blocks
from model.recommender.methods.base import PAD, Floats, Ints

TEXTS_AT_A_TIME = 512
"""That are packed together: first fit looks at all rows for each text."""


@torch.no_grad()
def text_states(
    model: PreTrainedModel, text_NX: Ints, row_tokens: int, processes: Processes = ALONE, trained: object = None
) -> Floats:
    """Means [N,H] over the tokens of the last hidden states; zeros for a text without a token.

    Each process reads its share of the texts (under FSDP all of them), all get the whole. `text_NX`: token ids, padded
    with -1 behind, with at most `row_tokens` tokens each. `trained` is what wraps the model.
    """
    was_training = model.training
    model.eval()
    state_NH = torch.zeros(len(text_NX), model.config.hidden_size, device=processes.device)
    with gathered(trained):
        for number, rows in enumerate(_shares(text_NX)):
            # Under FSDP all processes gather each layer together: none may have a share less.
            if number % processes.world_size == processes.rank or isinstance(trained, FSDPModule):
                state_NH[torch.as_tensor(rows, device=processes.device)] = _states(model, text_NX[rows], row_tokens)
    model.train(was_training)
    if not isinstance(trained, FSDPModule):
        processes.add_up(state_NH)
    states: Floats = state_NH.cpu().numpy()
    return states


def _shares(text_NX: Ints) -> Iterator[Ints]:
    """Places of texts of like length; the same split for any number of processes."""
    order_N = np.argsort((text_NX != PAD).sum(1), kind="stable")
    return (order_N[low : low + TEXTS_AT_A_TIME] for low in range(0, len(order_N), TEXTS_AT_A_TIME))


def _states(model: PreTrainedModel, text_NX: Ints, row_tokens: int) -> torch.Tensor:
    length_N = (text_NX != PAD).sum(1)
    state_NH = torch.zeros(len(text_NX), model.config.hidden_size, device=model.device)
    if not length_N.any():
        return state_NH
    layout = pack(length_N, row_tokens)
    ids_RP, position_RP, block_RP = (
        torch.as_tensor(each, device=model.device)
        for each in (layout.spread(text_NX[text_NX != PAD]), layout.position_RP, layout.block_RP)
    )
    with torch.autocast(model.device.type, torch.bfloat16, enabled=model.device.type == "cuda"):
        hidden_RPH = model.base_model(
            input_ids=ids_RP, position_ids=position_RP, attention_mask=within_blocks(block_RP), use_cache=False
        ).last_hidden_state
    text_F = torch.as_tensor(np.repeat(np.arange(len(text_NX)), length_N), device=model.device)
    token_FH = hidden_RPH.flatten(0, 1)[torch.as_tensor(layout.place_F, device=model.device)].float()
    state_NH.index_add_(0, text_F, token_FH)
    return state_NH / torch.as_tensor(length_N, device=model.device).clamp(min=1)[:, None]
