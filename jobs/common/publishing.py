"""What publish, rollback and retract_items share: the publication that they write, and its way online.

A publication is a generation of the store `publications`:

    users/              the rows of user_recommendations to be written, tombstones included; a retraction has none
    user_codes/         the rows of user_codes to be written, likewise; empty where the method gives users no codes
    catalogue_state/    the one row of catalogue_state
"""

from __future__ import annotations

import datetime as dt
import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import reduce

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from jobs.common.artefacts import by_identity, code_files
from jobs.common.code_version import code_version
from jobs.common.contracts import daily_table
from jobs.common.feature_store import apply, open_store, write_online
from jobs.common.ledger import Begun, Lease, Ledger, Record
from jobs.common.settings import Settings
from jobs.common.tables import write_rows
from jobs.transforms.publication import Stamp, item_codes, published_lists
from jobs.transforms.snapshot import newest_per_key
from model.generation import Draft, Generation, Manifest

log = logging.getLogger("publishing")

USERS_LAST = ("catalogue_state", "item_codes", "user_codes", "user_recommendations")
"""Order for lists that need a longer list of retracted items than the one online."""
USERS_FIRST = ("item_codes", "user_codes", "user_recommendations", "catalogue_state")
"""Order for lists that are clean by themselves: retracted items may be forgotten once the old lists are gone."""


@dataclass(frozen=True)
class Publication:
    """What one publish puts online. `manifest` names the parents model, codebook, recommendations, and the day `ds`."""

    users: DataFrame | None
    user_codes: DataFrame | None
    catalogue_state: DataFrame
    manifest: Manifest


def ledger_of(settings: Settings) -> Ledger:
    return Ledger(settings.lake_uri, settings.publishing.lease_seconds)


def stamp_of(begun: Begun, settings: Settings) -> Stamp:
    """The times that a publish writes: valid for so many days after the newest interval end, whatever it publishes."""
    return Stamp(begun.event_timestamp, begun.interval_end + dt.timedelta(days=settings.publishing.valid_for_days))


def current_catalogue(spark: SparkSession, settings: Settings, until: dt.date) -> DataFrame:
    """The current row of each item, as of the end of a day."""
    return newest_per_key(daily_table(settings, "catalogue").read(spark, None, until), "item_id", "updated_at")


def codes_of(spark: SparkSession, settings: Settings, codebook: str) -> DataFrame:
    """(item_id, codes) of every item that has a code in the codebook of that identity, additions included."""
    return item_codes(spark.read.parquet(*code_files(settings, by_identity(settings, codebook))))


def users_with_list(spark: SparkSession, ledger: Ledger) -> DataFrame:
    """Users (user_id) who may be online with a list: of the last whole publish, and of any that broke off since."""
    return _users(spark, (published_lists(spark.read.parquet(one.path("users"))) for one in _maybe_online(ledger)))


def users_with_code(spark: SparkSession, ledger: Ledger) -> DataFrame:
    """Users (user_id) who may be online with a code; of the same publishes."""
    return _users(spark, (published_codes(spark, one) for one in _maybe_online(ledger)))


def _users(spark: SparkSession, published: Iterable[DataFrame]) -> DataFrame:
    empty = spark.createDataFrame([], "user_id string")
    return reduce(DataFrame.union, (rows.select("user_id") for rows in published), empty).distinct()


def published_codes(spark: SparkSession, publication: Generation) -> DataFrame:
    """(user_id, codes) of the users to whom a publication gave a code: nobody, where an older version wrote it."""
    if "user_codes" not in publication.manifest.checksums:
        return spark.createDataFrame([], "user_id string, codes string")
    rows = spark.read.parquet(publication.path("user_codes"))
    return rows.where("codes is not null").select("user_id", "codes")


def _maybe_online(ledger: Ledger) -> Iterator[Generation]:
    """The publications whose users may be online, newest first."""
    last = last_lists(ledger)
    for begun in ledger.begun():
        if last is not None and begun.number < last.number:
            return
        if begun.kind != "retract" and (publication := _finished(ledger, begun.number)) is not None:
            yield publication


def _finished(ledger: Ledger, number: int) -> Generation | None:
    try:
        return ledger.publications.get(number)
    except ValueError:
        return None  # broke off before it wrote anything online


def last_lists(ledger: Ledger) -> Record | None:
    """The last whole publish of lists."""
    return next((record for record in ledger.records() if record.kind != "retract"), None)


def newest_publication(ledger: Ledger) -> Generation | None:
    """The newest publication that is or may be online: what it retracts stays retracted."""
    written = (_finished(ledger, begun.number) for begun in ledger.begun())
    return next((publication for publication in written if publication is not None), None)


def retracted_items(spark: SparkSession, publication: Generation | None) -> list[str]:
    """Items that the publication hides. A short list: people name them one by one."""
    if publication is None:
        return []
    row = spark.read.parquet(publication.path("catalogue_state")).select("stored_retracted_item_ids").first()
    assert row is not None
    return list(row[0])


def put_online(
    spark: SparkSession,
    settings: Settings,
    ledger: Ledger,
    lease: Lease,
    begun: Begun,
    draft: Draft,
    publication: Publication,
    order: Sequence[str],
) -> Record:
    """Write the publication as a generation, then its rows online in that order, then the record."""
    generation = _write(lease, draft, publication)
    views = {"catalogue_state": spark.read.parquet(generation.path("catalogue_state"))}
    if publication.users is not None:
        codebook = publication.manifest.parents["codebook"]
        views["user_recommendations"] = spark.read.parquet(generation.path("users"))
        views["item_codes"] = codes_of(spark, settings, codebook).select(
            "*",
            F.lit(codebook).alias("codebook_version"),
            F.lit(begun.event_timestamp).alias("event_timestamp"),
        )
    if generation.manifest.counts.get("user_codes"):
        views["user_codes"] = spark.read.parquet(generation.path("user_codes"))
    apply(settings)
    store = open_store(settings)
    for name in order:
        if name in views:
            lease.check()
            write_online(store, settings, name, views[name], begun.event_timestamp)
    record = ledger.finish(lease, begun, generation, publication.manifest.parents["recommendations"])
    log.info("publish %d (%s) is online: %s", record.number, record.kind, generation.manifest.counts)
    return record


def _write(lease: Lease, draft: Draft, publication: Publication) -> Generation:
    lease.check()
    counts, checksums = {}, {}
    tables = {
        "users": publication.users,
        "user_codes": publication.user_codes,
        "catalogue_state": publication.catalogue_state,
    }
    for name, rows in tables.items():
        if rows is not None:
            counts[name], checksums[name] = write_rows(rows, draft, name)
    return draft.commit(
        replace(
            publication.manifest,
            counts=counts | publication.manifest.counts,
            checksums=checksums,
            code_version=code_version(),
        )
    )
