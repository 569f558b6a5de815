"""An index that moves while the language model learns [paper: TTDS]: codes follow what the model knows of the texts.

A few times in the stage the catalogue is read anew in packed batches. The towers take in the new states under the codes
that there are (`towers.py`), then an item takes another code if that is nearer by a margin; in between they learn from
these states, a batch a step. [code] re-encodes inside every step, one item at a time; [ours] the cache, the taking in
and the margin. Codes name one item each at all times, so that no prompt is ambiguous.

Shapes: N items, M of them, V histories, L levels, H hidden size, P inputs of a tower, Z latent dimensions.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from model.config import ModelConfig
from model.processes import Processes
from model.recommender.methods.base import Ints
from model.recommender.states import text_states
from model.recommender.towers import Tower, codebook_of, codebook_tensors, named
from model.recommender.users import UserCoder, Views
from model.tokenizer.assignment import assign_codes
from model.tokenizer.codebook import Codebook
from model.tokenizer.health import churn
from model.tokenizer.quantizer import Floats, nearest_codes, reconstruct


class Start(NamedTuple):
    """What the index begins with: towers fitted to the states of a model before its first step, or kept ones."""

    text_NX: Ints
    """Token ids of the items' texts, padded with -1."""
    views: Views
    items: Codebook
    users: Codebook | None
    history_VH: Ints
    """That the users' tower learns from."""
    codes_NL: Ints

    @classmethod
    def kept(
        cls,
        config: ModelConfig,
        tensors: dict[str, Tensor],
        text_NX: Ints,
        behaviour: tuple[np.ndarray, np.ndarray],
        history_VH: Ints,
    ) -> Start:
        """From the tensors of an index (`DynamicIndex.state`), which go on as they were."""
        of_items, of_users = (dict(named(tensors, prefix)) for prefix in ("items.", "users."))
        views = Views(tensors["text"].numpy(), *behaviour)
        items = codebook_of(config.tokenizer, of_items)
        users = codebook_of(config.tokenizer, of_users) if of_users else None
        return cls(text_NX, views, items, users, history_VH, tensors["codes"].numpy())


class DynamicIndex:
    """Codes of items and users as they are now, and the towers behind them. The same on all processes."""

    def __init__(self, config: ModelConfig, start: Start, processes: Processes) -> None:
        """`config`: of the first stage."""
        self._config, self._processes, self.text_NX = config, processes, start.text_NX
        self._history_VH, self.views, self.codes_NL = start.history_VH, start.views, start.codes_NL
        self.towers = {"items": Tower(start.items, start.views, config.ttds.tower_share)}
        if start.users is not None:
            views = start.views.of_histories(start.history_VH)
            self.towers["users"] = Tower(start.users, views, config.ttds.tower_share)
        self.users = self._coder()
        self.churn: list[dict[str, Any]] = []
        """Of each renewal so far."""
        self._tower_steps = 0
        self.terms: dict[str, list[float]] = {}
        """Sums since the epoch began, then their number."""
        self._readers: list[Callable[[DynamicIndex], None]] = []
        self._agree()

    def tell(self, reader: Callable[[DynamicIndex], None]) -> None:
        """Call the reader now, and whenever codes have changed."""
        self._readers.append(reader)
        reader(self)

    def refresh(self, model: PreTrainedModel, trained: nn.Module, step: int) -> None:
        """Read the catalogue with the model as it is, and quantise it anew."""
        before_NL, before_VL = self.codes_NL, self._codes_of_users()
        self._read(model, trained, before_VL)
        items = self.towers["items"]
        self.codes_NL = moved(items.frozen(), items.x_NP, before_NL, self._config.ttds.hysteresis)
        self._agree()
        self.churn.append({"step": step, **churn(before_NL, self.codes_NL), **self._users_kept(before_VL)})
        self._told()

    def settle(self, model: PreTrainedModel, trained: nn.Module) -> dict[str, float]:
        """Read the catalogue with the model as it ends, whose states later items will have; every item keeps its code.

        Returns what became of the codes of users, if they have any: they follow from the states.
        """
        before_VL = self._codes_of_users()
        self._read(model, trained, before_VL)
        self._agree()
        self._told()
        return self._users_kept(before_VL)

    def step(self, number: int) -> None:
        """Let the towers of an index that moves learn from a batch each, drawn by the number of the step."""
        if not self._config.ttds.renewals:
            return
        self._tower_steps += 1
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

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Tensors and JSON values that `load` goes on from."""
        return self._tensors(), {"churn": self.churn, "terms": self.terms, "tower_steps": self._tower_steps}

    def load(self, tensors: dict[str, Tensor], values: dict[str, Any]) -> None:
        self.churn, self.terms, self._tower_steps = values["churn"], values["terms"], values["tower_steps"]
        self._take(tensors)
        self._told()

    def _read(self, model: PreTrainedModel, trained: nn.Module, codes_VL: Ints) -> None:
        """The towers take in what the model makes of the texts now, under the codes that there are."""
        row_tokens = self._config.finetune.row_tokens
        text_NH = text_states(model, self.text_NX, row_tokens, self._processes, trained)
        self.views = self.views._replace(text_NE=text_NH)
        self.towers["items"].read(self.views, self.codes_NL)
        if "users" in self.towers:
            self.towers["users"].read(self.views.of_histories(self._history_VH), codes_VL)
        self.users = self._coder()

    def _agree(self) -> None:
        """All processes hold what the first one found: the last bits of sums and distances may be each one's own."""
        if self._processes.world_size == 1:
            return
        self._take({name: self._processes.first_of(each) for name, each in self._tensors().items()})

    def _tensors(self) -> dict[str, Tensor]:
        tensors = {"codes": torch.as_tensor(self.codes_NL), "text": torch.as_tensor(self.views.text_NE)}
        for name, tower in self.towers.items():
            tensors |= {f"{name}.{key}": each for key, each in tower.tensors().items()}
        if self.users is not None:
            # Between two renewals the users' codes are those of the tower as it was then.
            tensors |= {f"coder.{key}": each for key, each in codebook_tensors(self.users.tower).items()}
        return tensors

    def _take(self, tensors: dict[str, Tensor]) -> None:
        self.codes_NL = tensors["codes"].numpy()
        self.views = self.views._replace(text_NE=tensors["text"].numpy())
        views = {"items": self.views}
        if self.users is not None:
            views["users"] = self.views.of_histories(self._history_VH)
            of_users = codebook_of(self._config.tokenizer, dict(named(tensors, "coder.")))
            self.users = UserCoder(of_users, self.views)
        for name, tower in self.towers.items():
            tower.load(dict(named(tensors, f"{name}.")), self._tower_steps, views[name])

    def _codes_of_users(self) -> Ints:
        """Of the histories that their tower learns from."""
        return np.empty((0, 0), np.int64) if self.users is None else self.users.codes(self._history_VH)

    def _users_kept(self, before_VL: Ints) -> dict[str, float]:
        if self.users is None:
            return {}
        return {"same_code_of_users": float((before_VL == self._codes_of_users()).all(axis=1).mean())}

    def _told(self) -> None:
        for reader in self._readers:
            reader(self)

    def _coder(self) -> UserCoder | None:
        return UserCoder(self.towers["users"].frozen(), self.views) if "users" in self.towers else None


def renewal_steps(renewals: int, steps: int) -> list[int]:
    """Before which steps of so many the index is renewed: after as many as there are behind the last one."""
    return sorted({steps * number // (renewals + 1) for number in range(1, renewals + 1)} - {0})


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
