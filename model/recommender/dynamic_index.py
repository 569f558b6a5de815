"""An index that moves while the language model learns [paper: TTDS]: codes follow what the model knows of the texts.

Every so many steps the catalogue is read anew in packed batches and quantised by the towers as they are then; in
between the towers learn from these states, a batch a step. [code] re-encodes inside every step, one item at a time;
[ours] the cache, and hysteresis: an item keeps its code unless another is nearer by a margin. Codes name one item each
at all times, so that the model can be validated by real decoding and served as it is.

Shapes: N items, M of them, V histories, L levels, H hidden size, P inputs of a tower, Z latent dimensions.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from model.config import ModelConfig
from model.processes import Processes
from model.recommender.methods.base import Ints
from model.recommender.states import text_states
from model.recommender.users import UserCoder, Views
from model.tokenizer.assignment import assign_codes
from model.tokenizer.autoencoder import train_step
from model.tokenizer.codebook import Codebook
from model.tokenizer.health import churn
from model.tokenizer.quantizer import Floats, nearest_codes, reconstruct

MOMENTS = ("exp_avg", "exp_avg_sq")


class Tower:
    """A codebook that is learning still, and the rows that it learns from."""

    def __init__(self, codebook: Codebook, views: Views, share: float) -> None:
        """`share` of the learning rate that the codebook was trained with."""
        assert codebook.autoencoder is not None, "a tower is a codebook with an autoencoder"
        self._codebook, self.module = codebook, copy.deepcopy(codebook.autoencoder).float().train()
        self._optimizer = torch.optim.AdamW(self.module.parameters(), lr=share * codebook.config.learning_rate)
        self.read(views)

    def read(self, views: Views) -> None:
        """From now on learn from these."""
        inputs = self._codebook.inputs(views.text_NE, views.behaviour_ND, views.has_behaviour_N)
        self.x_NP, self._text = inputs, torch.as_tensor(views.text_NE)
        self._x = torch.as_tensor(inputs, dtype=torch.float32)

    def step(self, rows: Ints) -> dict[str, float]:
        """Learn from some rows; returns the terms of the loss."""
        terms, _ = train_step(self.module, self._optimizer, self._x, self._text, torch.as_tensor(rows), quantised=True)
        return terms

    def frozen(self) -> Codebook:
        """As it is now."""
        module = copy.deepcopy(self.module).eval()
        centroids_LKZ = module.codes_LKZ.detach().numpy().astype(np.float64)
        return replace(self._codebook, centroids_LKZ=centroids_LKZ, autoencoder=module)

    def tensors(self) -> dict[str, Tensor]:
        found = dict(self.module.state_dict())
        for name, each in self.module.named_parameters():
            state = self._optimizer.state.get(each, {})
            found |= {f"{moment}.{name}": state.get(moment, torch.zeros_like(each)) for moment in MOMENTS}
        return found

    def load(self, tensors: dict[str, Tensor], steps: int) -> None:
        self.module.load_state_dict({name: tensors[name] for name in self.module.state_dict()})
        for name, each in self.module.named_parameters():
            moments = {moment: tensors[f"{moment}.{name}"] for moment in MOMENTS}
            self._optimizer.state[each] = {"step": torch.tensor(float(steps)), **moments}


class Start(NamedTuple):
    """What the index begins with: the towers fitted to the states of the model before its first step."""

    text_NX: Ints
    """Token ids of the items' texts, padded with -1."""
    views: Views
    items: Codebook
    users: Codebook | None
    history_VH: Ints
    """That the users' tower learns from."""
    codes_NL: Ints


class DynamicIndex:
    """Codes of items and users as they are now, and the towers behind them. The same on all processes."""

    def __init__(self, config: ModelConfig, start: Start, processes: Processes) -> None:
        self._config, self._processes, self.text_NX = config, processes, start.text_NX
        self._history_VH, self.views, self.codes_NL = start.history_VH, start.views, start.codes_NL
        self.towers = {"items": Tower(start.items, start.views, config.ttds.tower_share)}
        if start.users is not None:
            views = start.views.of_histories(start.history_VH)
            self.towers["users"] = Tower(start.users, views, config.ttds.tower_share)
        self.users = self._coder()
        self.churn: list[dict[str, Any]] = []
        self.terms: dict[str, list[float]] = {}
        """Sums since the epoch began, then their number."""
        self._readers: list[Callable[[DynamicIndex], None]] = []

    def tell(self, reader: Callable[[DynamicIndex], None]) -> None:
        """Call the reader now, and whenever codes have changed."""
        self._readers.append(reader)
        reader(self)

    def due(self, step: int) -> bool:
        every = self._config.ttds.refresh_steps
        return every > 0 and step > 0 and step % every == 0

    def refresh(self, model: PreTrainedModel, trained: nn.Module, step: int) -> None:
        """Read the catalogue with the model as it is, and quantise it anew."""
        row_tokens = self._config.finetune.row_tokens
        text_NH = text_states(model, self.text_NX, row_tokens, self._processes, trained)
        self.views = self.views._replace(text_NE=text_NH)
        self._read_views()
        before_NL, items = self.codes_NL, self.towers["items"].frozen()
        self.codes_NL = moved(items, self.towers["items"].x_NP, before_NL, self._config.ttds.hysteresis)
        self.users = self._coder()
        self.churn.append({"step": step, **churn(before_NL, self.codes_NL)})
        self._told()

    def step(self, number: int) -> None:
        """Let the towers learn from a batch each, drawn by the number of the step."""
        for place, (name, tower) in enumerate(self.towers.items()):
            rng = np.random.default_rng([self._config.finetune.seed, number, place])
            rows = rng.choice(len(tower.x_NP), min(self._config.tokenizer.batch_size, len(tower.x_NP)), replace=False)
            torch.manual_seed(int(rng.integers(1 << 62)))
            for term, value in tower.step(rows).items():
                total, steps = self.terms.get(f"{name}.{term}", (0.0, 0))
                self.terms[f"{name}.{term}"] = [total + value, steps + 1]

    def close_epoch(self) -> dict[str, float]:
        """Means of the towers' terms since the last call."""
        means = {name: total / steps for name, (total, steps) in self.terms.items()}
        self.terms = {}
        return means

    def frozen(self) -> Codebook:
        """The items' tower as it is now."""
        return self.towers["items"].frozen()

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Tensors and JSON values that `load` goes on from."""
        tensors = {"codes": torch.as_tensor(self.codes_NL), "text": torch.as_tensor(self.views.text_NE)}
        for name, tower in self.towers.items():
            tensors |= {f"{name}.{key}": each for key, each in tower.tensors().items()}
        if self.users is not None:
            # Between two refreshes the users' codes are those of the tower as it was then.
            assert self.users.tower.autoencoder is not None
            of_users = self.users.tower.autoencoder.state_dict()
            tensors |= {f"coder.{key}": each for key, each in of_users.items()}
        return tensors, {"churn": self.churn, "terms": self.terms}

    def load(self, tensors: dict[str, Tensor], values: dict[str, Any], steps: int) -> None:
        self.churn, self.terms = values["churn"], values["terms"]
        self.codes_NL = tensors["codes"].numpy()
        self.views = self.views._replace(text_NE=tensors["text"].numpy())
        if self.users is not None:
            self.towers["users"].module.load_state_dict(dict(named(tensors, "coder.")))
            self.users = self._coder()
        for name, tower in self.towers.items():
            tower.load(dict(named(tensors, f"{name}.")), steps)
        self._read_views()
        self._told()

    def _told(self) -> None:
        for reader in self._readers:
            reader(self)

    def _read_views(self) -> None:
        self.towers["items"].read(self.views)
        if "users" in self.towers:
            self.towers["users"].read(self.views.of_histories(self._history_VH))

    def _coder(self) -> UserCoder | None:
        return UserCoder(self.towers["users"].frozen(), self.views) if "users" in self.towers else None


def moved(codebook: Codebook, x_NP: Floats, before_NL: Ints, hysteresis: float) -> Ints:
    """Codes [N,L] of the items now: the free one of the new codebook where it is nearer by the margin, else the old.

    A code that an item leaves is nobody else's before the next time. Where fewer codes are free than items would move,
    those go that have most to gain.
    """
    latent_NZ = codebook.quantised(x_NP)
    far_N = _distances(codebook, latent_NZ, before_NL)
    near_N = _distances(codebook, latent_NZ, nearest_codes(latent_NZ, codebook.centroids_LKZ))
    levels, codes = codebook.centroids_LKZ.shape[:2]
    by_gain_N = np.argsort(near_N - far_N, kind="stable")[: codes**levels - len(before_NL)]
    tempted_M = np.sort(by_gain_N[near_N[by_gain_N] < (1 - hysteresis) * far_N[by_gain_N]])
    free_ML = assign_codes(latent_NZ[tempted_M], codebook.centroids_LKZ, before_NL, codebook.config.candidates)
    better_M = _distances(codebook, latent_NZ[tempted_M], free_ML) < (1 - hysteresis) * far_N[tempted_M]
    after_NL = before_NL.copy()
    after_NL[tempted_M[better_M]] = free_ML[better_M]
    return after_NL


def _distances(codebook: Codebook, latent_NZ: Floats, codes_NL: Ints) -> Floats:
    """Squared, [N]."""
    away_N: Floats = ((latent_NZ - reconstruct(codes_NL, codebook.centroids_LKZ)) ** 2).sum(1)
    return away_N


def named(tensors: dict[str, Tensor], prefix: str) -> Iterator[tuple[str, Tensor]]:
    """Those of a prefix, without it."""
    return ((name.removeprefix(prefix), each) for name, each in tensors.items() if name.startswith(prefix))
