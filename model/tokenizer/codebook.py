"""The frozen codebook: what turns an item's vectors into codes, now and for items to come.

Nothing in it changes after training. New items get codes from the frozen centroids among the free ones, so a published
code never moves, and models trained on the codes stay valid.

Shapes: N items, M codes taken already, D behaviour dimensions, E text dimensions, P input dimensions, Z dimensions that
are quantised, L levels, K codes a level.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property

import numpy as np

from model.config import TokenizerConfig
from model.data.files import load_json, load_tensors, save_json, save_tensors
from model.tokenizer.assignment import assign_codes
from model.tokenizer.autoencoder import restored, train_autoencoder
from model.tokenizer.inputs import InputTransform
from model.tokenizer.quantizer import Floats, Ints, reconstruct, train_centroids
from model.tokenizer.residual import ResidualAutoencoder

CENTROIDS = "centroids_LKP"
"""Their name in the file. It outlives names in the code: a codebook stays live for long."""
AUTOENCODER = "autoencoder."
DECIMALS = 9
COLD_EVERY = 10
"""Training shows every tenth item once more as if nobody had taken it yet: codes are for items to come, too [ours]."""


@dataclass(frozen=True)
class Codebook:
    config: TokenizerConfig
    transform: InputTransform
    centroids_LKZ: Floats
    autoencoder: ResidualAutoencoder | None = None

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
        if config.kind == "dual_autoencoder":
            transform = InputTransform.fit_views(text_NE, behaviour_ND, has_behaviour_N)
        else:
            transform = InputTransform.fit(text_NE, behaviour_ND, has_behaviour_N, config.input_dim)
        x_NP = transform.apply(text_NE, behaviour_ND, has_behaviour_N, config.text_weight)
        cold_M = np.flatnonzero(has_behaviour_N)[::COLD_EVERY]
        nobody_M = np.zeros(len(cold_M), bool)
        cold_MP = transform.apply(text_NE[cold_M], behaviour_ND[cold_M], nobody_M, config.text_weight)
        x_NP = np.concatenate([x_NP, cold_MP])
        if config.kind == "residual_kmeans":
            return cls(config, transform, train_centroids(x_NP, config))
        autoencoder = train_autoencoder(x_NP, np.concatenate([text_NE, text_NE[cold_M]]), config)
        return cls(config, transform, autoencoder.codes_LKZ.detach().numpy().astype(np.float64), autoencoder)

    def inputs(self, text_NE: np.ndarray, behaviour_ND: np.ndarray, has_behaviour_N: np.ndarray) -> Floats:
        """What the codes stand for [N,P]."""
        return self.transform.apply(text_NE, behaviour_ND, has_behaviour_N, self.config.text_weight)

    def quantised(self, x_NP: Floats) -> Floats:
        """What is quantised [N,Z]: the inputs themselves, or their latent vectors."""
        latent_NZ = x_NP if self._exact is None else self._exact.encode(x_NP)
        # The last bits depend on a row's place among others; codes must not.
        return latent_NZ.round(DECIMALS)

    def rebuilt(self, codes_NL: Ints) -> Floats:
        """The inputs [N,P] that codes stand for."""
        sum_NZ = reconstruct(codes_NL, self.centroids_LKZ)
        return sum_NZ if self._exact is None else self._exact.decode(sum_NZ)

    @cached_property
    def _exact(self) -> ResidualAutoencoder | None:
        """The autoencoder in float64, made once: codes are asked for batch by batch."""
        return None if self.autoencoder is None else copy.deepcopy(self.autoencoder).double()

    def assign(self, item_ids: Sequence[str], x_NP: Floats, taken_ML: Ints) -> Ints:
        """Distinct free codes [N,L] for items with the inputs `x_NP`, in any order. ValueError when codes run out."""
        order_N = _order(item_ids)
        codes_NL = np.empty((len(x_NP), len(self.centroids_LKZ)), np.int64)
        latent_NZ = self.quantised(x_NP[order_N])
        codes_NL[order_N] = assign_codes(latent_NZ, self.centroids_LKZ, taken_ML, self.config.candidates)
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
        save_tensors(f"{uri}/codebook.safetensors", self.tensors())
        save_json(f"{uri}/codebook.json", asdict(self.config))

    def tensors(self) -> dict[str, np.ndarray]:
        """All that was learned; `of` is the way back."""
        tensors = {CENTROIDS: self.centroids_LKZ, **self.transform.tensors()}
        if self.autoencoder is not None:
            tensors |= {AUTOENCODER + name: tensor.numpy() for name, tensor in self.autoencoder.state_dict().items()}
        return tensors

    @classmethod
    def load(cls, uri: str) -> Codebook:
        config = TokenizerConfig(**load_json(f"{uri}/codebook.json"))
        return cls.of(config, load_tensors(f"{uri}/codebook.safetensors"))

    @classmethod
    def of(cls, config: TokenizerConfig, tensors: Mapping[str, np.ndarray]) -> Codebook:
        learned = {name.removeprefix(AUTOENCODER): each for name, each in tensors.items() if AUTOENCODER in name}
        transform = {name: each for name, each in tensors.items() if AUTOENCODER not in name and name != CENTROIDS}
        autoencoder = restored(learned, config) if learned else None
        return cls(config, InputTransform(**transform), tensors[CENTROIDS], autoencoder)


def _order(item_ids: Sequence[str]) -> Ints:
    """The items' order by id. ValueError when an id is there twice."""
    ids_N, first_N = np.unique(np.asarray(item_ids, dtype=object), return_index=True)
    if len(ids_N) < len(item_ids):
        twice = min(set(range(len(item_ids))) - set(first_N.tolist()))
        raise ValueError(f"Item {item_ids[twice]!r} is there twice. Every item has one code.")
    return np.asarray(first_N, np.int64)
