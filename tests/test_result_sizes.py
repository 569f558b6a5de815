"""No step brings user-sized data to the driver: what tasks send it does not grow with the users. Spark's own listener
counts it."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from jobs.common.contracts import daily_table
from jobs.common.settings import load_settings
from jobs.transforms import histories
from tests.jobs.raw_data import event, write_events
from tests.shop import CHAIN, FIRST, LAST, Shop

MORE_USERS = 4000
"""So many that a plan with some tasks more or less, as Spark chooses by what is ready first, weighs nothing."""
STEPS = [step for step in CHAIN if step.name in ("ingest", "build_user_histories", "recommend")]


def sent_to_driver(spark: SparkSession, work: Callable[[], object]) -> int:
    """Bytes of the results of all tasks that the work starts."""

    def stages() -> dict[int, int]:
        context = spark.sparkContext._jsc.sc()
        context.listenerBus().waitUntilEmpty()
        store = context.statusStore()
        found = store.stageList(None, False, False, *(getattr(store, f"stageList$default${n}")() for n in (4, 5)))
        return {found.apply(n).stageId(): found.apply(n).resultSize() for n in range(found.size())}

    before = stages().keys()
    work()
    sizes = [size for stage, size in stages().items() if stage not in before]
    assert sizes
    return sum(sizes)


def with_more_users(shop: Shop, folder: Path, users: int) -> str:
    """The settings file of a copy of the shop's lake whose raw data hold so many users more."""
    other = shop.copy(folder)
    moments = [FIRST.replace(tzinfo=dt.UTC) + dt.timedelta(days=day, hours=12) for day in range(3)]
    more = [event(f"more{n}", f"i{n % 30:02}", moment) for n in range(users) for moment in moments]
    write_events(other.settings, *more, part="more")
    return other.settings_file


@pytest.mark.slow
def test_results_do_not_grow_with_the_users(
    shop: Shop, spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Both have a bound of megabytes, which so few users do not reach.
    monkeypatch.setattr(histories, "HASHES", 64)
    spark.conf.set("spark.sql.autoBroadcastJoinThreshold", "-1")

    def sizes(settings_file: str) -> dict[str, int]:
        found = {step.name: sent_to_driver(spark, lambda: step.run(settings_file)) for step in STEPS}  # noqa: B023
        rows = daily_table(load_settings(settings_file), "user_history").read(spark, None, LAST.date())
        return found | {"a mistake": sent_to_driver(spark, rows.collect)}

    try:
        few, many = (sizes(with_more_users(shop, tmp_path / str(users), users)) for users in (1, 1 + MORE_USERS))
    finally:
        spark.conf.unset("spark.sql.autoBroadcastJoinThreshold")
    bytes_per_user = {name: round((many[name] - few[name]) / MORE_USERS, 1) for name in few}
    assert bytes_per_user.pop("a mistake") > 25, "to collect the histories would be seen"
    assert max(bytes_per_user.values()) < 5, bytes_per_user
