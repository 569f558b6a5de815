"""A tower of a moving index: a codebook that is learning still, over states that change [paper: TTDS].

Once the language model has learned, its states of the same texts have another mean and lie along other axes; read by a
frozen transform nearly all of them would point one way. So each reading centres them anew, turns them to where they lay
before, and puts each code where the rows that have it are now. Whoever asks for the nearest code then asks a codebook
that knows these states, and few rows have a reason to leave theirs [ours].

Shapes: N rows, P inputs, L levels.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from model.config import TokenizerConfig
from model.recommender.methods.base import Ints
from model.recommender.users import Views
from model.tokenizer.autoencoder import train_step
from model.tokenizer.codebook import Codebook
from model.tokenizer.quantizer import refitted

MOMENTS = ("exp_avg", "exp_avg_sq")
CODEBOOK = "codebook."


class Tower:
    """A codebook, and the rows that it learns from."""

    def __init__(self, codebook: Codebook, views: Views, share: float) -> None:
        """`views`: those that the codebook was trained on; `share` of the learning rate that it was trained with."""
        assert codebook.autoencoder is not None, "a tower is a codebook with an autoencoder"
        self._codebook, self.module = codebook, copy.deepcopy(codebook.autoencoder).float().train()
        self._optimizer = torch.optim.AdamW(self.module.parameters(), lr=share * codebook.config.learning_rate)
        self._learn_from(views)

    def read(self, views: Views, codes_NL: Ints) -> None:
        """From now on learn from these: the same rows, with other states. `codes_NL`: the codes that they have."""
        transform = self._codebook.transform.following(self._text.numpy(), views.text_NE)
        self._codebook = replace(self._codebook, transform=transform)
        self._learn_from(views)
        now = self.frozen()
        centroids_LKZ = refitted(now.quantised(self.x_NP), codes_NL, now.centroids_LKZ)
        self.module.codes_LKZ.data.copy_(torch.as_tensor(centroids_LKZ))

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
        """All that `load` goes on from, but the views."""
        found = codebook_tensors(self.frozen())
        for name, each in self.module.named_parameters():
            state = self._optimizer.state.get(each, {})
            found |= {f"{moment}.{name}": state.get(moment, torch.zeros_like(each)) for moment in MOMENTS}
        return found

    def load(self, tensors: dict[str, Tensor], steps: int, views: Views) -> None:
        """`steps` that the moments come from."""
        self._codebook = codebook_of(self._codebook.config, tensors)
        assert self._codebook.autoencoder is not None
        self.module.load_state_dict(self._codebook.autoencoder.state_dict())
        for name, each in self.module.named_parameters():
            moments = {moment: tensors[f"{moment}.{name}"] for moment in MOMENTS}
            self._optimizer.state[each] = {"step": torch.tensor(float(steps)), **moments}
        self._learn_from(views)

    def _learn_from(self, views: Views) -> None:
        self.x_NP = self._codebook.inputs(views.text_NE, views.behaviour_ND, views.has_behaviour_N)
        self._x, self._text = torch.as_tensor(self.x_NP, dtype=torch.float32), torch.as_tensor(views.text_NE)


def codebook_tensors(codebook: Codebook) -> dict[str, Tensor]:
    """For a checkpoint; `codebook_of` is the way back."""
    return {CODEBOOK + name: torch.as_tensor(each) for name, each in codebook.tensors().items()}


def codebook_of(config: TokenizerConfig, tensors: dict[str, Tensor]) -> Codebook:
    return Codebook.of(config, {name: each.numpy() for name, each in named(tensors, CODEBOOK)})


def named(tensors: dict[str, Tensor], prefix: str) -> Iterator[tuple[str, Tensor]]:
    """Those of a prefix, without it."""
    return ((name.removeprefix(prefix), each) for name, each in tensors.items() if name.startswith(prefix))
