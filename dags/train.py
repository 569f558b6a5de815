"""Item vectors -> codes -> fine-tuned model, judged on a split in time, trained once more on everything, promoted.

The steps from the training set to the model run twice: `temporal` leaves the last holdout_days out and is judged on
them, `all` is the same recipe on all data and what goes live. A refused promotion leaves the model of before in place.
"""

import sys
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from airflow.sdk import DAG, CronTriggerTimetable, chain
from airflow.sdk.bases.operator import BaseOperator

sys.path.append(str(Path(__file__).parent))  # the DAG processor does this, DagBag and parts of the CLI do not
from spark_task import GATE, GPU_POOL, WAIT_FOR_INPUT, spark_task

TRAINING = timedelta(hours=24)
"""Of a language model, at most; one method trains it in `train_tokenizer`, too."""


def train_on(split: str) -> list[BaseOperator]:
    """The steps from the training set to the model, on one split of the past.

    `encode_items` follows `train_tokenizer`: it gives codes to items that are on sale and in no training sequence.
    """
    steps: list[tuple[str, dict[str, Any]]] = [
        ("build_training_set", {}),
        ("train_behaviour", {"pool": GPU_POOL}),
        ("train_tokenizer", {"pool": GPU_POOL, "timeout": TRAINING}),
        ("encode_items", {}),
        ("finetune", {"pool": GPU_POOL, "timeout": TRAINING}),
    ]
    return [spark_task(step, "--split", split, task_id=f"{step}_{split}", **options) for step, options in steps]


with DAG(
    "train",
    # Mondays, with ds = the Sunday that just ended. A weekly data interval would make ds a week old.
    schedule=CronTriggerTimetable("0 0 * * 1", timezone="UTC", interval=timedelta(days=1)),
    start_date=datetime(1990, 1, 1),
    catchup=False,
    max_active_runs=1,
    tags=["precog", "models"],
    default_args={"owner": "precog"},
    doc_md=__doc__,
):
    chain(
        spark_task("embed_item_text", pool=GPU_POOL, retries=WAIT_FOR_INPUT),
        *train_on("temporal"),
        spark_task("evaluate", "--split", "temporal", pool=GPU_POOL),
        *train_on("all"),
        spark_task("promote", retries=GATE),
    )
