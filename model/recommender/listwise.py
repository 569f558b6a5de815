"""What decides on a list: a weighted sum of signals, and a small network that sees an item beside the others [ours].

A sum says what a point of a signal is worth wherever it stands. The network corrects it by what a sum cannot say: how
far the item is from its list's mean and from its best, and how many are before it, signal by signal. Both are learned
as the likelihood of the targets among their shortlists (conditional logit, McFadden 1974; for rankers, ListNet). A
quadratic penalty holds the weights at their defaults and the network at nothing: with few cases the sum is left.

Shapes: B users, C items of a shortlist, F signals, I inputs of the network, H hidden units (of one network, or of all).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize
from scipy.special import log_softmax, softmax
from scipy.stats import rankdata

from model.config import SignalName
from model.recommender.methods.base import PAD, Bools, Floats, Ints

DEFAULTS: dict[SignalName, float] = {
    "language_model": 0.05,
    "ttds": 0.05,
    "rsllm": 0.05,
    "teacher": 0.5,
    "item_knn": 0.1,
    "successor": 0.1,
    "words": 3.0,
}
"""Weights of no data: about what the public data sets give."""
NETWORKS, HIDDEN = 4, 16
"""The network is the mean of so many that start elsewhere and end elsewhere, with so many hidden units each."""
STEPS = 150
"""Of L-BFGS, at most. The network's fit ends by them, as it did in the trials that chose it."""

Doubles = npt.NDArray[np.float64]


class Shortlist(NamedTuple):
    """Best items by the dense signals, padded with -1, and what each signal says of them."""

    items_BC: Ints
    signals_BCF: Floats

    @classmethod
    def joined(cls, lists: Sequence[Shortlist], signals: int) -> Shortlist:
        """One of all their users; without a list, of nobody, with so many signals."""
        nobody = cls(np.empty((0, 1), np.int64), np.empty((0, 1, signals), np.float32))
        return cls(*(np.concatenate(parts) for parts in zip(*(lists or [nobody]), strict=True)))

    def of(self, rows: Ints | Bools) -> Shortlist:
        return Shortlist(self.items_BC[rows], self.signals_BCF[rows])


class Network(NamedTuple):
    """One layer of tanh. Signals come divided by their spread on the validation cases."""

    spread_F: Floats
    inner_IH: Floats
    bias_H: Floats
    outer_H: Floats

    def __call__(self, short: Shortlist) -> Floats:
        """[B,C]."""
        hidden_BCH = np.tanh(_inputs(short, self.spread_F) @ self.inner_IH + self.bias_H)
        added_BC: Floats = hidden_BCH @ self.outer_H
        return added_BC


@dataclass(frozen=True)
class ListScorer:
    """The sum and its correction."""

    weights: dict[SignalName, float]
    """In the order of the signals."""
    network: Network | None = None
    """Without one, the sum decides alone."""

    @classmethod
    def learned(
        cls, short: Shortlist, target_B: Ints, names: Sequence[SignalName], penalty: float, seed: int
    ) -> ListScorer:
        """From these cases. `seed`: of the network's first weights."""
        weights = learned_weights(short, target_B, names, penalty)
        return cls(weights, _learned_network(short, target_B, weights, penalty, seed))

    @classmethod
    def of_json(cls, values: dict[str, Any], names: Sequence[SignalName]) -> ListScorer:
        weights = {name: values["weights"][name] for name in names}
        if values["network"] is None:
            return cls(weights)
        return cls(weights, Network(**{name: np.array(value, np.float32) for name, value in values["network"].items()}))

    def to_json(self) -> dict[str, Any]:
        parts = self.network and {name: value.tolist() for name, value in self.network._asdict().items()}
        return {"weights": self.weights, "network": parts}

    def __call__(self, short: Shortlist) -> Floats:
        """[B,C]; of padding, anything."""
        sum_BC = _sums(short, self.weights)
        return sum_BC if self.network is None else sum_BC + self.network(short)


def best(items_BC: Ints, score_BC: Floats, k: int) -> tuple[Ints, Floats]:
    """The k best of a shortlist [B,k] and their scores; equal scores go to the smaller item index.

    Scores that are no numbers come behind all others, but before padding: whoever reads the list has to see them.
    """
    padding_BC = items_BC == PAD
    score_BC = np.where(padding_BC, -np.inf, score_BC).astype(np.float32)
    order_BK = np.lexsort((items_BC, -score_BC, padding_BC), axis=1)[:, :k]
    items_BK, scores_BK = (np.take_along_axis(each, order_BK, axis=1) for each in (items_BC, score_BC))
    rest = ((0, 0), (0, k - items_BK.shape[1]))
    return np.pad(items_BK, rest, constant_values=PAD), np.pad(scores_BK, rest, constant_values=-np.inf)


def held_out(short: Shortlist, target_B: Ints, learn: Callable[[Shortlist, Ints], ListScorer], k: int) -> Ints:
    """The k best of each shortlist [B,k], every other one by what the rest teaches."""
    items_BK = np.full((len(target_B), k), PAD, np.int64)
    odd_B = np.arange(len(target_B)) % 2 == 1
    for held_B in (odd_B, ~odd_B):
        held, scorer = short.of(held_B), learn(short.of(~held_B), target_B[~held_B])
        items_BK[held_B] = best(held.items_BC, scorer(held), k)[0]
    return items_BK


def learned_weights(
    short: Shortlist, target_B: Ints, names: Sequence[SignalName], penalty: float
) -> dict[SignalName, float]:
    """Weights of the sum. Cases whose target is not on the shortlist teach nothing."""
    default_F = np.array([DEFAULTS[name] for name in names])
    short, hit_BC = _found(short, target_B)
    if not len(hit_BC):
        return dict(zip(names, default_F.tolist(), strict=True))
    spread_F = _spread(short)
    scaled_BCF = short.signals_BCF / spread_F

    def scores(weight_F: Doubles) -> tuple[Doubles, Callable[[Doubles], Doubles]]:
        return scaled_BCF @ weight_F, lambda slope_BC: np.einsum("bc,bcf->f", slope_BC, scaled_BCF)

    weight_F = _likeliest(scores, default_F * spread_F, default_F * spread_F, short, hit_BC, penalty) / spread_F
    return dict(zip(names, weight_F.tolist(), strict=True))


def _learned_network(
    short: Shortlist, target_B: Ints, weights: dict[SignalName, float], penalty: float, seed: int
) -> Network | None:
    """What to add to the sums; none if there is no case to learn from."""
    short, hit_BC = _found(short, target_B)
    if not len(hit_BC):
        return None
    sum_BC = _sums(short, weights)
    spread_F = _spread(short).astype(np.float32)
    input_BCI = _inputs(short, spread_F)
    inputs = input_BCI.shape[2]
    shapes = (inputs, HIDDEN), (HIDDEN,), (HIDDEN,)
    ends = np.cumsum([np.prod(shape) for shape in shapes])[:-1]

    def parts(flat: Doubles) -> list[Floats]:
        return [
            each.reshape(shape).astype(np.float32) for each, shape in zip(np.split(flat, ends), shapes, strict=True)
        ]

    def scores(flat: Doubles) -> tuple[Doubles, Callable[[Doubles], Doubles]]:
        inner_IH, bias_H, outer_H = parts(flat)
        hidden_BCH = np.tanh(input_BCI @ inner_IH + bias_H)

        def back(slope_BC: Doubles) -> Doubles:
            slope_BC = slope_BC.astype(np.float32)
            slope_BCH = slope_BC[..., None] * outer_H * (1 - hidden_BCH**2)
            of_inner_IH = np.tensordot(input_BCI, slope_BCH, axes=([0, 1], [0, 1]))
            of_outer_H = np.tensordot(slope_BC, hidden_BCH, axes=([0, 1], [0, 1]))
            return np.concatenate([of_inner_IH.ravel(), slope_BCH.sum(axis=(0, 1)), of_outer_H], dtype=np.float64)

        return sum_BC + hidden_BCH @ outer_H, back

    learned = []
    for rng in np.random.default_rng(seed).spawn(NETWORKS):
        drawn_IH = rng.normal(scale=inputs**-0.5, size=shapes[0])
        start = np.concatenate([drawn_IH.ravel(), np.zeros(2 * HIDDEN)])
        inner_IH, bias_H, outer_H = parts(_likeliest(scores, start, np.zeros_like(start), short, hit_BC, penalty))
        learned.append((inner_IH, bias_H, outer_H / np.float32(NETWORKS)))
    return Network(spread_F, *(np.concatenate(each, axis=-1) for each in zip(*learned, strict=True)))


def _likeliest(
    scores: Callable[[Doubles], tuple[Doubles, Callable[[Doubles], Doubles]]],
    start: Doubles,
    pulled_to: Doubles,
    short: Shortlist,
    hit_BC: Bools,
    penalty: float,
) -> Doubles:
    """Parameters under which the hits are likeliest. `scores`: of the parameters, [B,C], and the way back to them."""
    padding_BC = np.where(short.items_BC == PAD, -np.inf, 0.0)

    def loss(parameters: Doubles) -> tuple[float, Doubles]:
        score_BC, back = scores(parameters)
        score_BC = score_BC + padding_BC
        away = parameters - pulled_to
        value = -log_softmax(score_BC, axis=1)[hit_BC].sum() + penalty * (away**2).sum()
        return float(value), back(softmax(score_BC, axis=1) - hit_BC) + 2 * penalty * away

    found: Doubles = minimize(loss, start, jac=True, method="L-BFGS-B", options={"maxiter": STEPS}).x
    return found


def _sums(short: Shortlist, weights: dict[SignalName, float]) -> Floats:
    sum_BC: Floats = short.signals_BCF @ np.array(list(weights.values()), np.float32)
    return sum_BC


def _inputs(short: Shortlist, spread_F: Floats) -> Floats:
    """[B,C,4F]: each signal in spreads, its distances to the list's mean and best, and 1 / its rank. 0 of padding."""
    padding_BC1 = (short.items_BC == PAD)[..., None]
    scaled_BCF = np.where(padding_BC1, 0, short.signals_BCF / spread_F).astype(np.float32)
    items_B11 = (~padding_BC1).sum(axis=1, keepdims=True).clip(min=1)
    mean_B1F = scaled_BCF.sum(axis=1, keepdims=True) / items_B11
    best_B1F = np.where(padding_BC1, -np.inf, scaled_BCF).max(axis=1, keepdims=True)
    rank_BCF = rankdata(np.where(padding_BC1, np.inf, -scaled_BCF), method="min", axis=1)
    parts = scaled_BCF, scaled_BCF - mean_B1F, scaled_BCF - best_B1F, 1 / rank_BCF
    return np.where(padding_BC1, 0, np.concatenate(parts, axis=2)).astype(np.float32)


def _found(short: Shortlist, target_B: Ints) -> tuple[Shortlist, Bools]:
    """The cases whose target is on the shortlist, and where."""
    hit_BC = short.items_BC == target_B[:, None]
    found_B = hit_BC.any(axis=1)
    return short.of(found_B), hit_BC[found_B]


def _spread(short: Shortlist) -> Doubles:
    """Standard deviation of each signal, [F]; 1 of no item."""
    signals_XF = short.signals_BCF[short.items_BC != PAD].astype(np.float64)
    spread_F: Doubles = np.maximum(signals_XF.std(axis=0), 1e-9) if len(signals_XF) else np.ones(signals_XF.shape[1])
    return spread_F
