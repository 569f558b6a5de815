"""Rank the catalogue for every active user with the live model, spread over the executors.

While model, code and settings stay the same, only users whose history or seen items changed are ranked, those whose
list holds an item that is not available any more, and everyone every inference.full_every_days; the others keep their
list of the newest day before.

Reads   model/all (the live one), its codebook and additions, user_history, events, item_text up to the day; the lists
        of the newest day before
Writes  recommendations: the day's lists, of every active user; a user without one is flagged `fallback`

    python -m jobs.recommend --ds 2016-10-16
"""

from __future__ import annotations

import datetime as dt
import logging
from dataclasses import asdict, replace

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from jobs.common.artefacts import live_model, method_of, store
from jobs.common.code_version import code_version
from jobs.common.contracts import daily_table
from jobs.common.coverage import require_days
from jobs.common.publishing import codes_of
from jobs.common.rankers import model_task
from jobs.common.settings import Settings, load_settings
from jobs.common.spark import inference_profile, open_spark, watched
from jobs.common.step import Day, SettingsFile, interval_end, run
from jobs.common.tables import DailyTable, write_rows
from jobs.transforms.audience import audience
from jobs.transforms.ranking import rank
from jobs.transforms.reuse import reusable, with_input_hash
from jobs.transforms.snapshot import newest_per_key
from model.generation import Generation, Manifest

log = logging.getLogger("recommend")

MADE_BY = {"user_history": "build_user_histories", "events": "ingest", "item_text": "build_item_text"}
"""Table -> the step that makes it."""


def main(ds: Day, settings_file: SettingsFile = None) -> None:
    settings = load_settings(settings_file)
    model = live_model(settings)
    with open_spark(settings, "recommend") as spark, watched(spark, "recommend"):
        recommend(spark, settings, model, ds.date())


def recommend(spark: SparkSession, settings: Settings, model: Generation, day: dt.date) -> Generation:
    """ValueError when the day's features are missing: lists of what was known before would pass for the day's."""
    sources = {name: daily_table(settings, name) for name in MADE_BY}
    for name, source in sources.items():
        require_days(source, day, day, MADE_BY[name])
    rows = {name: source.read(spark, None, day) for name, source in sources.items()}
    users = _users(settings, rows["user_history"], rows["events"], day).persist()
    unavailable_file = _write_unavailable(spark, settings, model, rows["item_text"], day)
    table, manifest = daily_table(settings, "recommendations"), _manifest(settings, model)
    earlier = _earlier(table, day, manifest)
    kept = reusable(
        users,
        table.read(spark, earlier, earlier) if earlier else spark.createDataFrame([], table.schema),
        spark.read.parquet(unavailable_file),
        not_before=day - dt.timedelta(days=settings.inference.full_every_days - 1),
    ).persist()
    changed = users.join(kept, "user_id", "left_anti").withColumnRenamed("user_id", "key")
    spread = changed.repartition(settings.inference.partitions, "key").sortWithinPartitions("key")
    task = model_task(settings, model, unavailable_file=unavailable_file)
    ranked = rank(spread, task, carried=["input_hash"], profile=inference_profile(spark, settings))
    today = F.lit(day)
    parents = {role: parent for source in sources.values() for role, parent in source.parents(None, day).items()}
    generation = table.write(
        _lists(ranked).withColumn("made_ds", today).unionByName(kept.drop("ds")).withColumn("ds", today),
        day,
        day,
        replace(
            manifest,
            counts={"used again": kept.count()},
            settings=manifest.settings | {"lists_used_again_of": earlier and earlier.isoformat()},
            parents=manifest.parents | parents,
        ),
        "user_id",
    )
    kept.unpersist()
    users.unpersist()
    for row in table.read(spark, day, day).where("problem is not null").groupBy("problem").count().collect():
        log.warning("%d users: %s", row["count"], row.problem)
    counts = generation.manifest.counts
    again = counts["used again"]
    log.info(
        "%d users have lists: %d made by %s, %d used again",
        counts["rows"],
        counts["rows"] - again,
        model.identity,
        again,
    )
    return generation


def _users(settings: Settings, histories: DataFrame, events: DataFrame, day: dt.date) -> DataFrame:
    masking = [name for name, kind in settings.event_types.items() if kind.masks_seen]
    active = audience(
        histories,
        events,
        interval_end=interval_end(day),
        active_window_days=settings.publishing.active_window_days,
        history_items=settings.model.history_items,
        masking_types=masking,
    )
    return with_input_hash(active)


def _manifest(settings: Settings, model: Generation) -> Manifest:
    """What all lists of a run have in common; a list of another run is as good where this is equal."""
    decoding = asdict(settings.model.decoding)
    return Manifest(
        settings={"method": method_of(model)} | {name: decoding[name] for name in ("beam_width", "top_k", "precision")},
        parents={"model": model.identity, "codebook": model.manifest.parents["codebook"]},
        code_version=code_version(),
    )


def _earlier(table: DailyTable, day: dt.date, now: Manifest) -> dt.date | None:
    """The newest day before with lists, if they were made by the same; the log says so, or why not."""
    owners = table.owners(None, day - dt.timedelta(days=1))
    if not owners:
        log.info("everyone is ranked: there are no lists of a day before")
        return None
    generation, _, newest = owners[-1]
    then = generation.manifest
    pairs = [(name, value, then.settings.get(name)) for name, value in now.settings.items()]
    pairs += [(name, value, then.parents.get(name)) for name, value in now.parents.items()]
    pairs += [("code_version", now.code_version, then.code_version)]
    if other := [f"{name} was {before}, is {value}" for name, value, before in pairs if value != before]:
        log.info("everyone is ranked: for the lists of %s %s", newest, "; ".join(other))
        return None
    log.info("lists of %s are used again where nothing has changed", newest)
    return newest


def _write_unavailable(
    spark: SparkSession, settings: Settings, model: Generation, item_text: DataFrame, day: dt.date
) -> str:
    """Item-sized, and read by every worker: a file beside the lists, not a broadcast in the closure."""
    draft = store(settings, "unavailable_items").begin()
    codes = codes_of(spark, settings, model.manifest.parents["codebook"])
    count, checksum = write_rows(unavailable_items(codes, item_text), draft, "rows", "item_id")
    parents = daily_table(settings, "item_text").parents(None, day)
    manifest = Manifest({"ds": day.isoformat()}, {"rows": count}, parents=parents, checksums={"rows": checksum})
    return draft.commit(manifest).path("rows")


def unavailable_items(coded: DataFrame, item_text: DataFrame) -> DataFrame:
    """(item_id) of the coded items that no list may hold: not available any more, or not in the catalogue yet.

    `item_text`: its rows up to the day of the lists. A model may know later items, when it ranks for an earlier day.
    """
    available = newest_per_key(item_text, "item_id").where("available")
    return coded.select("item_id").join(available, "item_id", "left_anti")


def _lists(ranked: DataFrame) -> DataFrame:
    source = F.when(F.size("item_ids") > 0, "model").otherwise("fallback")
    columns = ("item_codes", "item_ids", "scores", "user_codes", "problem", "input_hash")
    return ranked.select(F.col("key").alias("user_id"), *columns, source.alias("source"))


if __name__ == "__main__":
    run(main)
