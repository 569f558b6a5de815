"""Beam search over the valid codes, all beams of a user in one sequence [ours; cf. tree attention].

The prompt is read once. Each step then feeds the beams' newest codes as W more positions of the same sequence: they
share one position id, and the attention mask lets each see the prompt and its own ancestors. So the key-value cache
only grows: it is never copied per beam, never re-ordered, and the last code is never fed.

Only open nodes of the trie can be chosen, each of which holds at least one allowed item: with W >= k beams, k items
come out whenever a user has k allowed items, and an invalid code cannot.

Shapes: B users, P prompt positions, W beams, C children of a node, L code levels, K codes a level (of results: items
asked for), H hidden size, V vocabulary, F positions fed behind the prompt so far, X = P + F.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from model.config import Normalisation
from model.decoding.trie import Allowed, Trie

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

    def __init__(self, model: PreTrainedModel, token_ids_LK: Tensor, trie: Trie, normalisation: Normalisation) -> None:
        """`token_ids_LK` int64 on the model's device. Scores follow `normalisation`: see `FinetuneConfig`."""
        self._decoder, self._config = model.base_model, model.config
        self._head_VH = model.get_output_embeddings().weight
        self._head_LKH = self._head_VH[token_ids_LK]
        self._token_ids_LK, self._trie, self._normalisation = token_ids_LK, trie, normalisation
        self.device = token_ids_LK.device

    @torch.inference_mode()
    def __call__(
        self, ids_BP: Tensor, length_B: Tensor, seen_BS: Tensor, available_N: Tensor, *, beam_width: int, k: int
    ) -> tuple[Tensor, Tensor]:
        """The k best allowed items of each user: item indices [B,k] and scores [B,k], best first.

        Prompts are right-padded to P and `length_B` long (at least 1). Equal scores go to the smaller item index. Where
        fewer than k items are allowed the rest is -1 and -inf. ValueError when `beam_width` < `k`.
        """
        if beam_width < k:
            raise ValueError(f"A beam of {beam_width} cannot give {k} items. Set decoding.beam_width to at least {k}.")
        allowed = Allowed(self._trie, seen_BS, available_N)
        cache = DynamicCache(config=self._config)
        # Padding stands behind every prompt, so plain causal attention never reads it and needs no mask.
        hidden_BPH = self._decoder(input_ids=ids_BP, past_key_values=cache, use_cache=True).last_hidden_state
        users = torch.arange(len(ids_BP), device=ids_BP.device)
        hidden_BWH = hidden_BPH[users, length_B - 1].unsqueeze(1)
        root_B1 = torch.zeros(len(ids_BP), 1, dtype=torch.int64, device=ids_BP.device)
        beams = Beams(root_B1, root_B1.float(), root_B1, root_B1)
        prompt_BP = torch.arange(ids_BP.shape[1], device=ids_BP.device) < length_B[:, None]
        ancestors_BWF = prompt_BP.new_zeros(len(ids_BP), 1, 0)
        for depth in range(self._trie.levels):
            if depth > 0:
                ancestors_BWF = _with_own(ancestors_BWF, beams.parent_BW)
                hidden_BWH = self._feed(depth, beams, prompt_BP, ancestors_BWF, length_B, cache)
            candidates = self._candidates(depth, beams, hidden_BWH, allowed)
            last = depth == self._trie.levels - 1
            beams = self._best_items(candidates, k) if last else _best(candidates, beam_width)
        return _padded(beams, k)

    def _feed(
        self, depth: int, beams: Beams, prompt_BP: Tensor, ancestors_BWF: Tensor, length_B: Tensor, cache: DynamicCache
    ) -> Tensor:
        """Hidden states [B,W,H] behind the beams' newest codes."""
        token_BW = self._token_ids_LK[depth - 1][beams.code_BW]
        width = token_BW.shape[1]
        sees_BWX = torch.cat([prompt_BP[:, None].expand(-1, width, -1), ancestors_BWF], dim=2)
        dtype = self._head_VH.dtype
        mask_B1WX = torch.zeros(sees_BWX.shape, dtype=dtype, device=token_BW.device)
        mask_B1WX = mask_B1WX.masked_fill_(~sees_BWX, torch.finfo(dtype).min).unsqueeze(1)
        position_BW = (length_B + depth - 1)[:, None].expand(-1, width)
        hidden_BWH: Tensor = self._decoder(
            input_ids=token_BW,
            attention_mask=mask_B1WX,
            position_ids=position_BW,
            past_key_values=cache,
            use_cache=True,
        ).last_hidden_state
        return hidden_BWH

    def _candidates(self, depth: int, beams: Beams, hidden_BWH: Tensor, allowed: Allowed) -> Beams:
        """All open children of the beams, [B, W x C]."""
        child_BWC, code_BWC, open_BWC = allowed.children(depth, beams.node_BW)
        if self._normalisation == "level":
            log_p_BWK = (hidden_BWH @ self._head_LKH[depth].T).float().log_softmax(dim=-1)
            log_p_BWC = log_p_BWK.gather(2, code_BWC)
        else:
            logits_BWV = (hidden_BWH @ self._head_VH.T).float()
            log_p_BWC = logits_BWV.gather(2, self._token_ids_LK[depth][code_BWC]) - logits_BWV.logsumexp(
                2, keepdim=True
            )
        score_BWC = (beams.score_BW[..., None] + log_p_BWC).masked_fill_(~open_BWC, NOTHING)
        parent_BWC = torch.arange(child_BWC.shape[1], device=child_BWC.device)[None, :, None].expand(child_BWC.shape)
        return Beams(*(each.flatten(1) for each in (child_BWC, score_BWC, parent_BWC, code_BWC)))

    def _best_items(self, candidates: Beams, k: int) -> Beams:
        """The k best leaves, as item indices; two stable sorts put equal scores in the order of the item index."""
        items = candidates._replace(node_BW=self._trie.item_N[candidates.node_BW])
        by_item = items.node_BW.argsort(dim=1, stable=True)
        by_score = items.score_BW.gather(1, by_item).argsort(dim=1, descending=True, stable=True)
        return _take(items, by_item.gather(1, by_score[:, :k]))


def _with_own(ancestors_BWF: Tensor, parent_BW: Tensor) -> Tensor:
    """Which of the positions fed so far each beam sees: its parent's, and the one that is being fed for itself."""
    users, width = parent_BW.shape
    fed = ancestors_BWF.shape[2]
    inherited = ancestors_BWF.gather(1, parent_BW[..., None].expand(-1, -1, fed))
    own = torch.eye(width, dtype=torch.bool, device=parent_BW.device).expand(users, -1, -1)
    return torch.cat([inherited, own], dim=2)


def _best(candidates: Beams, width: int) -> Beams:
    return _take(candidates, candidates.score_BW.topk(min(width, candidates.score_BW.shape[1]), dim=1).indices)


def _take(beams: Beams, index: Tensor) -> Beams:
    return Beams(*(each.gather(1, index) for each in beams))


def _padded(items: Beams, k: int) -> tuple[Tensor, Tensor]:
    missing = (0, k - items.node_BW.shape[1])
    score_BK = torch.nn.functional.pad(items.score_BW, missing, value=NOTHING)
    item_BK = torch.nn.functional.pad(items.node_BW, missing, value=-1)
    return item_BK.masked_fill(score_BK == NOTHING, -1), score_BK
