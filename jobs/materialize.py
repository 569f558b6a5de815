"""Write user histories and item text of some days online. A row goes only while it is its user's or item's newest: days
may be built again and in any order, and online stands what the newest built day says.

Reads   user_history and item_text: the days, and which users and items have a later row
Writes  the feature views user_history and item_text

    python -m jobs.materialize --ds 2016-10-16
    python -m jobs.materialize --from 1995-01-09 --to 2016-10-16
"""

from __future__ import annotations

import datetime as dt
import logging

from pyspark.sql import SparkSession

from jobs.common.contracts import daily_table
from jobs.common.coverage import describe_days, require_days
from jobs.common.feature_store import apply, import_ahead, open_store, write_online
from jobs.common.ledger import Lease
from jobs.common.publishing import ledger_of
from jobs.common.settings import Settings, load_settings
from jobs.common.spark import open_spark
from jobs.common.step import FromDay, OptionalDay, SettingsFile, ToDay, day_range, interval_end, run
from jobs.transforms.publication import newest_in_lake

log = logging.getLogger("materialize")

VIEWS = {"user_history": ("user_id", "build_user_histories"), "item_text": ("item_id", "build_item_text")}
"""Feature view and daily table -> its key, and the step that builds it."""


def main(ds: OptionalDay = None, start: FromDay = None, end: ToDay = None, settings_file: SettingsFile = None) -> None:
    days = day_range(ds, start, end)
    settings = load_settings(settings_file)
    import_ahead()
    with ledger_of(settings).lease("materialize") as lease, open_spark(settings, "materialize") as spark:
        materialize(spark, settings, lease, *days)


def materialize(spark: SparkSession, settings: Settings, lease: Lease, start: dt.date, end: dt.date) -> None:
    """Write the days start..end, both included. ValueError when one of them was not built."""
    tables = {name: daily_table(settings, name) for name in VIEWS}
    for name, (_, step) in VIEWS.items():
        require_days(tables[name], start, end, step)
    apply(settings)
    store = open_store(settings)
    for name, (key, _) in VIEWS.items():
        table = tables[name]
        rows = table.read(spark, start, end)
        later = table.read(spark, end + dt.timedelta(days=1), dt.date.max)
        # Later than all that was ever written, whatever the day: which row is the newest was settled here already.
        newest_day = table.owners(None, dt.date.max)[-1][2]
        event_timestamp = interval_end(newest_day) + dt.timedelta(milliseconds=lease.token)
        lease.check()
        current = newest_in_lake(rows, later, key, event_timestamp)
        write_online(store, settings, name, current, event_timestamp)
    log.info("%s: user histories and item text are online", describe_days(start, end))


if __name__ == "__main__":
    run(main)
