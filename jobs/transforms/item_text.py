"""Item text: the one line per item that text encoders and language models read (ours)."""

from __future__ import annotations

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

MAX_CHARACTERS = 512

_MARKUP = (
    r"(?is)<(script|style)\b.*?</\1\s*>",
    r"(?s)<!--.*?-->",
    r"</?[A-Za-z][^<>]*>",  # not a bare "<", as in "a < b"
)
# The ampersand comes last: "&amp;lt;" is the text "&lt;", not a tag.
_ENTITIES = {"&nbsp;": " ", "&quot;": '"', "&#39;": "'", "&apos;": "'", "&lt;": "<", "&gt;": ">", "&amp;": "&"}


def clean(text: Column) -> Column:
    """Text without HTML, with single spaces, trimmed. Null stays null.

    Spark has no native Unicode normalisation; the source's code points are kept.
    """
    for pattern in _MARKUP:
        text = F.regexp_replace(text, F.lit(pattern), F.lit(" "))
    for entity, character in _ENTITIES.items():
        text = F.replace(text, F.lit(entity), F.lit(character))
    return F.trim(F.regexp_replace(text, r"[\s\p{Z}\p{Cc}]+", " "))


def item_texts(catalogue: DataFrame) -> DataFrame:
    """Catalogue rows -> rows of the table item_text: "title. categories. description", at most 512 characters."""
    cleaned = catalogue.select(
        "item_id",
        clean(F.col("title")).alias("title"),
        F.array_join(F.transform("categories", clean), ", ").alias("categories"),
        clean(F.col("description")).alias("description"),
        "available",
        "ds",
    )
    parts = (F.nullif(F.col(name), F.lit("")) for name in ("title", "categories", "description"))
    text = F.rtrim(F.substring(F.concat_ws(". ", *parts), 1, MAX_CHARACTERS))
    return cleaned.withColumn("text", text).select(
        "item_id",
        "title",
        "text",
        F.sha2("text", 256).alias("text_hash"),
        "available",
        F.date_add("ds", 1).cast("timestamp").alias("event_timestamp"),
        "ds",
    )
