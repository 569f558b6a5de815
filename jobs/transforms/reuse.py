"""Which users' lists of an earlier day are today's as well, so that only the others are ranked (ours).

A list depends on the model, the codes, the settings and the user's rows alone; the caller compares the first three.
Items that came since find their way into it when it has become too old to be used again.
"""

from __future__ import annotations

import datetime as dt

from pyspark.sql import DataFrame
from pyspark.sql import functions as F


def with_input_hash(users: DataFrame) -> DataFrame:
    """The users, with the hash of what their lists are made of: `history` and `seen`."""
    return users.withColumn("input_hash", F.xxhash64("history", "seen"))


def reusable(users: DataFrame, earlier: DataFrame, unavailable: DataFrame, not_before: dt.date) -> DataFrame:
    """The rows of `earlier` whose user has the same input still, and whose list was made on `not_before` or later.

    Left out are lists that hold an item of `unavailable` (item_id), and all that are not the model's or had a problem.
    """
    sound = (F.col("source") == "model") & F.col("problem").isNull()
    recent = F.col("made_ds") >= F.lit(not_before)
    inputs = users.select("user_id", "input_hash")
    same = earlier.where(sound & recent).join(inputs, inputs.columns, "left_semi")
    listed = same.select("user_id", F.explode("item_ids").alias("item_id"))
    spoilt = listed.join(unavailable, "item_id", "left_semi").select("user_id").distinct()
    return same.join(spoilt, "user_id", "left_anti")
