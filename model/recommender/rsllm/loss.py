"""The loss of RSLLM: words, and two contrasts that tie the language model to the recommender [paper].

L = L_LM + a InfoNCE(P(e), T(x)) + b InfoNCE(W h, P(e_target)) [ours on form]. The second compares with the targets of
all processes' batches and with items drawn at random, the same on all; where the catalogue has no more items than are
drawn, with all of it.

Shapes: R packed rows, P positions, M labels, I ID tokens, Q states that predict an item, W of windows, U targets of
S items compared with, A items whose texts are, O choices, C candidates, H hidden size.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel

from model.method_config import RsllmConfig
from model.processes import Processes
from model.recommender.loss import cross_entropy, within_blocks
from model.recommender.rsllm.prompts import TensorIds
from model.recommender.rsllm.reader import IdReader


class RsllmLoss(nn.Module):
    """Summed losses of a micro-batch, by prompts.TERMS. A module of its own, so that DDP wraps one forward pass."""

    def __init__(self, model: PreTrainedModel, reader: str, config: RsllmConfig, processes: Processes) -> None:
        """`reader`: name of the IdReader among the model's modules; as a module here too it would be wrapped twice."""
        super().__init__()
        self.model, self._reader, self.temperature = model, reader, config.temperature
        self._processes = processes

    @property
    def reader(self) -> IdReader:
        reader = self.model.get_submodule(self._reader)
        assert isinstance(reader, IdReader)
        return reader

    def forward(self, batch: TensorIds) -> Tensor:
        """[4]."""
        hidden_FH = states(self.model, self.reader, batch)
        loss_M = cross_entropy(hidden_FH[batch.label_M], self.model.get_output_embeddings().weight, batch.target_M)
        of_windows = len(batch.next_Q) - len(batch.candidates_OC)
        state_WH, state_OH = hidden_FH[batch.state_Q].tensor_split([of_windows])
        next_W, answer_O = batch.next_Q.tensor_split([of_windows])
        target_U = self._processes.union(next_W)
        compared_S = _unique(target_U, batch.drawn_S)
        wanted_WH, place_W = self.reader.wanted(state_WH), torch.searchsorted(compared_S, next_W)
        user_item = cross_entropy(wanted_WH / self.temperature, self.reader.directions(compared_S), place_W).sum()
        id_text = self._id_text(_unique(target_U, batch.aligned_A))
        title_T, id_token_O = loss_M.tensor_split([len(loss_M) - len(answer_O)])
        choice = id_token_O.sum() + self._choice(state_OH, batch.candidates_OC, answer_O)
        return torch.stack([title_T.sum(), choice, id_text, user_item])

    def _choice(self, state_OH: Tensor, candidates_OC: Tensor, answer_O: Tensor) -> Tensor:
        """Summed cross-entropy of the items among their candidates."""
        if not len(answer_O):
            return state_OH.new_zeros(())
        logits_OC = self.reader.wanted_among(state_OH, candidates_OC) / self.temperature
        place_O = (candidates_OC == answer_O[:, None]).int().argmax(1)
        return F.cross_entropy(logits_OC, place_O, reduction="sum")

    def _id_text(self, item_A: Tensor) -> Tensor:
        """Mean InfoNCE (nats): each item's vector has to find its text's among the others', and the way back."""
        of_id_AH, of_text_AH = self.reader.sides(item_A[self.reader.has_behaviour_N[item_A]])
        similar_AA = of_id_AH @ of_text_AH.T / self.temperature
        own_A = torch.arange(len(similar_AA), device=similar_AA.device)
        to_text, to_id = (F.cross_entropy(each, own_A, reduction="sum") for each in (similar_AA, similar_AA.T))
        return (to_text + to_id) / 2 / max(1, len(own_A))


def _unique(*items: Tensor) -> Tensor:
    """All different ones, in ascending order."""
    unique: Tensor = torch.cat(items).unique()  # type: ignore[no-untyped-call]
    return unique


def states(model: PreTrainedModel, reader: IdReader, batch: TensorIds) -> Tensor:
    """Last hidden states [R*P,H]."""
    embedded_RPH = model.get_input_embeddings()(batch.ids_RP)
    flat_FH = embedded_RPH.flatten(0, 1)
    if len(batch.id_item_I):
        vectors_IH = reader.vectors(batch.id_item_I).to(flat_FH.dtype)
        flat_FH = flat_FH.index_copy(0, batch.id_place_I, vectors_IH)
    hidden_RPH: Tensor = model.base_model(
        inputs_embeds=flat_FH.view_as(embedded_RPH),
        position_ids=batch.position_RP,
        attention_mask=within_blocks(batch.block_RP),
        use_cache=False,
    ).last_hidden_state
    return hidden_RPH.flatten(0, 1)
