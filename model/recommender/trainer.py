"""The training loop: plain PyTorch.

The recipe is LC-Rec's [code]: AdamW, warm-up, cosine, the loss on responses only. One pass over a window predicts every
target position in it [ours]. All that is random is drawn anew for each micro-batch from (seed, epoch, shard, number).
On a CPU one request gives the same weights, killed and resumed or not; as many shards do on any number of processes
(but RSLLM's, whose negatives are the targets of all of them).

With a dynamic index [paper: TTDS] the codes of items and users are renewed between two steps, and batches are read
ahead no further than to there.

Shapes: Y sums of losses: of each task, then of each further term.
"""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import asdict
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from transformers import PreTrainedModel

from model.config import FinetuneConfig, ModelConfig
from model.data.prefetch import Prefetched
from model.generation import digest
from model.processes import Processes, products
from model.progress import Progress
from model.recommender.backbone import Subject
from model.recommender.checkpoint import Checkpoints, Position, whole
from model.recommender.dynamic_index import DynamicIndex, renewal_steps
from model.recommender.objective import MicroBatch, Objective, Source
from model.recommender.speed import Cost, Speed, peak_flops
from model.recommender.validation import Validation
from model.schedule import warmup_cosine

log = logging.getLogger("finetune")


class Micro(NamedTuple):
    """A micro-batch and where it comes from."""

    shard: int
    number: int
    batch: MicroBatch


class Trainer:
    """The loop, and how far it has come."""

    def __init__(
        self,
        config: ModelConfig,
        inputs: dict[str, str],
        subject: Subject,
        batches: Source,
        objective: Objective,
        validation: Validation,
        processes: Processes,
        checkpoints: str | None,
        index: DynamicIndex | None = None,
    ) -> None:
        recipe, model = config.finetune, subject.model
        self.recipe, self.subject, self.batches, self.validation = recipe, subject, batches, validation
        self.objective, self.names, self.index = objective, objective.names, index
        self.processes, self.shards = processes, _shards(recipe, processes)
        self.own_shards = range(processes.rank, self.shards, processes.world_size)
        self.micro_batches = batches.per_shard(self.shards) * len(self.own_shards)
        """Of an epoch, for each process."""
        self.steps = recipe.epochs * -(-self.micro_batches // recipe.accumulation)
        self.renewals = renewal_steps(config.ttds.renewals, self.steps) if index is not None else []
        layers: Any = getattr(model.base_model, "layers", ())
        sharded = recipe.parallel == "fsdp"
        self.loss = processes.shard(objective.loss, layers) if sharded else processes.wrap(objective.loss)
        if recipe.compile:
            _compile(model)
        self.optimizer = _optimizer(model, recipe)
        self.products = products(recipe.precision, processes.device)
        self.speed = Speed(peak_flops(processes.device, self.products))
        self.cost = Cost(subject, recipe.normalisation)
        self.save_every = recipe.checkpoint_steps if checkpoints else 0
        key = training_key(config, inputs, processes)
        self.checkpoints = Checkpoints(checkpoints or "", key, model, self.optimizer, processes, index)
        restored = self.checkpoints.restore() if self.save_every else None
        self.position, self.best = (Position(), {}) if restored is None else restored

    def run(self) -> dict[str, Any]:
        """Train to the end; returns the metrics. The model then has the best epoch's weights."""
        position, recipe = self.position, self.recipe
        learning_rate = warmup_cosine(self.steps, recipe.warmup_share)
        progress = Progress("finetune", self.steps, done=position.step)
        while position.epoch < recipe.epochs and not self._given_up():
            self.subject.model.train()
            stream = self._micros()
            while position.micro < self.micro_batches:
                self._refresh_if_due()
                ahead = Prefetched(islice(stream, self._next_stop() - position.micro))
                waited = self.speed.waited
                for micro_batches in _in_steps(iter(ahead), recipe.accumulation):
                    sums_3Y = self._step(micro_batches, recipe.learning_rate * learning_rate(position.step))
                    position.sums = (np.array(position.sums or np.zeros_like(sums_3Y)) + sums_3Y).tolist()
                    position.step += 1
                    position.micro += len(micro_batches)
                    self.speed.waited = waited + ahead.waited
                    progress.advance(note=self._note(sums_3Y))
                    if self.save_every and position.step % self.save_every == 0:
                        with self.speed.paused():
                            self.checkpoints.save(position, self.best)
            with self.speed.paused():
                self._finish_epoch()
        progress.close()
        if position.epoch < recipe.epochs and self.processes.first:
            log.info(
                "stopped after epoch %d of %d: NDCG@10 on the validation cases was best after epoch %d, which is kept",
                position.epoch,
                recipe.epochs,
                position.best + 1,
            )
        if self.best:
            self.checkpoints.put(self.best)
        return self._metrics()

    def _refresh_if_due(self) -> None:
        if self.index is not None and self.position.step in self.renewals:
            started = time.perf_counter()
            self.index.refresh(self.subject.model, self.loss, self.position.step)
            self.speed.refreshing += time.perf_counter() - started
            if self.processes.first:
                log.info("index renewed: %s", ", ".join(f"{k} {v:g}" for k, v in self.index.churn[-1].items()))

    def _next_stop(self) -> int:
        """Micro-batches of this epoch until the index is renewed: none after it may be read before."""
        step = next((each for each in self.renewals if each > self.position.step), self.steps)
        return min(self.micro_batches, self.position.micro + (step - self.position.step) * self.recipe.accumulation)

    def _micros(self) -> Iterator[Micro]:
        """This epoch's micro-batches from where we are, from this process's shards in turn; made when asked for."""
        own, epoch, done = self.own_shards, self.position.epoch, self.position.micro
        first = {shard: len(range(place, done, len(own))) for place, shard in enumerate(own)}
        streams = {shard: self.batches.read(epoch, shard, self.shards, skip=first[shard]) for shard in own}
        for micro in range(done, self.micro_batches):
            number, place = divmod(micro, len(own))
            yield Micro(own[place], number, next(streams[own[place]]))

    def _step(self, micro_batches: tuple[Micro, ...], learning_rate: float) -> np.ndarray:
        """One step of the optimiser; returns the sums [3Y] over it: losses, labels and tokens of each task."""
        sums_3Y = np.zeros((3, len(self.names)))
        for place, micro in enumerate(micro_batches):
            last = place == len(micro_batches) - 1
            with self._without_exchange() if not last else nullcontext():
                losses_Y = self._backward(micro, 1 / len(micro_batches))
            sums_3Y += [losses_Y, micro.batch.labels, micro.batch.tokens_of]
            self.speed.tokens += micro.batch.tokens
            self.speed.flops += self.cost.of(micro.batch)
        norm = whole(nn.utils.clip_grad_norm_(self.subject.model.parameters(), self.recipe.max_grad_norm))
        if not torch.isfinite(norm):
            raise RuntimeError(self._no_number(micro_batches, sums_3Y))
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        self.optimizer.step()
        self.optimizer.zero_grad()
        if self.index is not None:
            self.index.step(self.position.step)
        return sums_3Y

    def _backward(self, micro: Micro, share: float) -> np.ndarray:
        device = self.processes.device
        # Dropout is this micro-batch's own, wherever and whenever it is trained on.
        torch.manual_seed(_drawn_seed(self.recipe.seed, self.position.epoch, micro.shard, micro.number))
        with torch.autocast(device.type, torch.bfloat16, enabled=self.products is torch.bfloat16):
            losses_Y = self.loss(self.objective.on_device(micro.batch, device))
        labels_Y = torch.from_numpy(micro.batch.labels).to(device)
        (share * self.objective.total(losses_Y, labels_Y)).backward()
        return np.asarray(losses_Y.detach().double().cpu())

    def _without_exchange(self) -> Any:
        """Gradients stay in their process: those of the step's last micro-batch take them along."""
        if isinstance(self.loss, DistributedDataParallel):
            return self.loss.no_sync()
        return nullcontext()

    def _finish_epoch(self) -> None:
        position = self.position
        losses_Y, labels_Y, tokens_Y = np.reshape(self.processes.sums(*np.ravel(position.sums)), (3, -1))
        position.loss.append((losses_Y / np.maximum(labels_Y, 1)).tolist())
        position.tokens.append(tokens_Y.tolist())
        position.epoch, position.micro, position.sums = position.epoch + 1, 0, []
        if self.index is not None:
            position.towers.append(self.index.close_epoch())
        if self.validation.cases and self.recipe.patience:
            ndcg, error = self.processes.means(*self.validation.score(self.loss))
            position.ndcg.append(ndcg)
            changing = position.epoch <= self.objective.changing * self.recipe.epochs
            # A later epoch has learned more: among scores that so few cases cannot tell apart it is the better bet.
            if changing or ndcg >= position.ndcg[position.best] - error:
                position.best, self.best = len(position.ndcg) - 1, self.checkpoints.weights()
        if self.processes.first:
            log.info("epoch %d: %s", position.epoch, self._told())

    def _given_up(self) -> bool:
        since_best = len(self.position.ndcg) - 1 - self.position.best
        return bool(self.position.ndcg) and since_best >= self.recipe.patience

    def _metrics(self) -> dict[str, Any]:
        tokens_Y = np.sum(self.position.tokens, axis=0)
        parameters = list(self.subject.model.parameters())
        metrics = {
            "parameters": sum(each.numel() for each in parameters),
            "trained_parameters": sum(each.numel() for each in parameters if each.requires_grad),
            "steps": self.position.step,
            "loss": {name: [epoch[i] for epoch in self.position.loss] for i, name in enumerate(self.names)},
            "token_share": dict(zip(self.names, (tokens_Y / tokens_Y.sum()).tolist(), strict=True)),
            "validation_ndcg10": self.position.ndcg,
            "best_epoch": self.position.best + 1 if self.position.ndcg else self.position.epoch,
        }
        if self.index is not None:
            metrics |= {"towers": self.position.towers, "renewals": list(self.index.churn)}
        return metrics

    def _note(self, sums_3Y: np.ndarray) -> str:
        losses_Y, labels_Y, _ = sums_3Y
        return f"loss {losses_Y.sum() / max(labels_Y.sum(), 1):.3f}, {self.speed.note()}"

    def _told(self) -> str:
        position = self.position
        shares_Y = np.array(position.tokens[-1]) / sum(position.tokens[-1])
        by_task = zip(self.names, position.loss[-1], shares_Y, strict=True)
        losses = ", ".join(f"{name} {loss:.3f} ({share:.0%})" for name, loss, share in by_task)
        ndcg = f"; validation NDCG@10 {position.ndcg[-1]:.4f}" if position.ndcg else ""
        of_towers = position.towers[-1] if position.towers else {}
        towers = "".join(f", {name} {mean:.3f}" for name, mean in of_towers.items())
        return f"loss (share of tokens) {losses}{towers}{ndcg}; {self.speed.note()}"

    def _no_number(self, micro_batches: tuple[Micro, ...], sums_3Y: np.ndarray) -> str:
        where = ", ".join(f"batch {micro.number} of shard {micro.shard}" for micro in micro_batches)
        means = (sums_3Y[0] / np.maximum(sums_3Y[1], 1)).round(3).tolist()
        return (
            f"The gradient is no number in epoch {self.position.epoch + 1}, step {self.position.step + 1}: {where}, "
            f"seed {self.recipe.seed}, losses {dict(zip(self.names, means, strict=True))}. Lower "
            "finetune.learning_rate or raise finetune.warmup_share; if only one batch does it, look at its rows."
        )


def training_key(config: ModelConfig, inputs: dict[str, str], processes: Processes) -> str:
    """Under which its checkpoints stand: what would make another training has another key."""
    settings = asdict(config)
    del settings["fusion"]
    if not config.finetune.patience:  # only what validates decodes
        del settings["decoding"]
    return digest([settings, inputs, _shards(config.finetune, processes)])


def _shards(recipe: FinetuneConfig, processes: Processes) -> int:
    shards = max(recipe.shards, processes.world_size)
    if shards % processes.world_size:
        raise ValueError(
            f"finetune.shards = {recipe.shards} cannot be dealt out to {processes.world_size} processes. Give a "
            "multiple of them."
        )
    return shards


def _in_steps(micros: Iterator[Micro], accumulation: int) -> Iterator[tuple[Micro, ...]]:
    while step := tuple(islice(micros, accumulation)):
        yield step


def _drawn_seed(*entropy: int) -> int:
    return int(np.random.SeedSequence(entropy).generate_state(1)[0])


def _compile(model: PreTrainedModel) -> None:
    """Compile the layers in place; without a C++ compiler they stay as they are, with a message."""
    if shutil.which("c++") is None and shutil.which("g++") is None:
        log.warning("finetune.compile: there is no C++ compiler, training goes on without")
        return
    model.base_model.compile(dynamic=True)


def _optimizer(model: PreTrainedModel, recipe: FinetuneConfig) -> torch.optim.Optimizer:
    """AdamW without decay on the norms."""
    trained = [each for each in model.parameters() if each.requires_grad]
    groups = [
        {"params": [each for each in trained if each.ndim > 1], "weight_decay": recipe.weight_decay},
        {"params": [each for each in trained if each.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=recipe.learning_rate, betas=(0.9, 0.98), fused=True)
