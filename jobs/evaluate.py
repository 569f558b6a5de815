"""Judge the newest challenger on the days held out from it, beside the champion and the baselines.

All rank the whole catalogue for the same cases, with seen items masked and not masked; every ranked list is kept, so
that each number can be counted again without a model.

Reads   training_set/temporal, model/temporal and its codebook, the champion's twin on its own temporal split, events
Writes  evaluation: cases/, ranked/ (a list per case, method and protocol), metrics in the manifest

    python -m jobs.evaluate --ds 2016-10-16 --split temporal
"""

from __future__ import annotations

import datetime as dt
import logging
from functools import reduce
from typing import Any

import pyarrow as pa
from pyspark.resource import ResourceProfile
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from jobs.common import promotions
from jobs.common.artefacts import by_identity, code_files, newest, store
from jobs.common.code_version import code_version
from jobs.common.contracts import daily_table
from jobs.common.rankers import model_task
from jobs.common.settings import Settings, load_settings
from jobs.common.spark import inference_profile, open_spark, watched
from jobs.common.step import Day, SettingsFile, Split, SplitOption, interval_end, run
from jobs.common.tables import write_rows
from jobs.transforms.holdout import holdout_cases, training_counts
from jobs.transforms.ranking import RankingTask, rank
from model.evaluation.beyond import beyond
from model.evaluation.protocol import evaluate_lists, format_table
from model.generation import Draft, Generation, Manifest
from model.recommender.registry import METHODS

log = logging.getLogger("evaluate")

PROTOCOLS = (True, False)
"""Seen items masked, and not masked."""


def main(ds: Day, split: SplitOption = Split.temporal, settings_file: SettingsFile = None) -> None:
    settings = load_settings(settings_file)
    if split is not Split.temporal:
        raise ValueError("Only a model of --split temporal has held-out days to be judged on.")
    models = {"challenger": newest(settings, "model", split, ds.date(), "finetune")}
    champion = promotions.champion_twin(settings)
    if champion is not None:
        models["champion"] = champion
    training_set = by_identity(settings, models["challenger"].manifest.parents["training_set"])
    draft = store(settings, "evaluation").begin()
    tasks = _tasks(settings, models, training_set, draft)
    events = daily_table(settings, "events")
    with open_spark(settings, "evaluate") as spark, watched(spark, "evaluate"):
        cases = holdout_cases(
            events.read(spark, None, ds.date()),
            start=interval_end(ds.date()) - dt.timedelta(days=settings.promotion.holdout_days),
            target_types=[name for name, kind in settings.event_types.items() if kind.target],
            masking_types=[name for name, kind in settings.event_types.items() if kind.masks_seen],
            history_items=settings.model.history_items,
            max_users=settings.promotion.max_test_users,
            max_targets_per_user=settings.promotion.max_targets_per_user,
        )
        spread = cases.repartition(settings.inference.partitions, "key").sortWithinPartitions("key").persist()
        if spread.isEmpty():
            raise ValueError(
                f"No user has a target event in the {settings.promotion.holdout_days} days before "
                f"{interval_end(ds.date()).date()}: widen promotion.holdout_days."
            )
        # Items that came later have codes and may be listed, too.
        known = daily_table(settings, "item_text").read(spark, None, ds.date()).select("item_id").distinct()
        require_codes(spark, settings, models, known, ds.date())
        trained = training_counts(*(spark.read.parquet(training_set.path(name)) for name in ("items", "sequences")))
        counts = known.join(trained, "item_id", "left").fillna(0, "count").persist()
        asked = spread.join(counts.withColumnRenamed("item_id", "target"), "target", "left").select(
            "key", "user_id", "target", "history_length", F.coalesce("count", F.lit(0)).alias("target_count")
        )
        write_rows(asked, draft, "cases", "key")
        profile = inference_profile(spark, settings)
        lists = (
            _rank_cases(spread, name, task, profile if name in models else None)  # baselines count, on any core
            for name, task in tasks.items()
        )
        ranked = reduce(DataFrame.unionByName, lists)
        rows, checksum = write_rows(ranked, draft, "ranked", "method", "masked", "key")
        metrics = measure(spark, draft.path("ranked"), draft.path("cases"), counts)
    draft.commit(
        Manifest(
            key={"ds": ds.date().isoformat(), "split": split},
            counts={"lists": rows},
            metrics=metrics,
            settings={"promotion": settings.promotion.model_dump()},
            parents={
                **{role: model.identity for role, model in models.items()},
                **events.parents(None, ds.date()),
            },
            code_version=code_version(),
            checksums={"ranked": checksum},
        )
    )
    log.info("held-out days, means over users with 95%% intervals:\n%s", format_table(metrics))


def require_codes(
    spark: SparkSession, settings: Settings, models: dict[str, Generation], items: DataFrame, day: dt.date
) -> None:
    """ValueError when a model to be judged has no code for some of the `items` (item_id): it could not list them."""
    for role, model in models.items():
        codebook = by_identity(settings, model.manifest.parents["codebook"])
        missing = items.join(spark.read.parquet(*code_files(settings, codebook)), "item_id", "left_anti").count()
        if missing:
            raise ValueError(
                f"{codebook.identity}, of the {role} {model.identity}, has no code for {missing} items of {day} or "
                f"before: it could not list them. Run: python -m jobs.encode_items --ds {day} --split temporal"
            )


def measure(spark: SparkSession, ranked: str, cases: str, counts: DataFrame) -> dict[str, Any]:
    """The figures of ranked lists of cases, both in Parquet; `counts` (item_id, count) of all items that may be listed.

    One process counts: there are at most max_test_users x max_targets_per_user lists a method and protocol.
    """
    lists = spark.read.parquet(ranked)
    metrics = evaluate_lists(
        lists.select("method", "masked", "user_id", "key", "rank").orderBy("method", "masked", "key").toArrow()
    )
    asked, items = spark.read.parquet(cases).toArrow(), counts.orderBy("item_id").toArrow()
    ids, count_N = items["item_id"].combine_chunks(), items["count"].to_numpy()
    metrics["beyond"] = {
        method: beyond(_masked_lists(lists, method), asked, ids, count_N) for method in metrics["methods"]
    }
    metrics["problems"] = {method: _problems(lists, method) for method in metrics["methods"]}
    return metrics


def _problems(lists: DataFrame, method: str) -> dict[str, int]:
    """How many of a method's lists, seen items masked, have which problem."""
    flagged = lists.where((F.col("method") == method) & F.col("masked") & F.col("problem").isNotNull())
    return {row.problem: row["count"] for row in flagged.groupBy("problem").count().orderBy("problem").collect()}


def _masked_lists(lists: DataFrame, method: str) -> list[pa.RecordBatch]:
    chosen = lists.where((F.col("method") == method) & F.col("masked"))
    batches: list[pa.RecordBatch] = chosen.select("key", "rank", "item_ids").toArrow().to_batches()
    return batches


def _tasks(
    settings: Settings, models: dict[str, Generation], training_set: Generation, draft: Draft
) -> dict[str, RankingTask]:
    """A ranking task for each row of the table."""
    tasks = {}
    for name in settings.promotion.baselines:
        inputs = {"training_set": training_set.uri, name: draft.path(name)}
        METHODS[name].train({"inputs": inputs, "output": draft.path(name)})
        items = [training_set.path("items")]
        tasks[name] = RankingTask(name, {"inputs": inputs}, items, settings.model.decoding.top_k, PROTOCOLS)
    return tasks | {role: model_task(settings, model, PROTOCOLS) for role, model in models.items()}


def _rank_cases(cases: DataFrame, method: str, task: RankingTask, profile: ResourceProfile | None) -> DataFrame:
    place = F.array_position("item_ids", F.col("target")).cast("int") - 1
    return rank(cases, task, carried=["user_id", "target"], profile=profile).select(
        F.lit(method).alias("method"),
        "masked",
        "key",
        "user_id",
        "target",
        place.alias("rank"),
        "item_ids",
        "scores",
        "problem",
    )


if __name__ == "__main__":
    run(main)
