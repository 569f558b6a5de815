"""Train the collaborative encoder (SASRec), whose item vectors the tokenizer turns into codes.

Reads   training_set/<split>, item_vectors
Writes  behaviour/<split>: item vectors, training counts, the encoder's weights; beside them the items' text vectors

    python -m jobs.train_behaviour --ds 2016-10-16 --split all
"""

from __future__ import annotations

from jobs.common.artefacts import commit_trained, newest, store
from jobs.common.item_vectors import write_text_vectors
from jobs.common.launch import launch
from jobs.common.settings import load_settings
from jobs.common.spark import open_spark
from jobs.common.step import Day, SettingsFile, SplitOption, run


def main(ds: Day, split: SplitOption, settings_file: SettingsFile = None) -> None:
    settings = load_settings(settings_file)
    training_set = newest(settings, "training_set", split, ds.date(), "build_training_set")
    draft = store(settings, "behaviour", split).begin()
    with open_spark(settings, "train_behaviour") as spark:
        items = spark.read.parquet(training_set.path("items"))
        text_vectors = write_text_vectors(spark, settings, settings.model.text_encoder, items, draft)
        request = {
            "config": settings.model_json(),
            "inputs": {"training_set": training_set.uri, "text_vectors": text_vectors},
            "output": draft.uri,
        }
        metrics = launch(settings.training, ("model.behaviour.train:train_behaviour", request))
    shapes = ("text_encoder", "behaviour")
    commit_trained(settings, draft, ds.date(), split, metrics, {"training_set": training_set}, shapes)


if __name__ == "__main__":
    run(main)
