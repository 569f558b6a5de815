"""No step brings user-sized data to the driver: what tasks send it does not grow with the users. Spark's own listener
counts it."""

from __future__ import annotations

import datetime as dt
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from jobs.common.contracts import daily_table
from jobs.common.settings import load_settings
from tests.jobs.raw_data import event, write_events
from tests.shop import CHAIN, FIRST, LAST, USERS, Shop

FACTOR = 20
"""So many more users on the larger side."""
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


def with_more_users(shop: Shop, folder: Path) -> str:
    """The settings file of a copy of the shop's lake whose raw data hold FACTOR times as many users."""
    home = Path(shop.settings_file).parent
    shutil.copytree(home, folder)
    file = folder / "settings.toml"
    file.write_text((home / "settings.toml").read_text().replace(str(home), str(folder)))
    moments = [FIRST.replace(tzinfo=dt.UTC) + dt.timedelta(days=day, hours=12) for day in range(3)]
    more = [event(f"more{n}", f"i{n % 30:02}", moment) for n in range(USERS * (FACTOR - 1)) for moment in moments]
    write_events(load_settings(str(file)), *more, part="more")
    return str(file)


@pytest.mark.slow
def test_results_do_not_grow_with_the_users(shop: Shop, spark: SparkSession, tmp_path: Path) -> None:
    def sizes(settings_file: str) -> dict[str, int]:
        found = {step.name: sent_to_driver(spark, lambda: step.run(settings_file)) for step in STEPS}  # noqa: B023
        histories = daily_table(load_settings(settings_file), "user_history").read(spark, None, LAST.date())
        return found | {"a mistake": sent_to_driver(spark, histories.collect)}

    few, many = sizes(shop.settings_file), sizes(with_more_users(shop, tmp_path / "many"))
    grown = {name: round(many[name] / few[name], 2) for name in few}
    assert grown.pop("a mistake") > 3, "collecting the histories would be seen"
    assert max(grown.values()) < 1.5, grown
