"""The learning rate over a training run."""

from __future__ import annotations

import math
from collections.abc import Callable


def warmup_cosine(steps: int, warmup_share: float) -> Callable[[int], float]:
    """The share of the learning rate at each step: a straight line up to 1, then half a cosine down to 0."""
    warmup = max(1, round(warmup_share * steps))

    def share(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))

    return share
