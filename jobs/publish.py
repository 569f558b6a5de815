"""Put the day's lists online, all users at once, if they pass the gate; only the newest interval publishes.

Reads   recommendations of the day, the codebook that they name, catalogue, events, the publish ledger
Writes  publications: what goes online; then the feature views item_codes, user_codes, user_recommendations,
        catalogue_state

    python -m jobs.publish --ds 2016-10-16
"""

from __future__ import annotations

import datetime as dt
import logging
from typing import Any

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from jobs.common.contracts import daily_table
from jobs.common.feature_store import import_ahead
from jobs.common.ledger import Lease, Ledger
from jobs.common.publishing import (
    USERS_FIRST,
    Publication,
    codes_of,
    current_catalogue,
    last_lists,
    ledger_of,
    newest_publication,
    put_online,
    retracted_items,
    stamp_of,
    users_with_code,
    users_with_list,
)
from jobs.common.settings import Settings, load_settings
from jobs.common.spark import open_spark
from jobs.common.step import Day, SettingsFile, interval_end, run
from jobs.transforms import publication as transforms
from model.generation import Generation, Manifest

log = logging.getLogger("publish")

POPULARITY_LENGTH = 100
"""Items of the popularity list: more than a list shows, since retracted and excluded ones drop out on read."""


def main(ds: Day, settings_file: SettingsFile = None) -> None:
    settings = load_settings(settings_file)
    ledger = ledger_of(settings)
    import_ahead()
    with ledger.lease("publish") as lease, open_spark(settings, "publish") as spark:
        publish(spark, settings, ledger, lease, ds.date())


def publish(spark: SparkSession, settings: Settings, ledger: Ledger, lease: Lease, day: dt.date) -> None:
    """Raises ValueError with every reason when the gate is shut; nothing is published then."""
    source = _recommendations(settings, day)
    newest = ledger.newest_interval_end()
    if newest is not None and interval_end(day) < newest:
        newest_day = newest.date() - dt.timedelta(days=1)
        log.warning("nothing is published: lists of %s were, and those of %s are older", newest_day, day)
        return
    codebook = source.manifest.parents["codebook"]
    lists = daily_table(settings, "recommendations").read(spark, day, day)
    catalogue = current_catalogue(spark, settings, day).select("item_id", "available").persist()
    codes = codes_of(spark, settings, codebook).persist()
    popular = _popular(spark, settings, day, catalogue, codes)
    figures = _gate(spark, ledger, settings, lists, catalogue, codes, popular)
    retracted = retracted_items(spark, newest_publication(ledger))
    # The catalogue says so itself by now: the gate keeps such items out of lists.
    gone = {row[0] for row in catalogue.where(F.col("item_id").isin(retracted) & ~F.col("available")).collect()}

    begun, draft = ledger.begin(lease, "publish", interval_end(day))
    stamp = stamp_of(begun, settings)
    generated_at = interval_end(day)
    everyone = transforms.with_tombstones(lists, users_with_list(spark, ledger))
    state = transforms.catalogue_state(
        spark, settings.catalogue_id, popular, codebook, generated_at, sorted(set(retracted) - gone), stamp
    )
    coded = lists.where("user_codes is not null").select("user_id", F.col("user_codes").alias("codes"))
    publication = Publication(
        users=transforms.stored_lists(everyone, source.manifest.parents["model"], codebook, generated_at, stamp),
        user_codes=transforms.user_codes(coded, users_with_code(spark, ledger), codebook, stamp),
        catalogue_state=state,
        manifest=Manifest(
            key={"kind": "publish", "ds": day.isoformat()},
            counts={"users_with_list": figures.pop("users")},
            metrics=figures,
            settings={"publishing": settings.publishing.model_dump()},
            parents={
                "recommendations": source.identity,
                "model": source.manifest.parents["model"],
                "codebook": codebook,
            },
        ),
    )
    put_online(spark, settings, ledger, lease, begun, draft, publication, USERS_FIRST)


def _recommendations(settings: Settings, day: dt.date) -> Generation:
    owners = daily_table(settings, "recommendations").owners(day, day)
    if not owners:
        raise ValueError(
            f"There are no recommendations of {day} in {settings.lake_uri}. Run python -m jobs.recommend --ds {day}."
        )
    return owners[0][0]


def _popular(
    spark: SparkSession, settings: Settings, day: dt.date, catalogue: DataFrame, codes: DataFrame
) -> list[tuple[str, str, float]]:
    """(item_id, code, weighted count) of the popularity list; at most POPULARITY_LENGTH rows."""
    first = day - dt.timedelta(days=settings.publishing.popularity_days - 1)
    events = daily_table(settings, "events").read(spark, first, day)
    weights = {name: kind.weight for name, kind in settings.event_types.items()}
    rows = transforms.popular_items(events, weights, catalogue, codes, POPULARITY_LENGTH).collect()
    return [(row.item_id, row.codes, row.score) for row in rows]


def _gate(
    spark: SparkSession,
    ledger: Ledger,
    settings: Settings,
    lists: DataFrame,
    catalogue: DataFrame,
    codes: DataFrame,
    popular: list[tuple[str, str, float]],
) -> dict[str, Any]:
    """`list_figures` of the lists, if all is well. ValueError with every reason otherwise."""
    bounds, k = settings.publishing, settings.model.decoding.top_k
    reasons = [
        f"{row.rows} {row.reason}" + (f", e.g. item {row.example}" if row.example else "")
        for row in transforms.defects(lists, catalogue, codes).collect()
    ]
    last = last_lists(ledger)
    publication = ledger.publications.get(last.number) if last else None
    before = publication.manifest.counts["users_with_list"] if publication else 0
    old = transforms.published_lists(spark.read.parquet(publication.path("users"))) if publication else lists.limit(0)
    top = [item_id for item_id, _, _ in popular[:k]]
    row = transforms.list_figures(lists, old, top, k).first()
    assert row is not None
    figures: dict[str, Any] = row.asDict()
    if row.users == 0 or row.users < bounds.min_users_share * before:
        reasons.append(
            f"{row.users} users with a list, {before} in the last publish "
            f"(publishing.min_users_share = {bounds.min_users_share})"
        )
    elif row.full < bounds.min_full_share:
        reasons.append(f"only {row.full:.1%} of them full (publishing.min_full_share = {bounds.min_full_share})")
    if row.popular is not None and row.popular > bounds.max_popular_share:
        reasons.append(
            f"{row.popular:.1%} of all entries are the {k} most popular items "
            f"(publishing.max_popular_share = {bounds.max_popular_share})"
        )
    if row.overlap is not None and row.overlap < bounds.min_list_overlap:
        reasons.append(
            f"lists have {row.overlap:.1%} in common with those of the last publish "
            f"(publishing.min_list_overlap = {bounds.min_list_overlap})"
        )
    if not popular:
        reasons.append("no item for the popularity list: no weighed event of an available item that has a code")
    if reasons:
        raise ValueError("\n  ".join(["The gate is shut, nothing was published:", *reasons]))
    return figures


if __name__ == "__main__":
    run(main)
