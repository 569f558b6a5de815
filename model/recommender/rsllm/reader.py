"""The sequential recommender's item vectors as words of the language model [paper: RSLLM; shapes after LLaRA's code].

An item's ID token is read as P(e): e the frozen vector of the teacher, P two layers whose LayerNorm starts at the scale
of the embedding table. An item that nobody took has no such vector: its text's, T(x), stands for it [ours], because
one of the two contrastive losses draws T to P.

Shapes: N items, M later items, D width of the teacher, E text dimensions, X components of them, H hidden size,
I items asked for, Q users, O users with C items of their own.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.behaviour.item_texts import TextComponents
from model.data.files import TEXT_VECTORS_FILE, load_tensors
from model.generation import sha256

VECTORS_FILE = "vectors.safetensors"
TEXT_COMPONENTS = 128


class ItemVectors(NamedTuple):
    """What is known of items beside their titles."""

    teacher_ND: np.ndarray
    """Of unit scale on average over the items with behaviour; zeros for the others."""
    has_behaviour_N: np.ndarray
    text_NX: np.ndarray


def read_vectors(
    inputs: dict[str, Any], components: TextComponents | None = None
) -> tuple[ItemVectors, TextComponents]:
    """Of all items, those in additions to the codebook included, which have no behaviour.

    `inputs`: "behaviour" and "text_vectors" (URIs), optionally "codebook_additions" (URIs). `components`: what a
    training made of the texts; without it they are fitted to these. ValueError when nobody took any item.
    """
    known = load_tensors(f"{inputs['behaviour']}/{VECTORS_FILE}")
    has_N = known["count"] > 0
    if not has_N.any():
        raise ValueError(f"{inputs['behaviour']} knows of no item that anybody took.")
    mean_D, deviation = known["vectors"][has_N].mean(axis=0), known["vectors"][has_N].std()
    teacher_ND = np.where(has_N[:, None], (known["vectors"] - mean_D) / max(deviation, 1e-6), 0).astype(np.float32)
    text_NE = load_tensors(inputs["text_vectors"])["vectors"]
    components = components or TextComponents.fit(text_NE, TEXT_COMPONENTS)
    later = [load_tensors(f"{uri}/{TEXT_VECTORS_FILE}")["vectors"] for uri in inputs.get("codebook_additions", ())]
    text_NE = np.concatenate([text_NE, *later]) if later else text_NE
    new = len(text_NE) - len(has_N)
    vectors = ItemVectors(np.pad(teacher_ND, ((0, new), (0, 0))), np.pad(has_N, (0, new)), components(text_NE))
    return vectors, components


def teacher_of(behaviour: str) -> str:
    """Identity of a teacher: the checksum of its item vectors."""
    return sha256(f"{behaviour}/{VECTORS_FILE}")


class IdReader(nn.Module):
    """P, T and W: what a language model needs to read ID tokens, and to rank by them."""

    teacher_ND: Tensor
    has_behaviour_N: Tensor
    text_NX: Tensor

    def __init__(self, vectors: ItemVectors, hidden_size: int, scale: float) -> None:
        """`scale`: RMS of the language model's embedding table."""
        super().__init__()
        self.project = _two_layers(vectors.teacher_ND.shape[1], hidden_size, scale)
        self.read_text = _two_layers(vectors.text_NX.shape[1], hidden_size, scale)
        self.query = nn.Linear(hidden_size, hidden_size, bias=False)
        for name, values in vectors._asdict().items():
            self.register_buffer(name, torch.as_tensor(values), persistent=False)

    @property
    def items(self) -> int:
        return len(self.text_NX)

    def vectors(self, item_I: Tensor) -> Tensor:
        """What the items' ID tokens are read as [I,H]."""
        vectors_IH: Tensor = self.project(self.teacher_ND[item_I])
        new = (~self.has_behaviour_N[item_I]).nonzero()[:, 0]
        return vectors_IH if not len(new) else vectors_IH.index_copy(0, new, self._of_texts(item_I[new]))

    def sides(self, item_I: Tensor) -> tuple[Tensor, Tensor]:
        """Unit vectors [I,H] of the items by their behaviour, and by their texts."""
        of_behaviour_IH = self.project(self.teacher_ND[item_I])
        return F.normalize(of_behaviour_IH, dim=1), F.normalize(self._of_texts(item_I), dim=1)

    def _of_texts(self, item_I: Tensor) -> Tensor:
        vectors_IH: Tensor = self.read_text(self.text_NX[item_I])
        return vectors_IH

    def directions(self, item_I: Tensor) -> Tensor:
        """Unit vectors [I,H] of items, to be compared with what is wanted."""
        return F.normalize(self.vectors(item_I), dim=1)

    def wanted(self, state_QH: Tensor) -> Tensor:
        """Unit vectors [Q,H]: where the next item of users in these states should lie."""
        return F.normalize(self.query(state_QH), dim=1)

    def wanted_among(self, state_OH: Tensor, item_OC: Tensor) -> Tensor:
        """Cosines [O,C] of what is wanted with each one's own items."""
        direction_OCH = self.directions(item_OC.flatten()).view(*item_OC.shape, -1)
        return torch.einsum("oh,och->oc", self.wanted(state_OH), direction_OCH)


def _two_layers(inputs: int, hidden_size: int, scale: float) -> nn.Sequential:
    norm = nn.LayerNorm(hidden_size)
    nn.init.constant_(norm.weight, scale)
    return nn.Sequential(nn.Linear(inputs, hidden_size), nn.GELU(), nn.Linear(hidden_size, hidden_size), norm)
