"""TTDS, stage one: tokenizer and language model learn together, while the index moves; what it ends with is frozen.

[paper] arXiv 2409.09253: codes for users too, recomputed from the language model's own states while it trains.
Stage two is the usual fine-tuning, which goes on from here with these codes: `model.recommender.train`.

Reads   <training_set>/sequences and items; the behaviour encoder's vectors
Writes  <output>: a codebook's folder, with the users' tower (users/), what is known of its items (views.safetensors)
        and the language model (language_model/) in it

Shapes: N items, V histories, U of them, L levels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from torch import Tensor

from model.config import ModelConfig, model_config
from model.data.files import load_json
from model.data.reader import read_items
from model.processes import Processes, joined
from model.recommender.backbone import PRECOG, Subject, build_backbone, build_subject, load_model, save_model
from model.recommender.checkpoint import kept_index
from model.recommender.dynamic_index import DynamicIndex, Start
from model.recommender.examples import Examples, text_rows
from model.recommender.methods.base import LANGUAGE_MODEL, Floats, Ints
from model.recommender.queries import KeyTerms
from model.recommender.states import text_states
from model.recommender.train import trainer_of, with_user_tasks
from model.recommender.trainer import Trainer, training_key
from model.recommender.users import USERS_FOLDER, VIEWS_FILE, Views, read_prefixes
from model.tokenizer.codebook import Codebook
from model.tokenizer.train import read_behaviour, write_codebook

TOWER_USERS = 20_000
"""Histories, at most, that the users' tower learns from."""


def tokenize(request: dict[str, Any]) -> dict[str, Any]:
    """Train, save, and return the metrics: those of the codebook, and of the training; this process's "speed".

    `request`: {"config": ModelConfig as JSON, "inputs": {"training_set", "behaviour": URIs}, "output": URI of a folder,
    "checkpoints": URI of a folder, optional}.
    Raises ValueError for settings that do not fit together, RuntimeError when the loss is no longer finite.
    """
    with joined() as processes:
        config, inputs = first_stage(model_config(request["config"])), request["inputs"]
        trainer = prepare(config, inputs, processes, request.get("checkpoints"))
        metrics = trainer.run()
        index = trainer.index
        assert index is not None
        metrics["settled"] = index.settle(trainer.subject.model, trainer.loss)
        weights = trainer.checkpoints.weights()
        if processes.first:
            # Into a model of its own: of the one that was trained, a process may hold but its share.
            texts = read_items(f"{inputs['training_set']}/items", ["text"])["text"].to_pylist()
            fresh = _subject(config, texts, index)
            fresh.model.load_state_dict(weights, strict=False)
            output = request["output"]
            save_model(f"{output}/{LANGUAGE_MODEL}", fresh.merged(), fresh.tokenizer, fresh.vocabulary, config)
            metrics |= _save(index, inputs, output)
        processes.sums(0.0)  # wait for the first one's files
        return metrics | {"speed": trainer.speed.figures()}


def prepare(
    config: ModelConfig, inputs: dict[str, str], processes: Processes, checkpoints: str | None = None
) -> Trainer:
    """Everything that a training needs, up to its first step or, with a checkpoint, the next. ValueError as above.

    `config`: of the first stage.
    """
    kept = None
    if checkpoints and config.finetune.checkpoint_steps:
        kept = kept_index(checkpoints, training_key(config, inputs, processes))
    index, subject, examples = _begin(config, inputs, processes, kept)
    return trainer_of(config, inputs, subject, examples, index.codes_NL, processes, checkpoints, index)


def first_stage(config: ModelConfig) -> ModelConfig:
    """The settings of the training that moves the index: users' tasks too, and no epoch is put before a later one."""
    tokenizer = replace(config.tokenizer, kind="dual_autoencoder")
    finetune = replace(with_user_tasks(config).finetune, epochs=config.ttds.epochs, patience=0)
    return replace(config, tokenizer=tokenizer, finetune=finetune)


def item_states(codebook: str, texts: Sequence[str]) -> Floats:
    """States [N,H] of later items' texts, as the language model in a codebook's folder (URI) reads them."""
    folder = f"{codebook}/{LANGUAGE_MODEL}"
    row_tokens = load_json(f"{folder}/{PRECOG}")["config"]["finetune"]["row_tokens"]
    model, tokenizer, _ = load_model(folder)
    return text_states(model, text_rows(tokenizer, texts), row_tokens)


def _begin(
    config: ModelConfig, inputs: dict[str, str], processes: Processes, kept: dict[str, Tensor] | None
) -> tuple[DynamicIndex, Subject, Examples]:
    """The towers are `kept`, those of a checkpoint, or fitted to the states of the model before its first step."""
    items = read_items(f"{inputs['training_set']}/items", ["item_id", "title", "text"])
    item_ids, titles, texts = (items[name].to_pylist() for name in ("item_id", "title", "text"))
    model, tokenizer = build_backbone(config.backbone, texts, config.finetune.seed)
    text_NX = text_rows(tokenizer, texts)
    history_UH = _histories(config, inputs["training_set"])
    behaviour = read_behaviour(inputs, item_ids)
    if kept is None:
        state_NH = text_states(model.to(processes.device), text_NX, config.finetune.row_tokens, processes)  # type: ignore[arg-type]
        start = _fitted(config, item_ids, text_NX, Views(state_NH, *behaviour), history_UH)
    else:
        start = Start.kept(config, kept, text_NX, behaviour, history_UH)
    index = DynamicIndex(config, start, processes)
    subject = _subject(config, texts, index)
    examples = Examples(subject.tokenizer, subject.vocabulary, index.codes_NL, titles, texts, KeyTerms.of(texts))
    return index, subject, examples


def _subject(config: ModelConfig, texts: Sequence[str], index: DynamicIndex) -> Subject:
    """A model that has not learned; its code tokens start as the centroids of their towers."""
    centroids = {name: tower.frozen().centroids_LKZ for name, tower in index.towers.items()}
    return build_subject(config, texts, centroids["items"], centroids.get("users"))


def _fitted(config: ModelConfig, item_ids: Sequence[str], text_NX: Ints, views: Views, history_UH: Ints) -> Start:
    of_items = Codebook.train(config.tokenizer, item_ids, *views)
    codes_NL = of_items.assign(item_ids, of_items.inputs(*views), np.empty((0, config.tokenizer.levels), np.int64))
    of_users = None
    if len(history_UH):
        rows = [str(row) for row in range(len(history_UH))]
        of_users = Codebook.train(config.tokenizer, rows, *views.of_histories(history_UH))
    return Start(text_NX, views, of_items, of_users, history_UH, codes_NL)


def _histories(config: ModelConfig, training_set: str) -> Ints:
    """Those that the users' tower learns from, drawn from the training set's; none where users have no part."""
    history_VH = read_prefixes(training_set, config.history_items).history_VH
    if not config.ttds.mixture:
        return history_VH[:0]
    if not len(history_VH):
        raise ValueError("No target has an item before it: users have no history to be known by. Empty ttds.mixture.")
    rng = np.random.default_rng(config.finetune.seed)
    return history_VH[np.sort(rng.choice(len(history_VH), min(TOWER_USERS, len(history_VH)), replace=False))]


def _save(index: DynamicIndex, inputs: dict[str, str], output: str) -> dict[str, Any]:
    """Write the codebook's folder; returns its health figures."""
    items = index.towers["items"]
    known = items.x_NP, index.codes_NL, index.views.has_behaviour_N
    figures = write_codebook(output, items.frozen(), inputs["training_set"], *known)
    index.views.save(f"{output}/{VIEWS_FILE}")
    if index.users is not None:
        index.users.tower.save(f"{output}/{USERS_FOLDER}")
    return figures
