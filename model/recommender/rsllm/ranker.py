"""RSLLM ranks without decoding: one product of the users' states with all items' vectors; or it picks 1 of 20 [paper].

Shapes: B users, T history items, S seen items, C listed items, N items, K results, H hidden size, G items of a block.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from model.behaviour.item_texts import TextComponents
from model.config import ModelConfig, model_config
from model.data.files import TEXTS_FILE, load_json, load_tensors
from model.data.packing import batches_of_similar_length
from model.data.reader import item_column
from model.evaluation.scored import top_k
from model.recommender.backbone import PRECOG, load_to_rank
from model.recommender.methods.base import PAD, Bools, Floats, Ints, Ranked, Users, newest
from model.recommender.rsllm.loss import states
from model.recommender.rsllm.prompts import IdRows, ItemPrompts, TensorIds, packed
from model.recommender.rsllm.reader import IdReader, read_vectors, teacher_of
from model.recommender.vocabulary import read_codes

READER_FILE = "id_reader.safetensors"
BLOCK_SCORES = 1 << 23
"""Scores [B,G] that are held at once: 32 MiB."""
BLOCK_USERS = 256
NO_NUMBER = float(np.finfo(np.float32).min)
"""In the place of a score that is none, while scores are put in order: below all others, above what is left out."""


class RsllmRanker:
    """A fine-tuned model, its reader, and the vectors of all items."""

    def __init__(
        self, model: PreTrainedModel, reader: IdReader, prompts: ItemPrompts, codes_NL: Ints, config: ModelConfig
    ) -> None:
        """On the model's device, as it is now. `codes_NL`: what ranked items are called, one row an item."""
        self._model, self._reader, self._prompts, self.codes_NL, self._config = model, reader, prompts, codes_NL, config
        H = model.config.hidden_size
        self._direction_NH = torch.empty(reader.items, H, device=model.device)
        with torch.inference_mode():
            for block in torch.arange(reader.items, device=model.device).split(BLOCK_SCORES // H):
                self._direction_NH[block] = reader.directions(block)

    @classmethod
    def load(cls, request: dict[str, Any]) -> RsllmRanker:
        """`request["inputs"]`: "model", "codebook", "training_set", "behaviour" and "text_vectors" (URIs), and
        optionally "codebook_additions", URIs in their order.

        Raises ValueError when the teacher is not the one that the model was trained with.
        """
        inputs = request["inputs"]
        saved = load_json(f"{inputs['model']}/{PRECOG}")
        if saved["teacher"] != teacher_of(inputs["behaviour"]):
            raise ValueError(
                f"{inputs['model']} was trained with the item vectors {saved['teacher']}, but {inputs['behaviour']} "
                "has others: its ID tokens would mean nothing. Name the teacher in the model's manifest."
            )
        # What shapes prompts is the model's own, all else is for today's settings to say.
        own = {name: saved["config"][name] for name in ("rsllm", "history_items")}
        config = replace(model_config(own), decoding=model_config(request["config"]).decoding)
        model, tokenizer, _ = load_to_rank(inputs["model"], config.decoding.precision)
        tensors = load_tensors(f"{inputs['model']}/{READER_FILE}")
        components = TextComponents(tensors.pop("mean_E"), tensors.pop("axes_EX"))
        vectors, _ = read_vectors(inputs, components)
        reader = IdReader(vectors, model.config.hidden_size, scale=1.0)
        reader.load_state_dict({name: torch.from_numpy(each) for name, each in tensors.items()})
        reader.to(model.device)
        later = inputs.get("codebook_additions", ())
        tables = [f"{inputs['training_set']}/items", *(f"{uri}/{TEXTS_FILE}" for uri in later)]
        titles = [title for uri in tables for title in item_column(uri, "title")]
        codes_NL = read_codes([inputs["codebook"], *later], saved["config"]["tokenizer"]["levels"])
        prompts = ItemPrompts(tokenizer, titles, config.rsllm)
        return cls(model, reader.eval(), prompts, codes_NL, config)

    @torch.inference_mode()
    def rank(self, users: Users, seen_BS: Ints, available_N: Bools, k: int) -> Ranked:
        """See `Ranker.rank`."""
        wanted_BH = self._wanted(users.history_BH)
        blocks = [slice(low, low + BLOCK_USERS) for low in range(0, len(users.ids), BLOCK_USERS)]
        ranked = [nearest(wanted_BH[rows], self._direction_NH, seen_BS[rows], available_N, k) for rows in blocks]
        items_BK, scores_BK = (np.concatenate(each) for each in zip(*ranked, strict=True))
        codes_BKL = np.where(items_BK[..., None] == PAD, PAD, self.codes_NL[items_BK])
        return Ranked(items_BK, codes_BKL, (scores_BK / self._temperature).astype(np.float32))

    @torch.inference_mode()
    def score(self, users: Users, items_BC: Ints) -> Floats:
        """As in `rank` [B,C], log-probabilities but for a constant of each user; padding (-1) gets -inf."""
        wanted_BH = self._wanted(users.history_BH)
        score_BC = np.empty(items_BC.shape, np.float32)
        for low in range(0, len(items_BC), BLOCK_USERS):
            rows = slice(low, low + BLOCK_USERS)
            direction_BCH = self._direction_NH[torch.as_tensor(items_BC[rows].clip(min=0), device=self._model.device)]
            score_BC[rows] = (torch.einsum("bh,bch->bc", wanted_BH[rows], direction_BCH) / self._temperature).cpu()
        score_BC[items_BC == PAD] = -np.inf
        return score_BC

    def user_codes(self, users: Users) -> None:
        """Users have none."""

    @torch.inference_mode()
    def choose(self, history_BT: Ints, candidates_BC: Ints) -> Ints:
        """Place [B] of the candidate that the model names; -1 where its likeliest word is no ID token."""
        history_BT = newest(history_BT, self._config.history_items)
        state_BH = self._states(self._prompts.choices(history_BT, candidates_BC[:, 0]))
        head_VH = self._model.get_output_embeddings().weight.float()
        word_B = torch.cat([(some @ head_VH.T).argmax(1) for some in state_BH.split(BLOCK_USERS)])
        asked_BC = torch.as_tensor(candidates_BC, device=state_BH.device)
        blocks = zip(state_BH.split(BLOCK_USERS), asked_BC.split(BLOCK_USERS), strict=True)
        place_B = torch.cat([self._reader.wanted_among(*block).argmax(1) for block in blocks])
        return np.where(word_B.cpu() == self._prompts.item_token, place_B.cpu(), PAD)

    @property
    def _temperature(self) -> float:
        return self._config.rsllm.temperature

    def _wanted(self, history_BT: Ints) -> Tensor:
        rows = self._prompts.histories(newest(history_BT, self._config.history_items))
        return self._reader.wanted(self._states(rows))

    def _states(self, rows: IdRows) -> Tensor:
        """Where examples are to predict an item, their states [B,H] in float32."""
        length_B = rows.lengths
        state_BH = torch.empty(len(length_B), self._model.config.hidden_size, device=self._model.device)
        for some in batches_of_similar_length(length_B, 0, self._config.decoding.batch_tokens):
            batch = packed([rows.where(some)], row_tokens=int(length_B[some].max()))
            tensors = TensorIds(batch, self._model.device)
            hidden_FH = states(self._model, self._reader, tensors)
            state_BH[torch.as_tensor(some, device=state_BH.device)] = hidden_FH[tensors.state_Q].float()
        return state_BH


def nearest(wanted_BH: Tensor, direction_NH: Tensor, seen_BS: Ints, available_N: Bools, k: int) -> tuple[Ints, Floats]:
    """The k items [B,k] whose directions lie nearest to what is wanted, and their cosines; see `Ranker.rank`.

    Block by block of items, of which the best so far go on: no more than BLOCK_SCORES scores are held. Scores that are
    no numbers come behind all others: whoever reads the list has to see them.
    """
    B, N = len(wanted_BH), len(direction_NH)
    items_BK, scores_BK = np.full((B, k), PAD), np.full((B, k), -np.inf, np.float32)
    size = max(1, BLOCK_SCORES // max(B, 1))
    for low in range(0, N, size):
        block_GH, here_G = direction_NH[low : low + size], available_N[low : low + size]
        score_BG = (wanted_BH @ block_GH.T).float()
        score_BG.masked_fill_(score_BG.isnan(), NO_NUMBER)
        score_BG[:, torch.as_tensor(~here_G, device=score_BG.device)] = -torch.inf
        row, column = np.nonzero((seen_BS >= low) & (seen_BS < low + len(block_GH)))
        score_BG[row, seen_BS[row, column] - low] = -torch.inf
        best_BK, best_scores_BK = top_k(score_BG, k)
        both_BX = np.concatenate([items_BK, np.where(best_BK == PAD, PAD, best_BK + low)], axis=1)
        of_both_BX = np.concatenate([scores_BK, best_scores_BK], axis=1)
        order_BK = np.argsort(-of_both_BX, axis=1, kind="stable")[:, :k]  # of equal ones the smaller item is first
        items_BK, scores_BK = (np.take_along_axis(each, order_BK, axis=1) for each in (both_BX, of_both_BX))
    return items_BK, np.where(scores_BK == NO_NUMBER, np.float32(np.nan), scores_BK)
