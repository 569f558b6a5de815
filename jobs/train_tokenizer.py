"""Train the item tokenizer: one code (u, v, x, y) for every item of the training set, each code for one item.

Reads   training_set/<split>, behaviour/<split>, item_vectors
Writes  codebook/<split>: the frozen codebooks, the items' codes, the health figures

    python -m jobs.train_tokenizer --ds 2016-10-16 --split all
"""

from __future__ import annotations

from jobs.common.artefacts import commit_trained, descendant, newest, store
from jobs.common.item_vectors import write_text_vectors
from jobs.common.settings import load_settings
from jobs.common.spark import open_spark
from jobs.common.step import Day, SettingsFile, SplitOption, run
from model.tokenizer.train import train_tokenizer


def main(ds: Day, split: SplitOption, settings_file: SettingsFile = None) -> None:
    settings = load_settings(settings_file)
    training_set = newest(settings, "training_set", split, ds.date(), "build_training_set")
    behaviour = descendant(settings, "behaviour", split, ds.date(), training_set, "train_behaviour")
    draft = store(settings, "codebook", split).begin()
    with open_spark(settings, "train_tokenizer") as spark:
        items = spark.read.parquet(training_set.path("items"))
        text_vectors = write_text_vectors(spark, settings, items, draft)
    metrics = train_tokenizer(
        {
            "config": settings.model_json(),
            "inputs": {"training_set": training_set.uri, "behaviour": behaviour.uri, "text_vectors": text_vectors},
            "output": draft.uri,
        }
    )
    parents = {"training_set": training_set, "behaviour": behaviour}
    commit_trained(settings, draft, ds.date(), split, metrics, parents, ("text_encoder", "tokenizer"))


if __name__ == "__main__":
    run(main)
