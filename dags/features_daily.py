"""Raw events and catalogue of one day -> Feast's offline tables -> Feast's online store.

A day's rows depend on the events before its end alone, so days may run in any order, side by side and again: this is
the DAG to backfill. Many days at once are cheaper by hand, in one Spark job per step:
`python -m jobs.build_user_histories --from 2016-01-01 --to 2016-10-14`, and so on for each step.
"""

import sys
from datetime import datetime
from pathlib import Path

from airflow.sdk import DAG, CronDataIntervalTimetable

sys.path.append(str(Path(__file__).parent))  # the DAG processor does this, DagBag and parts of the CLI do not
from spark_task import spark_task

with DAG(
    "features_daily",
    # Runs when its day is over, with ds = that day. "@daily" would run at the day's start, before its events exist.
    schedule=CronDataIntervalTimetable("0 0 * * *", timezone="UTC"),
    # Before any data, because Airflow gives a run before its start date no tasks and calls that a success.
    start_date=datetime(1990, 1, 1),
    catchup=False,
    tags=["precog", "features"],
    default_args={"owner": "precog"},
    doc_md=__doc__,
):
    ingest = spark_task("ingest")
    build_user_histories = spark_task("build_user_histories")
    build_item_text = spark_task("build_item_text")
    materialize = spark_task("materialize")

    ingest >> [build_user_histories, build_item_text] >> materialize
