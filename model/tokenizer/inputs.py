"""What the tokenizer quantises: an item's behaviour vector beside its text vector, each reduced and of unit length.

[ours]. Items without behaviour have none of the former: it is predicted by ridge regression from all of their text
vector, so that a new item's codes still mean something; or zeros, for a model that can do without. The transform is
learned once and frozen with the codebook; a moving index has it follow the encoder of texts until then.

Shapes: N items, R rows at a time, D behaviour dimensions, E text dimensions, P and Q the two after reduction.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace

import numpy as np

from model.tokenizer.quantizer import Floats

CHUNK_ROWS = 1 << 16
RIDGE = 1.0
"""Penalty on the squared weights, beside unit vectors on both sides."""


@dataclass(frozen=True)
class InputTransform:
    behaviour_mean_D: Floats
    behaviour_axes_DP: Floats
    text_mean_E: Floats
    text_axes_EQ: Floats
    behaviour_from_text_XP: Floats
    """X = E + 1: the last row is the constant. (Q + 1 in codebooks that predict from the reduced text.)"""

    @classmethod
    def fit(
        cls, text_NE: np.ndarray, behaviour_ND: np.ndarray, has_behaviour_N: np.ndarray, dim: int
    ) -> InputTransform:
        """Learn from the items, in the order given; at most `dim` components of each input."""
        text_mean_E, text_axes_EQ = principal_axes(text_NE, dim)
        behaviour_mean_D, behaviour_axes_DP = principal_axes(behaviour_ND[has_behaviour_N], dim)
        behaviour_BP = _unit(_projected(behaviour_ND[has_behaviour_N], behaviour_mean_D, behaviour_axes_DP))
        weights_XP = _ridge(text_NE[has_behaviour_N], text_mean_E, behaviour_BP)
        return cls(behaviour_mean_D, behaviour_axes_DP, text_mean_E, text_axes_EQ, weights_XP)

    @classmethod
    def fit_views(cls, text_NE: np.ndarray, behaviour_ND: np.ndarray, has_behaviour_N: np.ndarray) -> InputTransform:
        """Learn from the items, in the order given; all components, and nothing predicted: no behaviour is zeros."""
        E, D = text_NE.shape[1], behaviour_ND.shape[1]
        text_mean_E, text_axes_EQ = principal_axes(text_NE, E)
        behaviour_mean_D, behaviour_axes_DP = principal_axes(behaviour_ND[has_behaviour_N], D)
        return cls(behaviour_mean_D, behaviour_axes_DP, text_mean_E, text_axes_EQ, np.zeros((E + 1, D)))

    def following(self, before_NE: np.ndarray, after_NE: np.ndarray) -> InputTransform:
        """For an encoder of texts that has learned: the same texts' vectors, centred on their own mean and turned to
        where those of before lie (orthogonal Procrustes, Schönemann 1966). Of transforms by `fit_views`.
        """
        E = len(self.text_mean_E)
        assert self.text_axes_EQ.shape == (E, E), "only a whole space can be turned"
        mean_E, mixed_EE = after_NE.mean(0, dtype=np.float64), np.zeros((E, E))
        for before_RE, after_RE in zip(_in_chunks(before_NE), _in_chunks(after_NE), strict=True):
            there_RE = _unit((before_RE - self.text_mean_E) @ self.text_axes_EQ)
            mixed_EE += _unit(after_RE - mean_E).T @ there_RE
        left_EE, _, right_EE = np.linalg.svd(mixed_EE)
        return replace(self, text_mean_E=mean_E, text_axes_EQ=left_EE @ right_EE)

    def apply(
        self, text_NE: np.ndarray, behaviour_ND: np.ndarray, has_behaviour_N: np.ndarray, text_weight: float
    ) -> Floats:
        """Inputs [N,P+Q] of unit length: `text_weight` is the text's share of a squared distance.

        Raises ValueError when the vectors are not as wide as those the transform was learned from.
        """
        for name, vectors, mean in (
            ("text", text_NE, self.text_mean_E),
            ("behaviour", behaviour_ND, self.behaviour_mean_D),
        ):
            if vectors.shape[1] != len(mean):
                raise ValueError(
                    f"The {name} vectors have {vectors.shape[1]} dimensions, the codebook was trained on {len(mean)}: "
                    "they come from another encoder. Train the tokenizer again."
                )
        text_NQ = _unit(_projected(text_NE, self.text_mean_E, self.text_axes_EQ))
        behaviour_NP = _unit(_projected(behaviour_ND, self.behaviour_mean_D, self.behaviour_axes_DP))
        if text_weight < 1:  # else it weighs nothing
            cold_N = ~has_behaviour_N
            behaviour_NP[cold_N] = _unit(self._predicted(text_NE[cold_N], text_NQ[cold_N]))
        return np.hstack([np.sqrt(1 - text_weight) * behaviour_NP, np.sqrt(text_weight) * text_NQ])

    def _predicted(self, text_NE: np.ndarray, text_NQ: Floats) -> Floats:
        weights_XP = self.behaviour_from_text_XP
        if len(weights_XP) != len(self.text_mean_E) + 1:
            return _with_constant(text_NQ) @ weights_XP
        chunks = [_with_constant(_unit(text_RE - self.text_mean_E)) @ weights_XP for text_RE in _in_chunks(text_NE)]
        return np.concatenate([np.empty((0, weights_XP.shape[1])), *chunks])

    def tensors(self) -> dict[str, np.ndarray]:
        """For a file; `InputTransform(**tensors)` is the way back."""
        return asdict(self)


def principal_axes(x_ND: np.ndarray, dim: int) -> tuple[Floats, Floats]:
    """Mean [D] and leading principal axes [D,min(dim,D)], each with its largest entry positive. Zeros without rows."""
    D = x_ND.shape[1]
    if not len(x_ND):
        return np.zeros(D), np.zeros((D, min(dim, D)))
    mean_D = x_ND.mean(0, dtype=np.float64)
    scatter_DD = np.zeros((D, D))
    for x_RD in _in_chunks(x_ND):
        centred_RD = x_RD - mean_D
        scatter_DD += centred_RD.T @ centred_RD
    _, axes_DD = np.linalg.eigh(scatter_DD)
    axes_DP = axes_DD[:, ::-1][:, :dim]
    signs_P = np.sign(np.take_along_axis(axes_DP, np.abs(axes_DP).argmax(0)[None], 0))
    return mean_D, axes_DP * signs_P


def _projected(x_ND: np.ndarray, mean_D: Floats, axes_DP: Floats) -> Floats:
    """[N,P]; in float64, some rows at a time."""
    chunks = [(x_RD - mean_D) @ axes_DP for x_RD in _in_chunks(x_ND)]
    return np.concatenate([np.empty((0, axes_DP.shape[1])), *chunks])


def _ridge(text_NE: np.ndarray, text_mean_E: Floats, behaviour_NP: Floats) -> Floats:
    """Weights [X,P] that predict behaviour from the centred text of unit length and a constant."""
    X = len(text_mean_E) + 1
    normal_XX, mixed_XP = RIDGE * np.eye(X), np.zeros((X, behaviour_NP.shape[1]))
    for text_RE, behaviour_RP in zip(_in_chunks(text_NE), _in_chunks(behaviour_NP), strict=True):
        text_RX = _with_constant(_unit(text_RE - text_mean_E))
        normal_XX += text_RX.T @ text_RX
        mixed_XP += text_RX.T @ behaviour_RP
    return np.asarray(np.linalg.solve(normal_XX, mixed_XP), np.float64)


def _in_chunks(x_ND: np.ndarray) -> Iterator[np.ndarray]:
    return (x_ND[low : low + CHUNK_ROWS] for low in range(0, len(x_ND), CHUNK_ROWS))


def _unit(x_NP: Floats) -> Floats:
    """Rows of unit length; a row of (nearly) zeros has no direction and becomes zeros."""
    norm_N1 = np.linalg.norm(x_NP, axis=1, keepdims=True)
    return np.where(norm_N1 > 1e-9, x_NP / np.maximum(norm_N1, 1e-9), 0.0)


def _with_constant(x_NP: Floats) -> Floats:
    return np.hstack([x_NP, np.ones((len(x_NP), 1))])
