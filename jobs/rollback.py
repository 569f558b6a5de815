"""Put the lists of an earlier publish online again, as a new publish.

Its lists keep their versions and `generated_at`, its users their codes; `valid_until` counts from the newest interval
again. Items retracted since then, and items that are no longer available, stay hidden.

The live model stays what it is, and the next publish replaces these lists by its own. Where the model is at fault, make
the one of before live again as well: the step says by which command.

Reads   publications: the earlier one and the newest; catalogue; the publish ledger
Writes  publications: a new one; then the feature views catalogue_state, item_codes, user_codes, user_recommendations

    python -m jobs.rollback --to-publish 7
"""

from __future__ import annotations

import datetime as dt
import logging
from dataclasses import replace
from typing import Annotated

import typer
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from jobs.common.artefacts import store
from jobs.common.ledger import Lease, Ledger, Record
from jobs.common.publishing import (
    USERS_LAST,
    Publication,
    current_catalogue,
    ledger_of,
    newest_publication,
    published_codes,
    put_online,
    retracted_items,
    stamp_of,
    users_with_code,
    users_with_list,
)
from jobs.common.settings import Settings, load_settings
from jobs.common.spark import open_spark
from jobs.common.step import SettingsFile, interval_end, run
from jobs.transforms import publication as transforms

log = logging.getLogger("rollback")

PublishNumber = Annotated[
    int, typer.Option("--to-publish", help="Number of the publish, as jobs.cli.publishes lists it.")
]


def main(to_publish: PublishNumber, settings_file: SettingsFile = None) -> None:
    settings = load_settings(settings_file)
    ledger = ledger_of(settings)
    with ledger.lease("rollback") as lease:
        target = find_target(ledger, to_publish)
        with open_spark(settings, "rollback") as spark:
            rollback(spark, settings, ledger, lease, target)


def rollback(spark: SparkSession, settings: Settings, ledger: Ledger, lease: Lease, target: Record) -> None:
    """Publish the target's lists anew."""
    old = ledger.publications.get(target.number)
    old_state = spark.read.parquet(old.path("catalogue_state"))
    lists = transforms.published_lists(spark.read.parquet(old.path("users")))
    newest = ledger.newest_interval_end()
    assert newest is not None
    today = newest.date() - dt.timedelta(days=1)
    retracted = {
        *retracted_items(spark, newest_publication(ledger)),
        *_unavailable(lists, current_catalogue(spark, settings, today)),
    }
    begun, draft = ledger.begin(lease, "rollback", newest)
    stamp = stamp_of(begun, settings)
    manifest = old.manifest
    generated_at = interval_end(dt.date.fromisoformat(manifest.key["ds"]))
    everyone = transforms.with_tombstones(lists, users_with_list(spark, ledger))
    model, codebook = manifest.parents["model"], manifest.parents["codebook"]
    coded = published_codes(spark, old)
    publication = Publication(
        users=transforms.stored_lists(everyone, model, codebook, generated_at, stamp),
        user_codes=transforms.user_codes(coded, users_with_code(spark, ledger), codebook, stamp),
        catalogue_state=transforms.repaired_state(old_state, sorted(retracted), stamp),
        manifest=replace(
            manifest,
            key=manifest.key | {"kind": "rollback"},
            counts={"users_with_list": manifest.counts["users_with_list"]},
            parents=manifest.parents | {"publication": old.identity},
        ),
    )
    put_online(spark, settings, ledger, lease, begun, draft, publication, USERS_LAST)
    log.info("the lists of %s are back, made by %s", manifest.key["ds"], model)
    warn_of_live_model(settings, model)


def warn_of_live_model(settings: Settings, model: str) -> None:
    """Say it when another model than the one whose lists are back (its identity) makes those of the next night."""
    live = store(settings, "model", "all").current()
    if live is not None and live.identity != model:
        log.warning(
            "these lists are of %s, but %s is still live: the next recommend and publish put its lists online again. "
            "To go back for good, run: python -m jobs.cli.models use %s",
            model,
            live.identity,
            model,
        )


def find_target(ledger: Ledger, number: int) -> Record:
    """The publish of that number. ValueError, with the numbers that can come back, if that put no lists online or they
    are deleted.
    """
    known = {record.number: record for record in ledger.records() if record.kind != "retract"}
    there = {publication.attempt for publication in ledger.publications.complete()}
    if number in known and number in there:
        return known[number]
    why = "was deleted by prune" if number in known else "never put lists online"
    numbers = ", ".join(str(each) for each in known if each in there) or "none"
    raise ValueError(f"Publish {number} {why}. Publishes that can come back: {numbers}.")


def _unavailable(lists: DataFrame, catalogue: DataFrame) -> list[str]:
    """Listed items that the catalogue no longer offers."""
    listed = lists.select(F.explode("item_ids").alias("item_id")).distinct()
    return [row[0] for row in listed.join(catalogue.where("available"), "item_id", "left_anti").collect()]


if __name__ == "__main__":
    run(main)
