"""Beam search over the valid codes, all beams of a user in one sequence [ours; cf. tree attention].

What all prompts begin with is read once a model, the rest of each prompt once. Each step then feeds the beams' newest
codes as W more positions of the same sequence: they share one position id, and the attention mask lets each see the
prompt and its own ancestors. So the key-value cache only grows: it is never copied per beam, never re-ordered, and the
last code is never fed.

Only open nodes of the trie can be chosen, each of which holds at least one allowed item: with W >= k beams, k items
come out whenever a user has k allowed items, and an invalid code cannot.

Shapes: B users, C shared and P other prompt positions, W beams, L code levels, K codes a level (of
results: items asked for), H hidden size, V vocabulary, F positions fed behind the prompt so far, X = C + P,
Z = X + F.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from typing import NamedTuple

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from model.config import Normalisation
from model.decoding.trie import Allowed, Listed, Trie

NOTHING = float("-inf")


class Beams(NamedTuple):
    node_BW: Tensor
    score_BW: Tensor
    """Sum of the log-probabilities of the codes so far; -inf marks a beam that does not exist."""
    parent_BW: Tensor
    """The beam of the step before that this one goes on from."""
    code_BW: Tensor


class BeamSearch:
    """The decoder of one model and one trie."""

    def __init__(
        self,
        model: PreTrainedModel,
        token_ids_LK: Tensor,
        trie: Trie,
        normalisation: Normalisation,
        shared_ids_C: Sequence[int] = (),
    ) -> None:
        """`token_ids_LK` int64 on the model's device. Scores follow `normalisation`: see `FinetuneConfig`.

        `shared_ids_C`: what all prompts begin with; it is read here, so the model must not change afterwards.
        """
        self._decoder, self._config = model.base_model, model.config
        self._dtype: torch.dtype = model.get_output_embeddings().weight.dtype
        # Logits are float32 whatever the model's own precision: bfloat16 could not tell many of them apart.
        self._head_VH = model.get_output_embeddings().weight.float()
        self._head_LKH = self._head_VH[token_ids_LK]
        self._token_ids_LK, self._trie, self._normalisation = token_ids_LK, trie, normalisation
        self.device = token_ids_LK.device
        self._shared, self._shared_length = DynamicCache(config=self._config), len(shared_ids_C)
        if len(shared_ids_C):
            with torch.inference_mode():
                ids_1C = torch.tensor([shared_ids_C], device=self.device)
                self._decoder(input_ids=ids_1C, past_key_values=self._shared, use_cache=True)

    @torch.inference_mode()
    def __call__(
        self, ids_BP: Tensor, length_B: Tensor, allowed: Allowed | Listed, *, beam_width: int, k: int
    ) -> tuple[Tensor, Tensor]:
        """The k best allowed items of each user: item indices [B,k] and scores [B,k], best first.

        Prompts, without what they share, are right-padded to P and `length_B` long (at least 1). `allowed` is of this
        search's trie. Equal scores go to the smaller item index. Where fewer than k items are allowed the rest is -1
        and -inf. ValueError when `beam_width` < `k`.
        """
        if beam_width < k:
            raise ValueError(f"A beam of {beam_width} cannot give {k} items. Set decoding.beam_width to at least {k}.")
        cache = deepcopy(self._shared)
        if self._shared_length:
            cache.batch_repeat_interleave(len(ids_BP))
        # Padding stands behind every prompt, so plain causal attention never reads it and needs no mask.
        hidden_BPH = self._decoder(input_ids=ids_BP, past_key_values=cache, use_cache=True).last_hidden_state
        users = torch.arange(len(ids_BP), device=ids_BP.device)
        hidden_BWH = hidden_BPH[users, length_B - 1].unsqueeze(1)
        root_B1 = torch.zeros(len(ids_BP), 1, dtype=torch.int64, device=ids_BP.device)
        beams = Beams(root_B1, root_B1.float(), root_B1, root_B1)
        length_B = length_B + self._shared_length
        prompt_BX = torch.arange(self._shared_length + ids_BP.shape[1], device=ids_BP.device) < length_B[:, None]
        ancestors_BWF = prompt_BX.new_zeros(len(ids_BP), 1, 0)
        for depth in range(self._trie.levels):
            if depth > 0:
                ancestors_BWF = _with_own(ancestors_BWF, beams.parent_BW)
                hidden_BWH = self._feed(depth, beams, prompt_BX, ancestors_BWF, length_B, cache)
            score_BX = self._candidates(depth, beams, hidden_BWH, allowed)
            if depth < self._trie.levels - 1:
                beams = self._best(depth, beams, score_BX, beam_width)
        return self._best_items(beams, score_BX, k)

    def _feed(
        self, depth: int, beams: Beams, prompt_BX: Tensor, ancestors_BWF: Tensor, length_B: Tensor, cache: DynamicCache
    ) -> Tensor:
        """Hidden states [B,W,H] behind the beams' newest codes."""
        token_BW = self._token_ids_LK[depth - 1][beams.code_BW]
        width = token_BW.shape[1]
        sees_BWZ = torch.cat([prompt_BX[:, None].expand(-1, width, -1), ancestors_BWF], dim=2)
        mask_B1WZ = torch.zeros(sees_BWZ.shape, dtype=self._dtype, device=token_BW.device)
        mask_B1WZ = mask_B1WZ.masked_fill_(~sees_BWZ, torch.finfo(self._dtype).min).unsqueeze(1)
        position_BW = (length_B + depth - 1)[:, None].expand(-1, width)
        hidden_BWH: Tensor = self._decoder(
            input_ids=token_BW,
            attention_mask=mask_B1WZ,
            position_ids=position_BW,
            past_key_values=cache,
            use_cache=True,
        ).last_hidden_state
        return hidden_BWH

    def _candidates(self, depth: int, beams: Beams, hidden_BWH: Tensor, allowed: Allowed | Listed) -> Tensor:
        """Scores of the beams with each code behind them, [B, W x K]; -inf for those that are not open."""
        if self._normalisation == "level":
            log_p_BWK = (hidden_BWH.float() @ self._head_LKH[depth].T).log_softmax(dim=-1)
        else:
            logits_BWV = hidden_BWH.float() @ self._head_VH.T
            log_p_BWK = logits_BWV[..., self._token_ids_LK[depth]] - logits_BWV.logsumexp(2, keepdim=True)
        open_BWK = allowed.open(depth, beams.node_BW)
        score_BWK: Tensor = beams.score_BW[..., None] + log_p_BWK
        return score_BWK.masked_fill_(~open_BWK, NOTHING).flatten(1)

    def _best(self, depth: int, beams: Beams, score_BX: Tensor, width: int) -> Beams:
        """The best `width` of the candidates; fewer where there are not so many."""
        score_BW, place_BW = score_BX.topk(min(width, score_BX.shape[1]), dim=1)
        parent_BW, code_BW = place_BW // self._trie.codes_per_level, place_BW % self._trie.codes_per_level
        exists_BW = score_BW != NOTHING
        node_BW = self._trie.child(depth, beams.node_BW.gather(1, parent_BW), code_BW).masked_fill_(~exists_BW, 0)
        return Beams(node_BW, score_BW, parent_BW, code_BW)

    def _best_items(self, beams: Beams, score_BX: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """The k best leaves as item indices, and their scores; equal scores in the order of the item index."""
        leaves = self._best(self._trie.levels - 1, beams, score_BX, int((score_BX != NOTHING).sum(1).max()))
        items = leaves._replace(node_BW=self._trie.item_N[leaves.node_BW].long())
        by_item = items.node_BW.argsort(dim=1, stable=True)
        by_score = items.score_BW.gather(1, by_item).argsort(dim=1, descending=True, stable=True)
        best = by_item.gather(1, by_score[:, :k])
        missing = (0, k - best.shape[1])
        score_BK = torch.nn.functional.pad(items.score_BW.gather(1, best), missing, value=NOTHING)
        item_BK = torch.nn.functional.pad(items.node_BW.gather(1, best), missing, value=-1)
        return item_BK.masked_fill(score_BK == NOTHING, -1), score_BK


def _with_own(ancestors_BWF: Tensor, parent_BW: Tensor) -> Tensor:
    """Which of the positions fed so far each beam sees: its parent's, and the one that is being fed for itself."""
    users, width = parent_BW.shape
    fed = ancestors_BWF.shape[2]
    inherited = ancestors_BWF.gather(1, parent_BW[..., None].expand(-1, -1, fed))
    own = torch.eye(width, dtype=torch.bool, device=parent_BW.device).expand(users, -1, -1)
    return torch.cat([inherited, own], dim=2)
