"""Embed the item texts that have no vector yet, in batches on the executors, one model load per worker.

By the encoder that the settings name; while the live model was made with another, by that one, too.

Reads   item_text up to the day, item_vectors, the live model's codebook and its twin's
Writes  item_vectors/<encoder>/: appends (text_hash, vector); nothing when every text has its vector already

    python -m jobs.embed_item_text --ds 2016-10-16
"""

from __future__ import annotations

import datetime as dt
import logging
from collections.abc import Iterator
from dataclasses import asdict

import pyarrow as pa
from pyspark.resource import ResourceProfile
from pyspark.sql import DataFrame, SparkSession

from jobs.common.code_version import code_version
from jobs.common.contracts import ITEM_VECTOR, daily_table
from jobs.common.coverage import require_days
from jobs.common.item_vectors import encoders_in_use, read_vectors, vectors_store
from jobs.common.own_gpu import take_own_gpu
from jobs.common.settings import Settings, load_settings
from jobs.common.spark import inference_profile, open_spark, watched
from jobs.common.step import Day, SettingsFile, run
from jobs.common.tables import write_rows
from model.config import TextEncoderConfig
from model.generation import Manifest

log = logging.getLogger("embed_item_text")


def embed(texts: DataFrame, config: TextEncoderConfig, profile: ResourceProfile | None = None) -> DataFrame:
    """(text_hash, text) -> (text_hash, vector). `profile`: what the tasks of this stage need."""

    def embed_partition(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        take_own_gpu()
        from model.text_encoder import TextEncoder  # noqa: PLC0415  (torch is imported on workers only)

        encoder = TextEncoder.load(config)
        for batch in batches:
            vectors = encoder.encode(batch.column("text").to_pylist())
            rows = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), vectors.shape[1])
            yield pa.record_batch(
                [batch.column("text_hash"), rows.cast(pa.list_(pa.float32()))], ["text_hash", "vector"]
            )

    return texts.mapInArrow(embed_partition, ITEM_VECTOR, profile=profile)


def main(ds: Day, settings_file: SettingsFile = None) -> None:
    settings = load_settings(settings_file)
    # The first step of both DAGs that build on the day's features: it must not go on with yesterday's.
    for name, step in (("item_text", "build_item_text"), ("user_history", "build_user_histories")):
        require_days(daily_table(settings, name), ds.date(), ds.date(), step)
    behind = [encoder for encoder in encoders_in_use(settings) if not _read_everything(settings, encoder, ds.date())]
    if not behind:
        log.info("every item text has its vector: none is new")
        return
    with open_spark(settings, "embed_item_text") as spark, watched(spark, "embed item text"):
        for encoder in behind:
            embed_missing(spark, settings, encoder, ds.date())


def _read_everything(settings: Settings, encoder: TextEncoderConfig, day: dt.date) -> bool:
    """Whether a run of before saw the same item text."""
    item_text = daily_table(settings, "item_text")
    made = [generation.manifest for generation in vectors_store(settings, encoder).complete()]
    return any(item_text.was_read(one.parents.values(), dt.date.fromisoformat(one.key["ds"]), day) for one in made)


def embed_missing(spark: SparkSession, settings: Settings, encoder: TextEncoderConfig, day: dt.date) -> None:
    """Append the vectors, by one encoder, of the texts up to the day that have none by it."""
    item_text = daily_table(settings, "item_text")
    texts = item_text.read(spark, None, day).select("text_hash", "text").dropDuplicates(["text_hash"])
    missing = texts.join(read_vectors(spark, settings, encoder), "text_hash", "left_anti").persist()
    count = missing.count()
    if count == 0:
        log.info("every item text has its vector by %s", encoder.name)
        return
    log.info("embedding %d item texts with %s", count, encoder.name)
    draft = vectors_store(settings, encoder).begin()
    spread = missing.repartition(settings.inference.partitions, "text_hash")
    profile = inference_profile(spark, settings)
    rows, checksum = write_rows(embed(spread, encoder, profile), draft, "rows", "text_hash")
    missing.unpersist()
    draft.commit(
        Manifest(
            key={"ds": day.isoformat()},
            counts={"rows": rows},
            settings={"text_encoder": asdict(encoder)},
            parents=item_text.parents(None, day),
            code_version=code_version(),
            checksums={"rows": checksum},
        )
    )


if __name__ == "__main__":
    run(main)
