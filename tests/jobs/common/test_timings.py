"""Times of a day's steps."""

from __future__ import annotations

import datetime as dt

from jobs.common import timings
from jobs.common.settings import Settings

DAY = dt.date(2024, 5, 1)


def test_the_newest_run_of_each_step_counts_and_the_longest_stands_first(settings: Settings) -> None:
    assert timings.of_day(settings, DAY) == {}
    for label, seconds in (("publish", 9.0), ("recommend", 2.0), ("finetune all", 75.34), ("publish", 1.0)):
        timings.keep(settings, DAY, label, seconds)
    timings.keep(settings, DAY + dt.timedelta(days=1), "publish", 3.0)
    assert list(timings.of_day(settings, DAY).items()) == [("finetune all", 75.3), ("recommend", 2.0), ("publish", 1.0)]
