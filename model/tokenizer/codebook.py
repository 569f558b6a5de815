"""The frozen codebook: what turns an item's vectors into codes, now and for items to come.

Nothing in it changes after training. New items get codes from the frozen centroids among the free ones, so a published
code never moves, and models trained on the codes stay valid.

Shapes: N items, M codes taken already, D behaviour dimensions, E text dimensions, P input dimensions, L levels, K codes
a level.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np

from model.config import TokenizerConfig
from model.data.files import load_json, load_tensors, save_json, save_tensors
from model.tokenizer.assignment import assign_codes
from model.tokenizer.inputs import InputTransform
from model.tokenizer.quantizer import Floats, Ints, train_centroids


@dataclass(frozen=True)
class Codebook:
    config: TokenizerConfig
    transform: InputTransform
    centroids_LKP: Floats

    @classmethod
    def train(
        cls,
        config: TokenizerConfig,
        item_ids: Sequence[str],
        text_NE: np.ndarray,
        behaviour_ND: np.ndarray,
        has_behaviour_N: np.ndarray,
    ) -> Codebook:
        """Learn the transform and the centroids. The order of the items does not matter; their ids must be distinct.

        Raises ValueError for a text_weight outside [0, 1], for repeated ids and for vectors that are not finite.
        """
        if not 0 <= config.text_weight <= 1:
            raise ValueError(f"tokenizer.text_weight = {config.text_weight} is no share; give a number from 0 to 1.")
        order_N = _order(item_ids)
        text_NE, behaviour_ND, has_behaviour_N = text_NE[order_N], behaviour_ND[order_N], has_behaviour_N[order_N]
        for name, vectors in (("text", text_NE), ("behaviour", behaviour_ND)):
            bad_N = ~np.isfinite(vectors).all(1)
            if bad_N.any():
                raise ValueError(f"The {name} vector of item {item_ids[order_N[bad_N.argmax()]]!r} is not finite.")
        transform = InputTransform.fit(text_NE, behaviour_ND, has_behaviour_N, config.input_dim)
        x_NP = transform.apply(text_NE, behaviour_ND, has_behaviour_N, config.text_weight)
        return cls(config, transform, train_centroids(x_NP, config))

    def inputs(self, text_NE: np.ndarray, behaviour_ND: np.ndarray, has_behaviour_N: np.ndarray) -> Floats:
        """What is quantised [N,P]."""
        return self.transform.apply(text_NE, behaviour_ND, has_behaviour_N, self.config.text_weight)

    def assign(self, item_ids: Sequence[str], x_NP: Floats, taken_ML: Ints) -> Ints:
        """Distinct free codes [N,L] for items with the inputs `x_NP`, in any order. ValueError when codes run out."""
        order_N = _order(item_ids)
        codes_NL = np.empty((len(x_NP), len(self.centroids_LKP)), np.int64)
        codes_NL[order_N] = assign_codes(x_NP[order_N], self.centroids_LKP, taken_ML, self.config.candidates)
        return codes_NL

    def append(
        self,
        item_ids: Sequence[str],
        text_NE: np.ndarray,
        taken_ML: Ints,
        behaviour_ND: np.ndarray | None = None,
    ) -> Ints:
        """Codes [N,L] for new items, from text or text and behaviour; `taken_ML` are all the codes given so far."""
        if behaviour_ND is None:
            has_none_N = np.zeros(len(item_ids), bool)
            x_NP = self.inputs(text_NE, np.zeros((len(item_ids), len(self.transform.behaviour_mean_D))), has_none_N)
        else:
            x_NP = self.inputs(text_NE, behaviour_ND, np.ones(len(item_ids), bool))
        return self.assign(item_ids, x_NP, taken_ML)

    def save(self, uri: str) -> None:
        """Write `codebook.safetensors` and `codebook.json` into a folder."""
        save_tensors(f"{uri}/codebook.safetensors", {"centroids_LKP": self.centroids_LKP, **self.transform.tensors()})
        save_json(f"{uri}/codebook.json", asdict(self.config))

    @classmethod
    def load(cls, uri: str) -> Codebook:
        tensors = load_tensors(f"{uri}/codebook.safetensors")
        centroids_LKP = tensors.pop("centroids_LKP")
        return cls(TokenizerConfig(**load_json(f"{uri}/codebook.json")), InputTransform(**tensors), centroids_LKP)


def _order(item_ids: Sequence[str]) -> Ints:
    """The items' order by id. ValueError when an id is there twice."""
    ids_N, first_N = np.unique(np.asarray(item_ids, dtype=object), return_index=True)
    if len(ids_N) < len(item_ids):
        twice = min(set(range(len(item_ids))) - set(first_N.tolist()))
        raise ValueError(f"Item {item_ids[twice]!r} is there twice. Every item has one code.")
    return np.asarray(first_N, np.int64)
