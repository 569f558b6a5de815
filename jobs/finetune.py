"""Fine-tune the language model on the alignment tasks, in training processes that TorchDistributor starts.

Reads   training_set/<split>, codebook/<split>
Writes  model/<split>: a Hugging Face folder, LoRA merged, with the code tokens in its vocabulary; while it trains,
        checkpoints/<split>, where a killed training goes on when it is run again

    python -m jobs.finetune --ds 2016-10-16 --split all
"""

from __future__ import annotations

import fsspec

from jobs.common.artefacts import commit_trained, descendant, newest, store
from jobs.common.launch import launch
from jobs.common.settings import load_settings
from jobs.common.spark import open_spark
from jobs.common.step import Day, SettingsFile, SplitOption, run
from jobs.common.tracking import log_training, require_mlflow


def main(ds: Day, split: SplitOption, settings_file: SettingsFile = None) -> None:
    settings = load_settings(settings_file)
    training_set = newest(settings, "training_set", split, ds.date(), "build_training_set")
    codebook = descendant(settings, "codebook", split, ds.date(), training_set, "train_tokenizer")
    require_mlflow(settings)
    draft = store(settings, "model", split).begin()
    checkpoints = settings.store_uri("checkpoints", split)
    request = {
        "config": settings.model_json(),
        "inputs": {"training_set": training_set.uri, "codebook": codebook.uri},
        "output": draft.uri,
        "checkpoints": checkpoints,
    }
    with open_spark(settings, "finetune"):
        metrics = launch(settings.training, "model.recommender.train:finetune", request)
    parents = {"training_set": training_set, "codebook": codebook}
    shapes = ("backbone", "finetune", "history_items", "window_items")
    speed = metrics.pop("speed")  # differs from run to run, so no manifest has it
    model = commit_trained(settings, draft, ds.date(), split, metrics, parents, shapes)
    log_training(settings, model.identity, metrics, speed)
    fs, path = fsspec.url_to_fs(checkpoints)
    if fs.exists(path):
        fs.rm(path, recursive=True)


if __name__ == "__main__":
    run(main)
