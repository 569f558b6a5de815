"""How fast training is, and what share of the device's arithmetic it uses (MFU, Chowdhery et al. 2022).

Shapes: R packed rows, P positions, M labels.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from model.config import Normalisation
from model.recommender.backbone import Subject
from model.recommender.objective import MicroBatch

BF16_FLOPS = {"H200": 989e12, "H100": 989e12, "A100": 312e12, "L40S": 362e12, "A10": 125e12, "L4": 121e12}
"""Dense bfloat16 of the makers' data sheets, by a part of the device's name."""
MEASURED_SIZE = 1024


def peak_flops(device: torch.device, dtype: torch.dtype = torch.float32) -> float:
    """Operations a second, floating point: a known GPU's data sheet, else what a large product of `dtype` reaches."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else ""
    known = [flops for part, flops in BF16_FLOPS.items() if part in name]
    if known:
        return known[0]
    matrix = torch.ones(MEASURED_SIZE, MEASURED_SIZE, device=device, dtype=dtype)
    seconds = []
    for _ in range(5):
        started = time.perf_counter()
        (matrix @ matrix).sum().item()
        seconds.append(time.perf_counter() - started)
    return float(2 * MEASURED_SIZE**3 / min(seconds))


class Cost:
    """Floating point operations of training on a micro-batch: two for each weight and token forward, as many backward
    to the inputs, and as many again to weights that learn; attention and the head's rows come on top.
    """

    def __init__(self, subject: Subject, normalisation: Normalisation) -> None:
        shape: Any = subject.model.config
        body = (module for module in subject.model.base_model.modules() if isinstance(module, nn.Linear))
        self._weights = sum(module.weight.numel() for module in body)
        self._passes = 3 if subject.adapted is None else 2
        self._attention = 2 * shape.num_hidden_layers * shape.hidden_size
        head_rows = subject.vocabulary.token_ids_LK.shape[1] if normalisation == "level" else shape.vocab_size
        self._code_label, self._text_label = head_rows * shape.hidden_size, shape.vocab_size * shape.hidden_size

    def of(self, batch: MicroBatch) -> float:
        read = int((batch.position_RP + 1)[batch.block_RP > 0].sum())
        text, *codes = batch.kind_sizes
        head = self._text_label * text + self._code_label * sum(codes)
        return float(2 * self._passes * (self._weights * batch.tokens + self._attention * read) + 6 * head)


@dataclass
class Speed:
    """Running totals of one process."""

    peak: float
    tokens: int = 0
    flops: float = 0.0
    waited: float = 0.0
    started: float = field(default_factory=time.perf_counter)
    away: float = 0.0
    """Seconds that went into validation and checkpoints."""
    refreshing: float = 0.0
    """Seconds that went into renewing a dynamic index."""

    @property
    def seconds(self) -> float:
        return max(time.perf_counter() - self.started - self.away, 1e-9)

    @contextmanager
    def paused(self) -> Iterator[None]:
        left = time.perf_counter()
        yield
        self.away += time.perf_counter() - left

    def figures(self) -> dict[str, float]:
        return {
            "tokens_per_second": self.tokens / self.seconds,
            "mfu": self.flops / self.seconds / self.peak,
            "data_wait": self.waited / self.seconds,
            "refresh_share": self.refreshing / self.seconds,
        }

    def note(self) -> str:
        found = self.figures()
        return (
            f"{found['tokens_per_second']:,.0f} tokens/s, MFU {found['mfu']:.1%}, "
            f"waits for data {found['data_wait']:.1%}"
        )
