"""Fine-tune the language model on the alignment tasks, in training processes that TorchDistributor starts.

Reads   training_set/<split>, codebook/<split>
Writes  model/<split>: a Hugging Face folder, LoRA merged, with the code tokens in its vocabulary

    python -m jobs.finetune --ds 2016-10-16 --split all
"""

from __future__ import annotations

from jobs.common.artefacts import commit_trained, descendant, newest, store
from jobs.common.launch import launch
from jobs.common.settings import load_settings
from jobs.common.spark import open_spark
from jobs.common.step import Day, SettingsFile, SplitOption, run


def main(ds: Day, split: SplitOption, settings_file: SettingsFile = None) -> None:
    settings = load_settings(settings_file)
    training_set = newest(settings, "training_set", split, ds.date(), "build_training_set")
    codebook = descendant(settings, "codebook", split, ds.date(), training_set, "train_tokenizer")
    draft = store(settings, "model", split).begin()
    request = {
        "config": settings.model_json(),
        "inputs": {"training_set": training_set.uri, "codebook": codebook.uri},
        "output": draft.uri,
    }
    with open_spark(settings, "finetune"):
        metrics = launch(settings.training, "model.recommender.train:finetune", request)
    parents = {"training_set": training_set, "codebook": codebook}
    shapes = ("backbone", "finetune", "history_items", "window_items")
    commit_trained(settings, draft, ds.date(), split, metrics, parents, shapes)


if __name__ == "__main__":
    run(main)
