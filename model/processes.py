"""The processes that train together: this one alone, or those that torchrun (or Spark's TorchDistributor) started."""

from __future__ import annotations

import gc
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.nn.parallel import DistributedDataParallel

from model.config import Precision


@dataclass(frozen=True)
class Processes:
    rank: int
    world_size: int
    device: torch.device

    @property
    def first(self) -> bool:
        """Whether this process writes the results and shows the progress."""
        return self.rank == 0

    def wrap(self, model: nn.Module) -> nn.Module:
        """The model on this process's device; its gradients become the mean over all. Call the result, not `model`."""
        model.to(self.device)
        # No model of ours learns by its buffers; sparse ones could not be sent.
        return model if self.world_size == 1 else DistributedDataParallel(model, broadcast_buffers=False)

    def shard(self, model: nn.Module, blocks: Iterable[nn.Module]) -> nn.Module:
        """Like `wrap`, but each process keeps only its share of the weights; whole are one block's at a time (FSDP)."""
        model.to(self.device)
        if self.world_size > 1:
            for block in (*blocks, model):
                fully_shard(block)
        return model

    def means(self, *values: float) -> list[float]:
        """Each value's mean over the processes: what they decide by it, they decide alike."""
        return [total / self.world_size for total in self.sums(*values)]

    def sums(self, *values: float) -> list[float]:
        """Each value's sum over the processes."""
        totals = torch.tensor(values, dtype=torch.float64, device=self.device)
        self.add_up(totals)
        return list(totals.tolist())

    def union(self, items: Tensor) -> Tensor:
        """The different ones [U] among all processes' integers, in ascending order, on this process's device."""
        own: Tensor = items.unique()  # type: ignore[no-untyped-call]
        if self.world_size == 1:
            return own
        sizes = own.new_zeros(self.world_size)
        dist.all_gather_into_tensor(sizes, own.new_tensor([len(own)]))
        padded = own.new_zeros(int(sizes.max()))
        padded[: len(own)] = own
        everyone = own.new_zeros(self.world_size * len(padded))
        dist.all_gather_into_tensor(everyone, padded)
        parts = everyone.view(self.world_size, -1)
        all_items = torch.cat([part[:size] for part, size in zip(parts, sizes.tolist(), strict=True)])
        union: Tensor = all_items.unique()  # type: ignore[no-untyped-call]
        return union

    def first_of(self, tensor: Tensor) -> Tensor:
        """The first process's, for all of them; `tensor` has its shape and type everywhere."""
        if self.world_size == 1:
            return tensor
        sent = tensor.to(self.device, copy=True).contiguous()
        dist.broadcast(sent, 0)
        return sent.to(tensor.device)

    def add_up(self, tensor: Tensor) -> None:
        """In place: its sum over the processes, on this process's device."""
        if self.world_size > 1:
            dist.all_reduce(tensor)


@contextmanager
def gathered(wrapped: object) -> Iterator[None]:
    """While the model inside is called directly: what FSDP shares of the embeddings and the head is whole everywhere.

    Layers gather their own. `wrapped` is what `wrap` or `shard` returned.
    """
    if not isinstance(wrapped, FSDPModule):
        yield
        return
    wrapped.unshard()
    yield
    wrapped.reshard()


ALONE = Processes(0, 1, torch.device("cuda" if torch.cuda.is_available() else "cpu"))


def products(precision: Precision, device: torch.device) -> torch.dtype:
    """In which matrix products are made: see `FinetuneConfig.precision`."""
    if precision == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    return torch.bfloat16 if precision == "bfloat16" else torch.float32


@contextmanager
def joined() -> Iterator[Processes]:
    """Join the other processes, by NCCL where there are GPUs and by Gloo elsewhere; leave them at the end.

    Wrap models in a function called inside: one that outlives the group can wait for ever when it is freed.
    """
    gpu = torch.cuda.is_available()
    if not dist.is_torchelastic_launched():
        yield ALONE
        return
    dist.init_process_group("nccl" if gpu else "gloo")
    try:
        device = (
            torch.device("cuda", dist.get_node_local_rank() % torch.cuda.device_count()) if gpu else torch.device("cpu")
        )
        if gpu:
            torch.cuda.set_device(device)
        yield Processes(dist.get_rank(), dist.get_world_size(), device)
    finally:
        gc.collect()
        dist.destroy_process_group()
