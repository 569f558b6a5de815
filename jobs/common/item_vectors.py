"""The cache of item text vectors: an append-only log by text hash, so that a text is embedded once."""

from __future__ import annotations

from dataclasses import asdict

from pyspark.sql import DataFrame, SparkSession

from jobs.common.artefacts import by_identity, store
from jobs.common.contracts import ITEM_VECTOR
from jobs.common.promotions import champion_twin
from jobs.common.settings import Settings
from model.config import TextEncoderConfig
from model.data.files import TEXT_VECTORS_FILE, save_tensors
from model.generation import Draft, Generation, GenerationStore, digest


def encoder_of(codebook: Generation) -> TextEncoderConfig:
    """The text encoder that a codebook was made with: its new items' texts go through the same, whatever is set now."""
    return TextEncoderConfig(**codebook.manifest.settings["text_encoder"])


def encoders_in_use(settings: Settings) -> list[TextEncoderConfig]:
    """Each once: that of the settings, and those behind the codebooks of the live model and of its twin."""
    models = [store(settings, "model", "all").current(), champion_twin(settings)]
    codebooks = [by_identity(settings, model.manifest.parents["codebook"]) for model in models if model is not None]
    return list(dict.fromkeys([settings.model.text_encoder, *map(encoder_of, codebooks)]))


def vectors_store(settings: Settings, encoder: TextEncoderConfig) -> GenerationStore:
    """Vectors of one encoder in one configuration; those of another never mix in."""
    return store(settings, "item_vectors", digest(asdict(encoder)))


def read_vectors(spark: SparkSession, settings: Settings, encoder: TextEncoderConfig) -> DataFrame:
    """(text_hash, vector) of every text embedded so far."""
    files = [generation.path("rows") for generation in vectors_store(settings, encoder).complete()]
    if not files:
        return spark.createDataFrame([], ITEM_VECTOR)
    # Two runs at once may embed a text twice, to the same vector.
    return spark.read.schema(ITEM_VECTOR).parquet(*files).dropDuplicates(["text_hash"])


def write_text_vectors(
    spark: SparkSession, settings: Settings, encoder: TextEncoderConfig, items: DataFrame, draft: Draft
) -> str:
    """Write the vectors [N, E] of items (item_index, text_hash), in that order, into a draft; returns their URI.

    Item-sized: the tokenizer is trained in one process. ValueError when a text has no vector yet.
    """
    rows = (
        items.join(read_vectors(spark, settings, encoder), "text_hash", "left")
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
