"""The cache of item text vectors: an append-only log by text hash, so that a text is embedded once."""

from __future__ import annotations

from dataclasses import asdict

from pyspark.sql import DataFrame, SparkSession

from jobs.common.artefacts import store
from jobs.common.contracts import ITEM_VECTOR
from jobs.common.settings import Settings
from model.data.files import TEXT_VECTORS_FILE, save_tensors
from model.generation import Draft, GenerationStore, digest


def vectors_store(settings: Settings) -> GenerationStore:
    """Vectors of one encoder in one configuration; those of another never mix in."""
    return store(settings, "item_vectors", digest(asdict(settings.model.text_encoder)))


def read_vectors(spark: SparkSession, settings: Settings) -> DataFrame:
    """(text_hash, vector) of every text embedded so far."""
    files = [generation.path("rows") for generation in vectors_store(settings).complete()]
    if not files:
        return spark.createDataFrame([], ITEM_VECTOR)
    # Two runs at once may embed a text twice, to the same vector.
    return spark.read.schema(ITEM_VECTOR).parquet(*files).dropDuplicates(["text_hash"])


def write_text_vectors(spark: SparkSession, settings: Settings, items: DataFrame, draft: Draft) -> str:
    """Write the vectors [N, E] of items (item_index, text_hash), in that order, into a draft; returns their URI.

    Item-sized: the tokenizer is trained in one process. ValueError when a text has no vector yet.
    """
    rows = (
        items.join(read_vectors(spark, settings), "text_hash", "left")
        .select("item_index", "vector")
        .orderBy("item_index")
        .toArrow()
    )
    missing = rows.column("vector").null_count
    if missing:
        raise ValueError(f"{missing} of {rows.num_rows} item texts have no vector yet. Run jobs.embed_item_text first.")
    flat_NE = rows.column("vector").combine_chunks().flatten().to_numpy()
    uri = draft.path(TEXT_VECTORS_FILE)
    save_tensors(uri, {"vectors": flat_NE.reshape(rows.num_rows, -1)})
    return uri
