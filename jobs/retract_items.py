"""Hide items from everything that apps read, at once: a publish of one row, while users' lists stay as they are.

The items stay hidden through later publishes and roll-backs, until --undo, or until the catalogue itself says that they
are not available.

Reads   publications: the newest; catalogue; the publish ledger
Writes  publications: a new one without lists; then the feature view catalogue_state

    python -m jobs.retract_items --item-id 2571 --item-id 480
    python -m jobs.retract_items --item-id 480 --undo
"""

from __future__ import annotations

import datetime as dt
import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated

import typer
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from jobs.common.contracts import daily_table
from jobs.common.ledger import Lease, Ledger
from jobs.common.publishing import (
    USERS_LAST,
    Publication,
    ledger_of,
    newest_publication,
    put_online,
    retracted_items,
    stamp_of,
)
from jobs.common.settings import Settings, load_settings
from jobs.common.spark import open_spark
from jobs.common.step import SettingsFile, run
from jobs.transforms.publication import repaired_state

log = logging.getLogger("retract_items")

ItemIds = Annotated[list[str], typer.Option("--item-id", help="The item to hide; give it several times for several.")]
Undo = Annotated[bool, typer.Option("--undo", help="Show the items again instead of hiding them.")]


def main(item_ids: ItemIds, undo: Undo = False, settings_file: SettingsFile = None) -> None:
    settings = load_settings(settings_file)
    ledger = ledger_of(settings)
    with ledger.lease("retract_items") as lease, open_spark(settings, "retract_items") as spark:
        retract(spark, settings, ledger, lease, item_ids, undo=undo)


def retract(
    spark: SparkSession,
    settings: Settings,
    ledger: Ledger,
    lease: Lease,
    item_ids: Sequence[str],
    *,
    undo: bool = False,
) -> None:
    """Hide the items, or with `undo` show them again.

    Raises ValueError for items that the catalogue does not know, and before the first publish.
    """
    newest = ledger.newest_interval_end()
    last = newest_publication(ledger)
    if newest is None or last is None:
        raise ValueError("Nothing was published yet, so there is nothing to retract from. Run jobs.publish first.")
    _require_known(spark, settings, item_ids)
    hidden = set(retracted_items(spark, last))
    hidden = hidden - set(item_ids) if undo else hidden | set(item_ids)
    log.info("%s %s: what apps read of each item is written anew", "showing" if undo else "hiding", ", ".join(item_ids))
    begun, draft = ledger.begin(lease, "retract", newest)
    state = spark.read.parquet(last.path("catalogue_state"))
    publication = Publication(
        users=None,
        user_codes=None,
        catalogue_state=repaired_state(state, sorted(hidden), stamp_of(begun, settings)),
        manifest=replace(
            last.manifest,
            key=last.manifest.key | {"kind": "retract"},
            counts={},
            metrics={},
            parents=last.manifest.parents | {"publication": last.identity},
        ),
    )
    put_online(spark, settings, ledger, lease, begun, draft, publication, USERS_LAST)
    log.info("hidden now: %s", ", ".join(sorted(hidden)) or "no item")


def _require_known(spark: SparkSession, settings: Settings, item_ids: Sequence[str]) -> None:
    catalogue = daily_table(settings, "catalogue").read(spark, None, dt.date.max)
    known = {
        row[0] for row in catalogue.where(F.col("item_id").isin(list(item_ids))).select("item_id").distinct().collect()
    }
    if unknown := sorted(set(item_ids) - known):
        raise ValueError(f"The catalogue knows no item {', '.join(unknown)}. Nothing was retracted.")


if __name__ == "__main__":
    run(main)
