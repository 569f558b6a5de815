"""A lake of any size for benchmarks of inference and publishing: its lists and histories are functions of the user."""

from __future__ import annotations

import datetime as dt
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pyspark.sql import Column, SparkSession
from pyspark.sql import functions as F

from jobs.common.artefacts import store
from jobs.common.contracts import daily_table
from jobs.common.settings import Settings
from jobs.common.step import interval_end
from model.generation import Generation, Manifest
from model.recommender.backbone import build_subject, save_model

K = 20
CODES = 256
DAY = dt.date(2024, 5, 1)


def item_id(index: Column) -> Column:
    return F.concat(F.lit("i"), F.lpad(index.cast("string"), 7, "0"))


def codes_of(index: np.ndarray) -> np.ndarray:
    """Codes [N,4] of items: the digits of their number."""
    return np.stack([index >> 24 & 255, index >> 16 & 255, index >> 8 & 255, index & 255], axis=1)


def listed(user: int, version: int, items: int) -> list[str]:
    """The list that `write_lists` gives to a user."""
    return [f"i{(user * 31 + version * 17 + rank * 7) % items:07}" for rank in range(K)]


def write_items(spark: SparkSession, settings: Settings, items: int) -> Generation:
    """Catalogue, item text and codebook. Returns the codebook."""
    index = F.col("id")
    rows = spark.range(items).select(
        item_id(index).alias("item_id"),
        F.concat(F.lit("Title "), index.cast("string")).alias("title"),
        F.lit(True).alias("available"),
        F.lit(DAY).alias("ds"),
    )
    moment = F.lit(interval_end(DAY))
    catalogue = rows.withColumns(
        {"description": F.lit(""), "categories": F.array().cast("array<string>"), "updated_at": moment}
    )
    text = rows.withColumns({"text": F.col("title"), "text_hash": F.sha2("title", 256), "event_timestamp": moment})
    daily_table(settings, "catalogue").write(catalogue, DAY, DAY, Manifest())
    daily_table(settings, "item_text").write(text, DAY, DAY, Manifest())
    draft = store(settings, "codebook", "all").begin()
    codes_NL = codes_of(np.arange(items))
    columns = {f"code_{level}": codes_NL[:, level] for level in range(4)}
    Path(draft.uri).mkdir(parents=True)
    names = [f"i{number:07}" for number in range(items)]
    pq.write_table(
        pa.table({"item_index": np.arange(items, dtype=np.int32), "item_id": names, **columns}),
        draft.path("items.parquet"),
    )
    return draft.commit(Manifest())


def write_model(settings: Settings, codebook: Generation) -> Generation:
    """The settings' backbone with random weights, live."""
    draft = store(settings, "model", "all").begin()
    centroids_LKD = np.random.default_rng(0).normal(size=(4, CODES, 8)).astype(np.float32)
    subject = build_subject(settings.model, ["a few words of text"] * 8, centroids_LKD)
    save_model(draft.uri, subject.model, subject.tokenizer, subject.vocabulary, settings.model)
    model = draft.commit(Manifest(parents={"codebook": codebook.identity}, settings=asdict(settings.model.finetune)))
    store(settings, "model", "all").point_to(model)
    return model


def write_histories(spark: SparkSession, settings: Settings, users: int, items: int, day: dt.date, every: int) -> None:
    """Every `every`th user has bought history_items items on the day, on which no item changed after the first."""
    if day > DAY:
        texts = daily_table(settings, "item_text")
        texts.write(spark.createDataFrame([], texts.schema), day, day, Manifest())
    length = settings.model.history_items
    moment = F.lit(interval_end(day) - dt.timedelta(hours=1))
    bought = F.transform(
        F.sequence(F.lit(1), F.lit(length)),
        lambda place: item_id(F.pmod(F.xxhash64("id", place, F.lit(day.isoformat())), F.lit(items))),
    )
    rows = spark.range(0, users, every).select(
        F.concat(F.lit("u"), F.col("id").cast("string")).alias("user_id"),
        bought.alias("item_ids"),
        F.array_repeat(F.lit("buy"), length).alias("event_types"),
        F.array_repeat(moment, length).alias("event_times"),
        F.array_repeat(F.lit(0), length).alias("seconds_since_previous"),
        F.lit(length).alias("events_total"),
        F.lit(interval_end(day)).alias("event_timestamp"),
        F.lit(day).alias("ds"),
    )
    daily_table(settings, "user_history").write(rows, day, day, Manifest())
    events = rows.select("user_id", F.explode("item_ids").alias("item_id"), "ds").withColumns(
        {"event_time": moment, "event_type": F.lit("buy"), "event_seq": F.lit(0)}
    )
    daily_table(settings, "events").write(events, day, day, Manifest())


def write_lists(
    spark: SparkSession, settings: Settings, users: int, items: int, day: dt.date, version: int, codebook: Generation
) -> None:
    """The day's recommendations, by hand: `listed`."""
    place = F.transform(
        F.sequence(F.lit(0), F.lit(K - 1)),
        lambda rank: F.pmod(F.col("id") * 31 + version * 17 + rank * 7, F.lit(items)),
    )
    rows = spark.range(users).select(
        F.concat(F.lit("u"), F.col("id").cast("string")).alias("user_id"),
        place.alias("places"),
    )
    lists = rows.select(
        "user_id",
        F.transform("places", _code).alias("item_codes"),
        F.transform("places", item_id).alias("item_ids"),
        F.transform(F.sequence(F.lit(0), F.lit(K - 1)), lambda rank: -rank.cast("float")).alias("scores"),
        F.lit(None).cast("string").alias("user_codes"),
        F.lit("model").alias("source"),
        F.lit(None).cast("string").alias("problem"),
        F.lit(0).alias("input_hash"),
        F.lit(day).alias("made_ds"),
        F.lit(day).alias("ds"),
    )
    parents = {"model": f"model/all/{version:06}", "codebook": codebook.identity}
    daily_table(settings, "recommendations").write(lists, day, day, Manifest(parents=parents))


def _code(index: Column) -> Column:
    """`codes_of` as text."""
    return F.concat_ws("-", *(F.shiftright(index, shift).bitwiseAND(255).cast("string") for shift in (24, 16, 8, 0)))
