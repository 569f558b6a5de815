"""The tables that steps hand to one another: names, columns, types, and what each column means.

Order of events everywhere: (event_time, coalesce(event_seq, 0), item_id, event_type). Times are UTC. `ds` is the day
that a row belongs to; its interval is [ds, ds + 1 day). An `event_timestamp` is the moment from which a row is known,
the end of its day, so that a point-in-time join at 00:00 of a day sees exactly the earlier days (ours).
"""

from __future__ import annotations

from pyspark.sql import DataFrame
from pyspark.sql.types import (
    ArrayType,
    BooleanType,
    DataType,
    DateType,
    FloatType,
    IntegerType,
    LongType,
    StringType,
    StructField,
    StructType,
    TimestampType,
)

from jobs.common.settings import Settings
from jobs.common.tables import DailyTable

EVENT_ORDER = ("event_time", "event_seq", "item_id", "event_type")
"""Total order of one user's events, once a null event_seq has become 0."""


def _column(name: str, kind: DataType, comment: str, nullable: bool = False) -> StructField:
    return StructField(name, kind, nullable, {"comment": comment})


def _list(kind: DataType) -> ArrayType:
    """A list without nulls: one aborts Feast's write of an int list, and reads back as "" in a string list.

    The type cannot say so: whatever comes back from Parquet may hold nulls to Spark, and would not cast to it again.
    """
    return ArrayType(kind, containsNull=True)


RAW_EVENT = StructType(
    [
        _column("user_id", StringType(), "who"),
        _column("item_id", StringType(), "with which item"),
        _column("event_time", TimestampType(), "when it happened"),
        _column("event_type", StringType(), "a key of the setting event_types"),
        _column("event_seq", LongType(), "order among a user's events of one time; may be left out", nullable=True),
        _column("arrived_at", TimestampType(), "when the source received it; may be left out", nullable=True),
    ]
)
RAW_CATALOGUE = StructType(
    [
        _column("item_id", StringType(), "the item"),
        _column("title", StringType(), "its name for people"),
        _column("description", StringType(), "longer text, HTML allowed; may be left out", nullable=True),
        _column("categories", _list(StringType()), "broad to narrow; may be left out", nullable=True),
        _column("available", BooleanType(), "whether it may be recommended"),
        _column("updated_at", TimestampType(), "when this version of the item came to be"),
    ]
)

EVENTS = StructType(
    [
        _column("user_id", StringType(), "who"),
        _column("item_id", StringType(), "with which item; known to the catalogue by the end of ds"),
        _column("event_time", TimestampType(), "when it happened"),
        _column("event_type", StringType(), "a key of the setting event_types"),
        _column("event_seq", LongType(), "order among events of one time; 0 where the source has none"),
        _column("ds", DateType(), "day of event_time"),
    ]
)
QUARANTINE = StructType(
    [
        _column("ds", DateType(), "day of the row; the last day of the run where the row has no usable time"),
        _column("source", StringType(), "events | catalogue"),
        _column("reason", StringType(), "why it was refused"),
        _column("record", StringType(), "the row as JSON, after the column mapping"),
    ]
)
RAW_DAYS = StructType(
    [
        _column("ds", DateType(), "a day that raw rows belong to"),
        _column("source", StringType(), "events | catalogue"),
        _column("rows", LongType(), "raw rows of the day, refused ones too"),
        _column("checksum", StringType(), "of their content, whatever their order: another one means another input"),
    ]
)
CATALOGUE = StructType(
    [
        _column("item_id", StringType(), "the item"),
        _column("title", StringType(), "its name for people"),
        _column("description", StringType(), "longer text, as the source has it", nullable=True),
        _column("categories", _list(StringType()), "broad to narrow; empty where the source has none"),
        _column("available", BooleanType(), "whether it may be recommended from then on"),
        _column("updated_at", TimestampType(), "when this version came to be; the newest <= a day is current"),
        _column("ds", DateType(), "day of updated_at"),
    ]
)
USER_HISTORY = StructType(
    [
        _column("user_id", StringType(), "a user active on ds"),
        _column("item_ids", _list(StringType()), "items of the newest histories.max_items events, oldest first"),
        _column("event_types", _list(StringType()), "their types, parallel to item_ids"),
        _column("event_times", _list(TimestampType()), "their times, parallel to item_ids"),
        _column("seconds_since_previous", _list(LongType()), "session gaps, parallel; 0 for a user's first event"),
        _column("events_total", LongType(), "number of all the user's events up to the end of ds"),
        _column("event_timestamp", TimestampType(), "end of ds: from when the row is known"),
        _column("ds", DateType(), "the day"),
    ]
)
ITEM_TEXT = StructType(
    [
        _column("item_id", StringType(), "an item updated on ds"),
        _column("title", StringType(), "its title, normalised"),
        _column("text", StringType(), "what text encoders read: title. categories. description"),
        _column("text_hash", StringType(), "sha2-256 of text, 64 hex digits"),
        _column("available", BooleanType(), "whether it may be recommended from then on"),
        _column("event_timestamp", TimestampType(), "end of ds: from when the row is known"),
        _column("ds", DateType(), "the day"),
    ]
)
RECOMMENDATIONS = StructType(
    [
        _column("user_id", StringType(), "the user"),
        _column("item_codes", _list(StringType()), 'codes "u-v-x-y", best first'),
        _column("item_ids", _list(StringType()), "their items, parallel to item_codes"),
        _column("scores", _list(FloatType()), "the ranker's scores, parallel to item_codes"),
        _column("user_codes", StringType(), 'the user\'s own code "u-v-x-y"; null without one', nullable=True),
        _column("source", StringType(), "model | fallback"),
        _column("problem", StringType(), "why the list is not what it should be; null for all is well", nullable=True),
        _column("input_hash", LongType(), "xxhash64 of the history and the seen items that it was made from"),
        _column("made_ds", DateType(), "the day on which the model made it: before ds for a list that is used again"),
        _column("ds", DateType(), "the day that the list is for"),
    ]
)

ITEM_VECTOR = StructType(
    [
        _column("text_hash", StringType(), "the text, by its hash"),
        _column("vector", _list(FloatType()), "its sentence vector, unit length"),
    ]
)
TRAINING_ITEM = StructType(
    [
        _column("item_index", IntegerType(), "0..N-1, in the order of item_id"),
        _column("item_id", StringType(), "the item"),
        _column("title", StringType(), "its title, normalised"),
        _column("text", StringType(), "what text encoders read"),
        _column("text_hash", StringType(), "sha2-256 of text"),
    ]
)
TRAINING_SEQUENCE = StructType(
    [
        _column("user_id", StringType(), "the user"),
        _column("ds", StringType(), "the day whose events are predicted, yyyy-mm-dd"),
        _column("items", _list(IntegerType()), "model.window_items item indices, oldest first, padded with -1"),
        _column("targets", _list(IntegerType()), "same length: 1 where the position is to be predicted, else 0"),
        _column("later", _list(IntegerType()), "items that the user takes on ds or later: LATER_ITEMS in targets.py"),
    ]
)
TRAINING_VALIDATION = StructType(
    [
        _column("items", _list(IntegerType()), "the model.history_items items before the target, padded with -1"),
        _column("target", IntegerType(), "the newest target of a user, which is in no sequence"),
    ]
)

DAILY_TABLES = {
    "events": EVENTS,
    "quarantine": QUARANTINE,
    "raw_days": RAW_DAYS,
    "catalogue": CATALOGUE,
    "user_history": USER_HISTORY,
    "item_text": ITEM_TEXT,
    "recommendations": RECOMMENDATIONS,
}


def daily_table(settings: Settings, name: str) -> DailyTable:
    """A daily table of the lake, by its name in DAILY_TABLES."""
    return DailyTable(settings.lake_uri, name, DAILY_TABLES[name])


def conforming(rows: DataFrame, name: str) -> DataFrame:
    """The rows, once pandera finds the columns of that daily table among them, of their types. Runs no Spark job.

    Nulls and values are not its business: `DailyTable.write` counts nulls on the way. ValueError with every difference.
    """
    # Imported here: half a second, for the one step that takes rows from outside.
    from pandera.api.pyspark.components import Column  # noqa: PLC0415
    from pandera.pyspark import DataFrameSchema  # noqa: PLC0415

    columns = {field.name: Column(field.dataType, nullable=True) for field in DAILY_TABLES[name]}
    found = DataFrameSchema(columns, name=name).validate(rows).pandera.errors.get("SCHEMA", {})
    if found:
        wrong = "; ".join(error["error"] for errors in found.values() for error in errors)
        raise ValueError(f"These are no rows of {name}: {wrong}.")
    return rows
