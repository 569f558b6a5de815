"""What the training loop asks of a method: where its micro-batches come from, and what is learned from them.

Shapes: R packed rows, P positions of a packed row, Y sums of losses.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from model.recommender.methods.base import Ints


class MicroBatch(Protocol):
    """Packed rows as arrays; see `rows.Batch`."""

    ids_RP: Ints
    position_RP: Ints
    block_RP: Ints
    kind_sizes: tuple[int, ...]

    @property
    def tokens(self) -> int: ...
    @property
    def labels(self) -> Ints: ...
    @property
    def tokens_of(self) -> Ints: ...


class Source(Protocol):
    """Where micro-batches come from: the same ones for the same epoch, shard and number of shards."""

    def per_shard(self, shards: int) -> int: ...
    def read(self, epoch: int, shard: int, shards: int, skip: int = 0) -> Iterator[Any]: ...


@dataclass(frozen=True)
class Objective:
    """What is learned: `loss` sums the losses [Y] of a micro-batch on the device, `total` makes them one."""

    names: list[str]
    """Of the Y sums."""
    loss: nn.Module
    on_device: Callable[[Any, torch.device], Any]
    """A micro-batch as `loss` takes it."""
    total: Callable[[Tensor, Tensor], Tensor]
    """(losses [Y], labels [Y]) -> one loss; without a label a sum is 0."""
    changing: float = 0.0
    """Share of the training in which what is learned from still changes: no epoch in it is the best one."""
