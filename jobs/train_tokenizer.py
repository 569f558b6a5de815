"""Train the item tokenizer: one code (u, v, x, y) for every item of the training set, each code for one item.

For method = "ttds" the language model is trained with it, while the codes move: the first of its two stages.

Reads   training_set/<split>, behaviour/<split> and the items' text vectors in it
Writes  codebook/<split>: the frozen codebooks, the items' codes, the health figures; for ttds also the users' tower and
        the language model, and while it trains checkpoints/<split>, where a killed training goes on

    python -m jobs.train_tokenizer --ds 2016-10-16 --split all
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from jobs.common.artefacts import code_files, commit_trained, descendant, newest, remove, store
from jobs.common.launch import launch
from jobs.common.settings import load_settings
from jobs.common.spark import open_spark
from jobs.common.step import Day, SettingsFile, SplitOption, run
from model.data.files import ITEMS_FILE, TEXT_VECTORS_FILE
from model.recommender.ttds import first_stage
from model.tokenizer.health import churn
from model.tokenizer.train import train_tokenizer


def main(ds: Day, split: SplitOption, settings_file: SettingsFile = None) -> None:
    settings = load_settings(settings_file)
    if settings.method == "ttds":  # the manifest says what the stage was trained with
        settings = settings.model_copy(update={"model": first_stage(settings.model)})
    training_set = newest(settings, "training_set", split, ds.date(), "build_training_set")
    behaviour = descendant(settings, "behaviour", split, ds.date(), training_set, "train_behaviour")
    if behaviour.manifest.settings.get("text_encoder") != settings.model_json()["text_encoder"]:
        raise ValueError(
            f"{behaviour.identity} has no text vectors of the encoder that model.text_encoder names now. "
            f"Run: python -m jobs.train_behaviour --ds {ds.date()} --split {split}"
        )
    codebooks = store(settings, "codebook", split)
    previous = codebooks.latest()
    draft = codebooks.begin()
    checkpoints = settings.store_uri("checkpoints", split)
    request = {
        "config": settings.model_json(),
        "inputs": {
            "training_set": training_set.uri,
            "behaviour": behaviour.uri,
            "text_vectors": behaviour.path(TEXT_VECTORS_FILE),
        },
        "output": draft.uri,
        "checkpoints": checkpoints,
    }
    shapes: tuple[str, ...] = ("text_encoder", "tokenizer")
    if settings.method == "ttds":
        with open_spark(settings, "train_tokenizer"):
            metrics = launch(settings.training, ("model.recommender.ttds:tokenize", request))
        metrics.pop("speed")  # differs from run to run, so no manifest has it
        shapes += ("backbone", "finetune", "ttds", "history_items", "window_items")
    else:
        metrics = train_tokenizer(request)
    if previous is not None:
        published = code_files(settings, previous)
        metrics["churn"] = {"previous": previous.identity, **churn_since(published, draft.path(ITEMS_FILE))}
    parents = {"training_set": training_set, "behaviour": behaviour}
    commit_trained(settings, draft, ds.date(), split, metrics, parents, shapes)
    remove(checkpoints)


def churn_since(published: list[str], items_file: str) -> dict[str, Any]:
    """What became of the codes that the previous codebook's files give to the same items. Item-sized."""
    before, after = _codes(published), _codes([items_file])
    if before.shape[1] != after.shape[1]:
        return {"items": 0}  # another number of levels: nothing to compare
    both = before.index.intersection(after.index).sort_values()
    return churn(before.loc[both].to_numpy(np.int64), after.loc[both].to_numpy(np.int64))


def _codes(files: list[str]) -> pd.DataFrame:
    rows = pd.concat([pd.read_parquet(file) for file in files]).set_index("item_id")
    return rows[sorted(name for name in rows.columns if name.startswith("code_"))]


if __name__ == "__main__":
    run(main)
