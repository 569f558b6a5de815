"""Embed the item texts that have no vector yet, in batches on the executors, one model load per worker.

Reads   item_text up to the day, item_vectors
Writes  item_vectors/<encoder>/: appends (text_hash, vector); nothing when every text has its vector already

    python -m jobs.embed_item_text --ds 2016-10-16
"""

from __future__ import annotations

import datetime as dt
import logging
from collections.abc import Iterator

import pyarrow as pa
from pyspark.resource import ResourceProfile
from pyspark.sql import DataFrame

from jobs.common.code_version import code_version
from jobs.common.contracts import ITEM_VECTOR, daily_table
from jobs.common.coverage import require_days
from jobs.common.item_vectors import read_vectors, vectors_store
from jobs.common.own_gpu import take_own_gpu
from jobs.common.settings import load_settings
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
    item_text = daily_table(settings, "item_text")
    # The first step of both DAGs that build on the day's features: it must not go on with yesterday's.
    for name, step in (("item_text", "build_item_text"), ("user_history", "build_user_histories")):
        require_days(daily_table(settings, name), ds.date(), ds.date(), step)
    made = [generation.manifest for generation in vectors_store(settings).complete()]
    if any(item_text.was_read(one.parents.values(), dt.date.fromisoformat(one.key["ds"]), ds.date()) for one in made):
        log.info("every item text has its vector: none is new")
        return
    with open_spark(settings, "embed_item_text") as spark, watched(spark, "embed item text"):
        texts = item_text.read(spark, None, ds.date()).select("text_hash", "text").dropDuplicates(["text_hash"])
        missing = texts.join(read_vectors(spark, settings), "text_hash", "left_anti").persist()
        count = missing.count()
        if count == 0:
            log.info("every item text has its vector")
            return
        log.info("embedding %d item texts with %s", count, settings.model.text_encoder.name)
        draft = vectors_store(settings).begin()
        spread = missing.repartition(settings.inference.partitions, "text_hash")
        profile = inference_profile(spark, settings)
        rows, checksum = write_rows(embed(spread, settings.model.text_encoder, profile), draft, "rows", "text_hash")
        draft.commit(
            Manifest(
                key={"ds": ds.date().isoformat()},
                counts={"rows": rows},
                settings={"text_encoder": settings.model_json()["text_encoder"]},
                parents=item_text.parents(None, ds.date()),
                code_version=code_version(),
                checksums={"rows": checksum},
            )
        )


if __name__ == "__main__":
    run(main)
