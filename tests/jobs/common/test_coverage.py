"""Coverage: which days are missing, and the command that fills them."""

from __future__ import annotations

import datetime as dt

import pytest
from pyspark.sql import SparkSession

from jobs.common.contracts import EVENTS, daily_table
from jobs.common.coverage import missing_days, require_days
from jobs.common.settings import Settings
from model.generation import Manifest


def day(number: int) -> dt.date:
    return dt.date(2020, 1, number)


def test_gaps(spark: SparkSession, settings: Settings) -> None:
    table = daily_table(settings, "events")
    assert missing_days(table, day(1), day(3)) == [(day(1), day(3))]
    for start, end in ((3, 4), (4, 5), (8, 9)):
        table.write(spark.createDataFrame([], EVENTS), day(start), day(end), Manifest())
    assert missing_days(table, day(1), day(10)) == [(day(1), day(2)), (day(6), day(7)), (day(10), day(10))]
    assert missing_days(table, day(3), day(5)) == []
    require_days(table, day(8), day(9), "ingest")
    with pytest.raises(
        ValueError, match=r"2020-01-06 to 2020-01-07 \(and 1 more.*jobs\.ingest --from 2020-01-06 --to 2020-01-07"
    ):
        require_days(table, day(3), day(10), "ingest")
