"""Raw rows -> rows of our contracts, each with its outcome: valid, left out, or the reason why it was refused (ours).

Mistakes of the whole source (a missing column, an expression that Spark cannot read) raise ValueError; mistakes of one
row become its outcome.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable
from dataclasses import dataclass

from pyspark.errors import AnalysisException
from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F
from pyspark.sql.types import StringType, StructField, StructType

from jobs.common.contracts import EVENT_ORDER, RAW_CATALOGUE, RAW_EVENT
from jobs.transforms.item_text import clean

VALID = "valid"
LEFT_OUT = FILTERED, DUPLICATE, SUPERSEDED = ("filtered", "duplicate", "superseded")
"""No mistakes, so not for quarantine: no event by the filter; the same event again; an item's older state of a day."""

OUTCOME, RECORD = "outcome", "record"


@dataclass(frozen=True)
class Source:
    """Where raw rows come from and how they become rows of a contract; the names stand in error messages."""

    uri: str
    uri_setting: str
    """The setting that holds `uri`."""
    contract: StructType
    """RAW_EVENT or RAW_CATALOGUE; a nullable column is one that may be left out."""
    expressions: dict[str, str]
    """Contract column -> SQL expression over the raw columns; absent = the raw column of the same name."""
    columns_setting: str
    """The setting that holds `expressions`."""
    keep: str = "true"
    """SQL condition on raw rows; the others are left out."""
    keep_setting: str = ""
    """The setting that holds `keep`."""


def map_columns(raw: DataFrame, source: Source) -> DataFrame:
    """Raw rows with the contract's columns beside them; a value that does not cast to its type is null.

    Columns: `raw` (struct, the whole row), `given` (struct, the contract's columns before their cast), `kept` (boolean,
    the condition `keep`), then the contract's columns.
    Raises ValueError: a required column that neither the data nor `expressions` has, or an expression Spark refuses.
    """
    _check_columns(raw, source)
    found = {name.lower() for name in raw.columns}

    def given(field: StructField) -> Column:
        if field.name in source.expressions:
            return F.expr(source.expressions[field.name])
        return F.col(f"`{field.name}`") if field.name.lower() in found else F.lit(None)

    fields = {field.name: given(field) for field in source.contract}
    kept = F.coalesce(F.expr(source.keep).cast("boolean"), F.lit(False))
    for field in source.contract:
        cast, setting = fields[field.name].try_cast(field.dataType), f"{source.columns_setting}.{field.name}"
        _check_type(raw, cast, setting, source.expressions.get(field.name, field.name), source)
    _check_type(raw, kept, source.keep_setting, source.keep, source)
    return raw.select(
        F.struct("*").alias("raw"),
        F.struct(*(column.alias(name) for name, column in fields.items())).alias("given"),
        kept.alias("kept"),
    ).select(
        "*", *(F.col(f"given.{field.name}").try_cast(field.dataType).alias(field.name) for field in source.contract)
    )


def _check_columns(raw: DataFrame, source: Source) -> None:
    unknown = sorted(set(source.expressions) - set(source.contract.fieldNames()))
    if unknown:
        known = ", ".join(source.contract.fieldNames())
        raise ValueError(f"{source.columns_setting}: no column {', '.join(unknown)} to map to. There are: {known}.")
    given = {*source.expressions, *(name.lower() for name in raw.columns)}
    missing = [field.name for field in source.contract if not field.nullable and field.name.lower() not in given]
    if missing:
        raise ValueError(
            f"{source.uri} has no column {', '.join(missing)}. Columns found: {', '.join(raw.columns)}. Map what is "
            f'missing by {source.columns_setting}, e.g. {missing[0]} = "an SQL expression over the columns found".'
        )


def _check_type(raw: DataFrame, column: Column, setting: str, expression: str, source: Source) -> None:
    try:
        raw.select(column)
    except AnalysisException as error:
        raise ValueError(
            f"{setting} = {expression!r} does not fit {source.uri}: {str(error).strip().splitlines()[0]} "
            f"Columns found: {', '.join(raw.columns)}."
        ) from None


def in_days(time: Column, start: dt.date, end: dt.date) -> Column:
    """Rows of the days start..end (both included), and rows without a usable time."""
    after = time >= F.lit(start).cast("timestamp")
    before = time < F.lit(end + dt.timedelta(days=1)).cast("timestamp")
    return time.isNull() | (after & before)


def raw_days(mapped: DataFrame, time: str, source: str, start: dt.date, end: dt.date) -> DataFrame:
    """Rows of the table raw_days: what `map_columns` gave for the days start..end, by the day of the column `time`."""
    content = F.xxhash64(F.to_json("given"), "kept").cast("decimal(20,0)")
    return (
        mapped.where(in_days(F.col(time), start, end) & F.col(time).isNotNull())
        .groupBy(F.to_date(time).alias("ds"))
        .agg(F.count(F.lit(1)).alias("rows"), F.sum(content).cast("string").alias("checksum"))
        .select("ds", F.lit(source).alias("source"), "rows", "checksum")
    )


def known_items(catalogue: DataFrame) -> DataFrame:
    """(item_id, first_ds): the day from which the catalogue has each item. `catalogue`: item_id, ds."""
    return catalogue.groupBy("item_id").agg(F.min("ds").alias("first_ds"))


def acceptable_items(mapped: DataFrame) -> DataFrame:
    """(item_id, ds) of the raw catalogue rows that are not refused."""
    return mapped.where(F.col("kept") & _catalogue_refusal().isNull()).select(
        "item_id", F.to_date("updated_at").alias("ds")
    )


def with_event_day(mapped: DataFrame, max_clock_skew_minutes: int) -> DataFrame:
    """Adds `skewed` (boolean), whether an event claims to lie ahead of its arrival by more than the skew, and
    `happened`, the time by which it belongs to a day: its own, but a skewed event's arrival.
    """
    latest = F.col("arrived_at") + F.make_dt_interval(mins=F.lit(max_clock_skew_minutes))
    skewed = F.coalesce(F.col("event_time") > latest, F.lit(False))
    return mapped.withColumns(
        {"skewed": skewed, "happened": F.when(skewed, F.col("arrived_at")).otherwise(F.col("event_time"))}
    )


def check_events(mapped: DataFrame, event_types: Iterable[str], known: DataFrame) -> DataFrame:
    """The outcome of every event that `with_event_day` gave. `known`: see `known_items`.

    Columns: those of the contract (event_seq filled with 0), ds, outcome, record (JSON, for refused rows only).
    """
    reason = F.coalesce(
        _refusal(RAW_EVENT),
        F.when(F.col("skewed"), "event_time ahead of arrival"),
        F.when(~F.col("event_type").isin(*event_types), "unknown event_type"),
        F.when(F.col("first_ds").isNull() | (F.col("first_ds") > F.col("ds")), "unknown item"),
    )
    dated = mapped.withColumn("ds", F.to_date("happened")).join(known, "item_id", "left")
    judged = _judge(dated, reason, RAW_EVENT).withColumn("event_seq", F.coalesce("event_seq", F.lit(0)))
    same = Window.partitionBy(OUTCOME, "user_id", *EVENT_ORDER).orderBy(OUTCOME)
    return _mark(judged, F.row_number().over(same) > 1, DUPLICATE)


def check_catalogue(mapped: DataFrame) -> DataFrame:
    """The outcome of every catalogue row; of an item's rows of one day, the newest is valid.

    Columns: those of the contract (categories without nulls), ds, outcome, record (JSON, for refused rows only).
    """
    categories = F.coalesce(F.filter("categories", lambda name: name.isNotNull()), F.array().cast("array<string>"))
    dated = mapped.withColumn("ds", F.to_date("updated_at"))
    judged = _judge(dated, _catalogue_refusal(), RAW_CATALOGUE).withColumn("categories", categories)
    order = [F.desc(name) for name in ("updated_at", "title", "description", "categories", "available")]
    newest = Window.partitionBy(OUTCOME, "item_id", "ds").orderBy(*order)
    return _mark(judged, F.row_number().over(newest) > 1, SUPERSEDED)


def quarantined(checked: DataFrame, source: str, day_without_time: dt.date) -> DataFrame:
    """Rows of the table quarantine: what `check_events` or `check_catalogue` refused."""
    return checked.where(~F.col(OUTCOME).isin(VALID, *LEFT_OUT)).select(
        F.coalesce("ds", F.lit(day_without_time)).alias("ds"),
        F.lit(source).alias("source"),
        F.col(OUTCOME).alias("reason"),
        RECORD,
    )


def _refusal(contract: StructType) -> Column:
    """The first mistake of a mapped row, or null."""

    def mistake(field: StructField) -> Column:
        column, given = F.col(field.name), F.col(f"given.{field.name}")
        if field.nullable:
            return F.when(column.isNull() & given.isNotNull(), f"unparsable {field.name}")
        if isinstance(field.dataType, StringType):
            return F.when(column.isNull() | (F.trim(column) == ""), f"null {field.name}")
        return F.when(column.isNull(), f"unparsable {field.name}")

    return F.coalesce(*(mistake(field) for field in contract))


def _catalogue_refusal() -> Column:
    nameless = F.when(clean(F.col("title")) == "", "null title")  # nothing left once the HTML is gone
    return F.coalesce(nameless, _refusal(RAW_CATALOGUE))


def _judge(mapped: DataFrame, reason: Column, contract: StructType) -> DataFrame:
    outcome = F.when(~F.col("kept"), FILTERED).otherwise(F.coalesce(reason, F.lit(VALID)))
    record = F.when(~F.col(OUTCOME).isin(VALID, FILTERED), F.to_json("raw", {"ignoreNullFields": "false"}))
    return mapped.withColumn(OUTCOME, outcome).select(*contract.fieldNames(), "ds", OUTCOME, record.alias(RECORD))


def _mark(judged: DataFrame, repeated: Column, outcome: str) -> DataFrame:
    """Valid rows that are repeated get another outcome."""
    marked = judged.withColumn("repeated", repeated & (F.col(OUTCOME) == VALID))
    return marked.withColumn(OUTCOME, F.when(F.col("repeated"), outcome).otherwise(F.col(OUTCOME))).drop("repeated")
