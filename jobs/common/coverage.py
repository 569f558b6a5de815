"""Which days of a daily table exist, and what to tell a person when some do not."""

from __future__ import annotations

import datetime as dt

from jobs.common.tables import DailyTable

ONE_DAY = dt.timedelta(days=1)


def missing_days(table: DailyTable, start: dt.date, end: dt.date) -> list[tuple[dt.date, dt.date]]:
    """Stretches of start..end (both included) that no finished generation covers, oldest first."""
    missing = []
    free = start
    for _, first, last in table.owners(start, end):
        if free < first:
            missing.append((free, first - ONE_DAY))
        free = last + ONE_DAY
    if free <= end:
        missing.append((free, end))
    return missing


def require_days(table: DailyTable, start: dt.date, end: dt.date, step: str) -> None:
    """ValueError, naming the command to run, when the table does not cover start..end (both included)."""
    missing = missing_days(table, start, end)
    if missing:
        first, last = missing[0]
        more = f" (and {len(missing) - 1} more gaps after it)" if len(missing) > 1 else ""
        raise ValueError(
            f"{table.store.uri} does not hold {describe_days(first, last)}{more}. "
            f"Run: python -m jobs.{step} --from {first} --to {last}"
        )


def describe_days(start: dt.date, end: dt.date) -> str:
    """ "2016-10-15" or "2016-10-15 to 2016-10-16", for messages."""
    return f"{start}" if start == end else f"{start} to {end}"
