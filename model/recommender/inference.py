"""Ranking the catalogue with the fine-tuned language model: history -> prompt -> constrained beam search -> items.

Shapes: B users, T history items, S seen items, C listed items, N items, K results, L code levels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from model.config import ModelConfig, model_config
from model.data.files import load_json
from model.data.packing import batches_of_similar_length
from model.decoding.beam import BeamSearch
from model.decoding.trie import Allowed, Available, Listed, Trie
from model.recommender.backbone import PRECOG, load_to_rank
from model.recommender.examples import Examples
from model.recommender.methods.base import PAD, Bools, Floats, Ints, Ranked, Users, newest
from model.recommender.users import UserCoder
from model.recommender.vocabulary import CodeVocabulary, read_codes


class SemanticRanker:
    """A fine-tuned model, the codes of all items, and the search over them."""

    def __init__(self, search: BeamSearch, trie: Trie, examples: Examples, codes_NL: Ints, config: ModelConfig) -> None:
        self._search, self._trie, self._examples = search, trie, examples
        self.codes_NL, self._config = codes_NL, config
        self._available = self._counted(np.ones(len(codes_NL), bool))

    @classmethod
    def load(cls, request: dict[str, Any]) -> SemanticRanker:
        """`request["inputs"]`: "model" and "codebook" URIs, and optionally "codebook_additions", URIs in their order.

        Raises ValueError when the codes do not fit the model's vocabulary or a code names two items.
        """
        inputs = request["inputs"]
        # What shaped the training is the model's own; only how to decode is for today's settings to say.
        trained = load_json(f"{inputs['model']}/{PRECOG}")["config"]
        config = model_config(request["config"])
        config = replace(
            config,
            history_items=trained["history_items"],
            finetune=replace(config.finetune, normalisation=trained["finetune"]["normalisation"]),
        )
        model, tokenizer, vocabulary = load_to_rank(inputs["model"], config.decoding.precision)
        codes_NL = read_codes([inputs["codebook"], *inputs.get("codebook_additions", ())], vocabulary.levels)
        if codes_NL.min() < 0 or codes_NL.max() >= vocabulary.token_ids_LK.shape[1]:
            raise ValueError(
                f"{inputs['codebook']} has codes that {inputs['model']} has no tokens for: not its codebook."
            )
        examples = Examples(tokenizer, vocabulary, codes_NL)
        if vocabulary.has_users:
            examples.recode(codes_NL, UserCoder.load(inputs["codebook"], inputs.get("codebook_additions", ())))
        return cls.of(model, vocabulary, examples, codes_NL, config)

    @classmethod
    def of(
        cls, model: PreTrainedModel, vocabulary: CodeVocabulary, examples: Examples, codes_NL: Ints, config: ModelConfig
    ) -> SemanticRanker:
        """Of a model in memory, on its device, as it is now: make another one when its head has learned more."""
        device, K = model.device, vocabulary.token_ids_LK.shape[1]
        tokens_LK, trie = torch.as_tensor(vocabulary.token_ids_LK, device=device), Trie(codes_NL, K, device)
        search = BeamSearch(model, tokens_LK, trie, config.finetune.normalisation, examples.shared_prompt.tolist())
        return cls(search, trie, examples, codes_NL, config)

    def rank(self, users: Users, seen_BS: Ints, available_N: Bools, k: int) -> Ranked:
        """See `Ranker.rank`. The beam is at least k wide."""
        if available_N is not self._available[0]:
            self._available = self._counted(available_N)

        def allowed(rows: Ints) -> Allowed:
            return Allowed(self._available[1], torch.as_tensor(seen_BS[rows], device=self._search.device))

        items_BK, scores_BK = self._searched(users, allowed, max(self._config.decoding.beam_width, k), k)
        codes_BKL = np.where(items_BK[..., None] == PAD, PAD, self.codes_NL[items_BK])
        return Ranked(items_BK, codes_BKL, scores_BK, self.user_codes(users))

    def user_codes(self, users: Users) -> Ints | None:
        """[B,L], -1 for users without a history; None of models that have no codes for users."""
        return self._examples.user_codes(newest(users.history_BH, self._config.history_items))

    def score(self, users: Users, items_BC: Ints) -> Floats:
        """Log-probabilities [B,C] (nats) of these items' codes, all different for a user; padding (-1) gets -inf."""

        def listed(rows: Ints) -> Listed:
            return Listed(self._trie, torch.as_tensor(items_BC[rows], device=self._search.device))

        C = items_BC.shape[1]
        found_BC, scores_BC = self._searched(users, listed, C, C)
        # A beam as wide as the list finds all of it, in another order: both by item, the one's scores are the other's.
        result_BC = np.empty_like(scores_BC)
        np.put_along_axis(
            result_BC, items_BC.argsort(axis=1), np.take_along_axis(scores_BC, found_BC.argsort(axis=1), axis=1), axis=1
        )
        return result_BC

    def _searched(
        self, users: Users, allowed: Callable[[Ints], Allowed | Listed], beam_width: int, k: int
    ) -> tuple[Ints, Floats]:
        """The k best items [B,k] of what `allowed` says of some rows of users, and their scores [B,k]."""
        assert users.history_BH.max(initial=PAD) < self._examples.items, "a history names an item without a code"
        ids_BX, length_B = self._examples.prompts(newest(users.history_BH, self._config.history_items))
        items_BK = np.full((len(ids_BX), k), PAD, np.int64)
        scores_BK = np.full((len(ids_BX), k), -np.inf, np.float32)
        fed = beam_width * (self._trie.levels - 1)
        for rows in batches_of_similar_length(length_B, fed, self._config.decoding.batch_tokens):
            parts = ids_BX[rows, : length_B[rows].max()], length_B[rows]
            ids, length = (torch.as_tensor(part, device=self._search.device) for part in parts)
            items, scores = self._search(ids, length, allowed(rows), beam_width=beam_width, k=k)
            items_BK[rows], scores_BK[rows] = items.cpu(), scores.cpu()
        return items_BK, scores_BK

    def _counted(self, available_N: Bools) -> tuple[Bools, Available]:
        return available_N, Available(self._trie, torch.as_tensor(available_N, device=self._search.device))
