"""Rank the catalogue for every active user with the live model, spread over the executors.

Reads   model/all (the live one), its codebook and additions, user_history, events, item_text up to the day
Writes  recommendations: the day's lists; a user for whom the model found nothing is flagged `fallback`

    python -m jobs.recommend --ds 2016-10-16
"""

from __future__ import annotations

import logging

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from jobs.common.artefacts import live_model, store
from jobs.common.code_version import code_version
from jobs.common.contracts import daily_table
from jobs.common.publishing import codes_of
from jobs.common.rankers import model_task
from jobs.common.settings import load_settings
from jobs.common.spark import open_spark
from jobs.common.step import Day, SettingsFile, interval_end, run
from jobs.common.tables import write_rows
from jobs.transforms.audience import audience
from jobs.transforms.ranking import rank
from jobs.transforms.snapshot import newest_per_key
from model.generation import Manifest

log = logging.getLogger("recommend")


def main(ds: Day, settings_file: SettingsFile = None) -> None:
    settings = load_settings(settings_file)
    day = ds.date()
    model = live_model(settings)
    tables = {name: daily_table(settings, name) for name in ("user_history", "events", "item_text")}
    with open_spark(settings, "recommend") as spark:
        rows = {name: table.read(spark, None, day) for name, table in tables.items()}
        users = audience(
            rows["user_history"],
            rows["events"],
            interval_end=interval_end(day),
            active_window_days=settings.publishing.active_window_days,
            history_items=settings.model.history_items,
            masking_types=[name for name, kind in settings.event_types.items() if kind.masks_seen],
        )
        # Item-sized, and read by every worker: a file beside the lists, not a broadcast in the closure.
        draft = store(settings, "unavailable_items").begin()
        codes = codes_of(spark, settings, model.manifest.parents["codebook"])
        unavailable = unavailable_items(codes, rows["item_text"])
        count, checksum = write_rows(unavailable, draft, "rows", "item_id")
        parents = tables["item_text"].parents(None, day)
        manifest = Manifest({"ds": day.isoformat()}, {"rows": count}, parents=parents, checksums={"rows": checksum})
        task = model_task(settings, model, unavailable_file=draft.commit(manifest).path("rows"))
        spread = users.withColumnRenamed("user_id", "key").repartition(settings.spark.inference_partitions, "key")
        lists = _lists(rank(spread.sortWithinPartitions("key"), task), day.isoformat())
        generation = daily_table(settings, "recommendations").write(
            lists,
            day,
            day,
            Manifest(
                settings={"method": settings.method, "decoding": settings.model_json()["decoding"]},
                parents={
                    "model": model.identity,
                    "codebook": model.manifest.parents["codebook"],
                    **{role: parent for table in tables.values() for role, parent in table.parents(None, day).items()},
                },
                code_version=code_version(),
            ),
            "user_id",
        )
    log.info("%d users have lists of %s", generation.manifest.counts["rows"], model.identity)


def unavailable_items(coded: DataFrame, item_text: DataFrame) -> DataFrame:
    """(item_id) of the coded items that no list may hold: not available any more, or not in the catalogue yet.

    `item_text`: its rows up to the day of the lists. A model may know later items, when it ranks for an earlier day.
    """
    available = newest_per_key(item_text, "item_id").where("available")
    return coded.select("item_id").join(available, "item_id", "left_anti")


def _lists(ranked: DataFrame, day: str) -> DataFrame:
    source = F.when(F.size("item_ids") > 0, "model").otherwise("fallback")
    return ranked.select(
        F.col("key").alias("user_id"),
        "item_codes",
        "item_ids",
        "scores",
        source.alias("source"),
        F.lit(day).cast("date").alias("ds"),
    )


if __name__ == "__main__":
    run(main)
