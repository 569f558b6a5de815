"""Codes for new items -> every user's list from the live model -> the gate -> Feast's online store -> a report.

Only the newest day goes online; running an older day again leaves today's lists alone. When the gate refuses,
yesterday's lists stay until their `valid_until`.
"""

import sys
from datetime import datetime, timedelta
from pathlib import Path

from airflow.sdk import DAG, CronDataIntervalTimetable, chain

sys.path.append(str(Path(__file__).parent))  # the DAG processor does this, DagBag and parts of the CLI do not
from spark_task import GPU_POOL, WAIT_FOR_INPUT, spark_task

with DAG(
    "recommend_daily",
    # The same moment and the same ds as features_daily, whose output the first task waits for by its retries: an asset
    # event has no ds, and a sensor would block days whose features were built by hand.
    schedule=CronDataIntervalTimetable("0 0 * * *", timezone="UTC"),
    start_date=datetime(1990, 1, 1),
    catchup=False,
    max_active_runs=1,
    tags=["precog", "recommendations"],
    default_args={"owner": "precog"},
    doc_md=__doc__,
):
    chain(
        spark_task("embed_item_text", pool=GPU_POOL, retries=WAIT_FOR_INPUT),
        spark_task("encode_items", "--append"),
        spark_task("recommend", pool=GPU_POOL, timeout=timedelta(hours=12)),
        spark_task("publish"),
        spark_task("report"),
    )
