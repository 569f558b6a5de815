"""What the trainer reads: micro-batches of the mixture, each a function of (seed, epoch, shard, number) alone.

Shapes: B cases, E examples of negative tasks, N items, S code strings, H history items.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice

import numpy as np

from model.config import FinetuneConfig, ModelConfig
from model.data.reader import read_batches, steps_per_epoch
from model.data.targets import read_windows, user_numbers
from model.recommender.cases import Cases, Negatives, Windows, draw_cases, one_target
from model.recommender.dynamic_index import DynamicIndex
from model.recommender.examples import Examples
from model.recommender.methods.base import PAD, Ints
from model.recommender.rows import Batch, Rows, Strings
from model.recommender.tasks import OF_QUERY, TASKS, Slot, Task
from model.recommender.users import Buyers, Views, read_prefixes

SAMPLED_BATCHES = 64
"""Of windows, for how popular items are: the training set grows with the users, this must not."""
NEGATIVE_SHARE = 1 / 3
"""Of a micro-batch's tokens, at most."""


class Batches:
    """Draws the examples of the mixture for each batch of windows, and packs them."""

    def __init__(self, training_set: str, examples: Examples, negatives: Negatives, config: ModelConfig) -> None:
        self._sequences = f"{training_set}/sequences"
        self._examples, self._negatives, self._config = examples, negatives, config
        self.tasks = tasks_of(config.finetune)
        named = any(task.uses({Slot.BUYERS}) for task in self.tasks)
        self._buyers = Buyers(read_prefixes(training_set, config.history_items)) if named else None
        self._views: Views | None = None

    def recode(self, index: DynamicIndex) -> None:
        """Codes are the index's now, in prompts, labels and among negatives, and code strings stand for them."""
        self._examples.recode(index.codes_NL, index.users)
        self._negatives = self._negatives.recoded(index.codes_NL)
        self._views = index.views

    def per_shard(self, shards: int) -> int:
        """Micro-batches of a shard in an epoch, the same for all."""
        return steps_per_epoch(self._sequences, self._config.finetune.batch_size, shards)

    def read(self, epoch: int, shard: int, shards: int, skip: int = 0) -> Iterator[Batch]:
        """An epoch's micro-batches of one shard, without the first `skip`."""
        for _, windows, rng in read_drawn(self._sequences, self._config.finetune, epoch, shard, shards, skip):
            yield self.batch(windows, rng)

    def batch(self, windows: Windows, rng: np.random.Generator) -> Batch:
        recipe = self._config.finetune
        rows_of_task = [
            self._rows(task, int(recipe.mixture[task.name] * len(windows.items_BT) + rng.random()), windows, rng)
            for task in self.tasks
        ]
        strings = self._strings(windows, rng)
        batch = self._examples.pack(_with_few_negatives(self.tasks, rows_of_task, rng), recipe.row_tokens, strings)
        if not batch.tokens:
            raise ValueError(
                "A micro-batch has no example of any task. Raise finetune.batch_size or the shares of finetune.mixture."
            )
        return batch

    def _rows(self, task: Task, count: int, windows: Windows, rng: np.random.Generator) -> list[Rows]:
        config, items = self._config, self._examples.items
        cases = draw_cases(task, count, windows, self._negatives, items, config.history_items, rng, self._buyers)
        cases = self._answerable(task, cases)
        wording_B = rng.integers(len(task.templates), size=len(cases))
        return [
            self._examples.rows(template, cases.where(wording_B == number))
            for number, template in enumerate(task.templates)
            if (wording_B == number).any()
        ]

    def _strings(self, windows: Windows, rng: np.random.Generator) -> Strings | None:
        """Items drawn at random, and the windows' users as they were before a target."""
        if self._views is None:
            return None
        items = len(self._views.text_NE)
        item_S = rng.choice(items, min(self._config.ttds.strings, items), replace=False)  # each has to be told apart
        _, history_BH, _ = one_target(windows, self._config.history_items, rng)
        known_B = (history_BH != PAD).any(1)
        return self._examples.strings(self._views, item_S, history_BH[known_B][: self._config.ttds.strings])

    def _answerable(self, task: Task, cases: Cases) -> Cases:
        """Without the cases whose text has no key term to ask for or to tell."""
        terms = self._examples.terms
        if not task.uses(OF_QUERY) or terms is None:
            return cases
        terms_BQ = terms.interests(cases.history_BH) if task.uses({Slot.INTERESTS}) else terms.query_NQ[cases.item_B]
        return cases.where((terms_BQ != PAD).any(1))


def read_drawn(
    sequences: str, recipe: FinetuneConfig, epoch: int, shard: int, shards: int, skip: int
) -> Iterator[tuple[int, Windows, np.random.Generator]]:
    """Number, windows and chance of each of an epoch's micro-batches of one shard, without the first `skip`."""
    batches = read_batches(
        sequences,
        ["items", "targets", "later", "user_id"],
        recipe.batch_size,
        seed=recipe.seed,
        epoch=epoch,
        rank=shard,
        world_size=shards,
        max_batches=steps_per_epoch(sequences, recipe.batch_size, shards),
    )
    for number, rows in enumerate(batches):
        if number >= skip:
            rng = np.random.default_rng([recipe.seed, epoch, shard, number])
            windows = Windows(rows["items"], rows["targets"], rows["later"], user_numbers(rows["user_id"]))
            yield number, windows.thinned(recipe.item_dropout, rng) if recipe.item_dropout else windows, rng


def tasks_of(recipe: FinetuneConfig) -> list[Task]:
    """The mixture's tasks, in the registry's order. ValueError when there is none."""
    tasks = [task for name, task in TASKS.items() if recipe.mixture.get(name, 0) > 0]
    if not tasks:
        raise ValueError("finetune.mixture has no task with a share above 0: nothing to train on.")
    return tasks


def negatives_of(training_set: str, codes_NL: Ints, examples: Examples) -> Negatives:
    """Negatives by the popularity among a bounded sample of windows. Items of one title or query, as read, are alike.

    `examples` with titles and key terms.
    """
    count_N = np.zeros(len(codes_NL), np.int64)
    for _, item_BT, wanted_BT in islice(read_windows(training_set), SAMPLED_BATCHES):
        count_N += np.bincount(item_BT[wanted_BT], minlength=len(count_N))
    assert examples.terms is not None
    alike = [_alike(examples.titles_NX), _alike(np.sort(examples.terms.query_NQ, axis=1))]
    return Negatives(count_N, codes_NL[:, 0], np.column_stack(alike))


def _alike(text_NX: Ints) -> Ints:
    """A number [N] that rows have in common when they are equal; a row of padding alone is equal to none."""
    number_N = np.unique(text_NX, axis=0, return_inverse=True)[1].ravel()
    return np.where((text_NX == PAD).all(1), -1 - np.arange(len(text_NX)), number_N)


def _with_few_negatives(
    tasks: Sequence[Task], rows_of_task: list[list[Rows]], rng: np.random.Generator
) -> list[list[Rows]]:
    """Without so many of the negative tasks' examples, drawn from all of them, that the others have their share."""
    lengths = [each.lengths for task, rows in zip(tasks, rows_of_task, strict=True) if task.others for each in rows]
    length_E = np.concatenate([np.empty(0, np.int64), *lengths])
    others = sum(int(each.lengths.sum()) for rows in rows_of_task for each in rows) - int(length_E.sum())
    most = NEGATIVE_SHARE / (1 - NEGATIVE_SHARE) * others
    if length_E.sum() <= most or others == 0:  # a mixture of negatives alone is somebody's wish
        return rows_of_task
    order_E = rng.permutation(len(length_E))
    kept_E = np.empty(len(length_E), bool)
    kept_E[order_E] = np.cumsum(length_E[order_E]) <= most
    kept = iter(np.split(kept_E, np.cumsum([len(each) for each in lengths])))
    return [
        [each.where(next(kept)) for each in rows] if task.others else rows
        for task, rows in zip(tasks, rows_of_task, strict=True)
    ]
