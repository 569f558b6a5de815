"""What goes online: the gate before it, users' lists and codes, tombstones, the popularity list, item codes (ours).

Lists are parallel arrays, best first. A code is "u-v-x-y". Stored columns are those of `feature_repo`'s views.
"""

from __future__ import annotations

import datetime as dt
import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce

from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.types import ArrayType, FloatType, StringType, StructField, StructType, TimestampType

from jobs.transforms.snapshot import newest_per_key

LISTS = ("item_codes", "item_ids", "scores")
SOURCES = ("model", "fallback")

DEFECT = "reason string, rows long, example string"

CATALOGUE_STATE = StructType(
    [
        StructField("catalogue_id", StringType()),
        StructField("stored_popular_item_codes", ArrayType(StringType())),
        StructField("stored_popular_item_ids", ArrayType(StringType())),
        StructField("stored_popular_scores", ArrayType(FloatType())),
        StructField("stored_popular_codebook_version", StringType()),
        StructField("stored_popular_generated_at", TimestampType()),
        StructField("stored_popular_valid_until", TimestampType()),
        StructField("stored_retracted_item_ids", ArrayType(StringType())),
        StructField("event_timestamp", TimestampType()),
    ]
)


@dataclass(frozen=True)
class Stamp:
    """The times of one publish."""

    event_timestamp: dt.datetime
    """Orders it after every earlier publish."""
    valid_until: dt.datetime


def item_codes(coded_items: DataFrame) -> DataFrame:
    """(item_id, codes "u-v-x-y") of a codebook's items, which hold one column a level: code_0, code_1, …"""
    levels = sorted((name for name in coded_items.columns if name.startswith("code_")), key=lambda name: int(name[5:]))
    return coded_items.select("item_id", F.concat_ws("-", *levels).alias("codes"))


def defects(recommendations: DataFrame, catalogue: DataFrame, codes: DataFrame) -> DataFrame:
    """What forbids publishing: a row for each defect found, DEFECT, with an example item where it is about items.

    `catalogue`: the current row of each item (item_id, available). `codes`: as `item_codes` returns them.
    """
    pairs = (
        recommendations.select(F.explode(F.arrays_zip("item_ids", "item_codes")).alias("pair"))
        .select("pair.*")
        .distinct()
    )
    looked_up = (
        pairs.join(catalogue.select(F.col("item_id").alias("item_ids"), "available"), "item_ids", "left")
        .join(codes.select(F.col("item_id").alias("item_ids"), "codes"), "item_ids", "left")
        .join(codes.select(F.col("codes").alias("item_codes"), F.lit(True).alias("valid")), "item_codes", "left")
    )
    item_defects = {
        "listed items that the catalogue does not know": F.col("available").isNull(),
        "listed items that are not available": ~F.col("available"),
        "codes that name no item of the codebook (invalid rate above 0)": F.col("valid").isNull(),
        "codes that name another item of the codebook": F.col("valid")
        & ~F.col("codes").eqNullSafe(F.col("item_codes")),
    }
    size = F.size("item_ids")
    list_defects = {
        "lists of unequal length": (F.size("item_codes") != size) | (F.size("scores") != size),
        "lists with a null": F.greatest(*(F.exists(name, lambda value: value.isNull()) for name in LISTS)),
        "lists with an item twice": F.size(F.array_distinct("item_ids")) != size,
        "empty lists from the model": (size == 0) & (F.col("source") == "model"),
        f"sources other than {' and '.join(SOURCES)}": ~F.col("source").isin(*SOURCES),
    }
    twice = recommendations.groupBy("user_id").count().where("count > 1")
    return (
        _count(looked_up, item_defects, F.col("item_ids"))
        .unionByName(_count(recommendations, list_defects, F.lit(None).cast("string")))
        .unionByName(_count(twice, {"users with more than one list": F.lit(True)}, F.lit(None).cast("string")))
        .where("rows > 0")
    )


def _count(rows: DataFrame, conditions: Mapping[str, Column], example: Column) -> DataFrame:
    """One row for each condition, DEFECT: how many rows meet it; null counts as not met."""
    found = [
        F.struct(
            F.lit(reason).alias("reason"),
            F.count_if(met).alias("rows"),
            F.min(F.when(met, example)).alias("example"),
        )
        for reason, met in conditions.items()
    ]
    return rows.agg(F.array(*found).alias("found")).select(F.explode("found").alias("defect")).select("defect.*")


def list_figures(lists: DataFrame, before: DataFrame, popular: Sequence[str], k: int) -> DataFrame:
    """One row of what the lists are like, besides being valid; those without an item are left out.

    users: how many there are; full: the share with at least `k` items; popular: the share of all entries that are items
    of `popular`; overlap: the mean share of a list's items that stood in its user's list in `before`, null without any.
    """
    own = lists.where(F.size("item_ids") > 0).select("user_id", "item_ids")
    both = own.join(before.select("user_id", F.col("item_ids").alias("old")), "user_id", "left")
    size = F.size("item_ids")
    known = F.array(*(F.lit(item) for item in popular)).cast("array<string>")
    return both.agg(
        F.count(F.lit(1)).alias("users"),
        F.avg((size >= k).cast("double")).alias("full"),
        (F.sum(F.size(F.array_intersect("item_ids", known))) / F.sum(size)).alias("popular"),
        F.avg(F.size(F.array_intersect("item_ids", "old")) / size).alias("overlap"),
    )


def with_tombstones(lists: DataFrame, online_users: DataFrame) -> DataFrame:
    """The rows, and an empty list for every user (user_id) who is online with a list and has no row here."""
    vanished = online_users.join(lists, "user_id", "left_anti")
    empty = [F.array().cast(lists.schema[name].dataType).alias(name) for name in LISTS]
    columns = ("user_id", *LISTS, "source")
    return lists.select(*columns).unionByName(vanished.select("user_id", *empty, F.lit("fallback").alias("source")))


def stored_lists(lists: DataFrame, model: str, codebook: str, generated_at: dt.datetime, stamp: Stamp) -> DataFrame:
    """The rows of the view user_recommendations."""
    return lists.select(
        "user_id",
        *(F.col(name).alias(f"stored_{name}") for name in LISTS),
        F.lit(model).alias("stored_model_version"),
        F.lit(codebook).alias("stored_codebook_version"),
        F.lit(generated_at).alias("stored_generated_at"),
        F.lit(stamp.valid_until).alias("stored_valid_until"),
        F.col("source").alias("stored_source"),
        F.lit(stamp.event_timestamp).alias("event_timestamp"),
    )


def published_lists(stored: DataFrame) -> DataFrame:
    """The lists of an earlier publish, out of its stored rows; its tombstones are left out."""
    names = (*LISTS, "source")
    return stored.where(F.size("stored_item_ids") > 0).select(
        "user_id", *(F.col(f"stored_{name}").alias(name) for name in names)
    )


def user_codes(coded: DataFrame, online_users: DataFrame, codebook: str, stamp: Stamp) -> DataFrame:
    """The rows of the view user_codes, of the users with a code: (user_id, codes).

    Every other user (user_id) who is online with a code gets nulls: an unknown user reads the same.
    """
    return coded.join(online_users, "user_id", "full").select(
        "user_id",
        "codes",
        F.when(F.col("codes").isNotNull(), codebook).alias("codebook_version"),
        F.lit(stamp.event_timestamp).alias("event_timestamp"),
    )


def popular_items(
    events: DataFrame, weights: Mapping[str, float], catalogue: DataFrame, codes: DataFrame, length: int
) -> DataFrame:
    """The available items of the greatest weighted event counts: (item_id, codes, score), at most `length`, best first.

    Ties go by item_id. Counts are weighed after counting: a sum of fractions would depend on the order of the events.
    """
    weighed = (weight * F.count_if(F.col("event_type") == kind) for kind, weight in sorted(weights.items()))
    counts = events.groupBy("item_id").agg(reduce(operator.add, weighed).cast("float").alias("score"))
    return (
        counts.where("score > 0")
        .join(catalogue.where("available").select("item_id"), "item_id")
        .join(codes, "item_id")
        .orderBy(F.col("score").desc(), "item_id")
        .limit(length)
        .select("item_id", "codes", "score")
    )


def catalogue_state(
    spark: SparkSession,
    catalogue_id: str,
    popular: Sequence[tuple[str, str, float]],
    codebook: str,
    generated_at: dt.datetime,
    retracted: Sequence[str],
    stamp: Stamp,
) -> DataFrame:
    """The one row of the view catalogue_state. `popular`: (item_id, code, score), best first."""
    row = (
        catalogue_id,
        [code for _, code, _ in popular],
        [item_id for item_id, _, _ in popular],
        [score for _, _, score in popular],
        codebook,
        generated_at,
        stamp.valid_until,
        sorted(retracted),
        stamp.event_timestamp,
    )
    return spark.createDataFrame([row], CATALOGUE_STATE)


def repaired_state(state: DataFrame, retracted: Sequence[str], stamp: Stamp) -> DataFrame:
    """An earlier publish's catalogue_state with another set of retracted items, under the times of a new publish."""
    return state.withColumns(
        {
            "stored_retracted_item_ids": F.array(*(F.lit(one) for one in sorted(retracted))).cast("array<string>"),
            "stored_popular_valid_until": F.lit(stamp.valid_until),
            "event_timestamp": F.lit(stamp.event_timestamp),
        }
    )


def newest_in_lake(rows: DataFrame, later: DataFrame, key: str, event_timestamp: dt.datetime) -> DataFrame:
    """What may go online: the newest row of each key, of those that have none in `later`, all under one new time."""
    newest = newest_per_key(rows.join(later.select(key), key, "left_anti"), key)
    return newest.withColumn("event_timestamp", F.lit(event_timestamp))
