"""Checkpoints of a training: generations, so that a kill leaves the one before; the newest is where training goes on.

safetensors hold the weights that learn, the optimiser's moments and the best weights so far, the manifest the rest.
Weights that FSDP shares among processes are gathered first, so that a checkpoint does not depend on their number.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

import fsspec
import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from model.data.files import load_tensors, save_tensors
from model.generation import GenerationStore, Manifest
from model.processes import Processes
from model.recommender.dynamic_index import DynamicIndex
from model.recommender.towers import MOMENTS, named

FILE, INDEX_FILE = "state.safetensors", "index.safetensors"


@dataclass
class Position:
    """How far a training has come; and what it has found so far, epoch by epoch."""

    epoch: int = 0
    micro: int = 0
    """Micro-batches of this epoch that each process has done."""
    step: int = 0
    sums: list[float] = field(default_factory=list)
    """Of this epoch and this process: losses of each task, then labels, then tokens."""
    loss: list[list[float]] = field(default_factory=list)
    tokens: list[list[float]] = field(default_factory=list)
    ndcg: list[float] = field(default_factory=list)
    best: int = 0
    """Of them: the epoch whose weights are kept."""
    towers: list[dict[str, float]] = field(default_factory=list)
    """Mean terms of a dynamic index's towers."""
    index: dict[str, Any] = field(default_factory=dict)
    """What the index has to say of itself beside its tensors."""


class Checkpoints:
    """Of one model and its optimiser under one key: what would make another training has another key."""

    def __init__(
        self,
        root: str,
        key: str,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        processes: Processes,
        index: DynamicIndex | None = None,
    ) -> None:
        self._index = index
        self._store = GenerationStore(root, key)
        self._optimizer, self._processes = optimizer, processes
        self._trained = {name: each for name, each in model.named_parameters() if each.requires_grad}

    def weights(self) -> dict[str, Tensor]:
        """The weights that learn, whole, on the CPU."""
        return {name: whole(each) for name, each in self._trained.items()}

    def put(self, weights: dict[str, Tensor]) -> None:
        """The way back from `weights`."""
        with torch.no_grad():
            for name, each in self._trained.items():
                each.copy_(_like(weights[name], each))

    def save(self, position: Position, best: dict[str, Tensor]) -> None:
        """Every process takes part; the first one writes, and removes what it replaces."""
        tensors = {f"best.{name}": each for name, each in best.items()}
        for name, each in self._trained.items():
            tensors[f"weight.{name}"] = whole(each)
            for moment in MOMENTS:
                tensors[f"{moment}.{name}"] = whole(self._optimizer.state[each][moment])
        if self._index is not None:
            of_index, position.index = self._index.state()
        total = self._processes.sums(*position.sums)
        if not self._processes.first:
            return
        older = self._store.complete()
        draft = self._store.begin()
        save_tensors(draft.path(FILE), {name: each.numpy() for name, each in tensors.items()})
        if self._index is not None:
            save_tensors(draft.path(INDEX_FILE), {name: each.numpy() for name, each in of_index.items()})
        draft.commit(Manifest(metrics=asdict(position) | {"sums": total}))
        for one in older:
            fs, path = fsspec.url_to_fs(one.uri)
            fs.rm(path, recursive=True)

    def restore(self) -> tuple[Position, dict[str, Tensor]] | None:
        """Put the newest checkpoint into model and optimiser; returns its position and best weights, or None."""
        newest = self._store.latest()
        if newest is None:
            return None
        position = Position(**newest.manifest.metrics)
        if not self._processes.first:
            position.sums = []  # the first one has all processes'
        tensors = _tensors(newest.path(FILE))
        self.put(dict(named(tensors, "weight.")))
        for name, each in self._trained.items():
            moments = {moment: _like(tensors[f"{moment}.{name}"], each) for moment in MOMENTS}
            step = torch.tensor(float(position.step), device=each.device)
            self._optimizer.state[each] = {"step": step, **moments}
        if self._index is not None:
            self._index.load(_tensors(newest.path(INDEX_FILE)), position.index)
        return position, dict(named(tensors, "best."))


def kept_index(root: str, key: str) -> dict[str, Tensor] | None:
    """Tensors of the dynamic index in the newest checkpoint, if there is one."""
    newest = GenerationStore(root, key).latest()
    return None if newest is None else _tensors(newest.path(INDEX_FILE))


def _tensors(uri: str) -> dict[str, Tensor]:
    return {name: torch.from_numpy(each) for name, each in load_tensors(uri).items()}


def whole(tensor: Tensor) -> Tensor:
    """A copy on the CPU; of a tensor that FSDP shares among processes, all of it, and all of them must ask."""
    return (tensor.full_tensor() if isinstance(tensor, DTensor) else tensor).detach().cpu().clone()


def _like(values: Tensor, tensor: Tensor) -> Tensor:
    """Of the same kind, place and device as `tensor`."""
    values = values.to(tensor.device)
    return distribute_tensor(values, tensor.device_mesh, tensor.placements) if isinstance(tensor, DTensor) else values
