"""Item text: what encoders read."""

from __future__ import annotations

import datetime as dt
import hashlib

import pytest
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from jobs.transforms.item_text import MAX_CHARACTERS, clean, item_texts


@pytest.mark.parametrize(
    ("raw", "cleaned"),
    [
        ("  Heat \n\t (1995)\u00a0 ", "Heat (1995)"),
        ("<p>Bold <b>and</b><br/>new</p>", "Bold and new"),
        ("R&amp;D &quot;now&quot; &#39;and&#39; then&nbsp;!", "R&D \"now\" 'and' then !"),
        ("&amp;lt;b&amp;gt;", "&lt;b&gt;"),
        ("before<!-- a > b -->after", "before after"),
        ("x<script type='a'>if (a<b) {}</script>y<STYLE>p{}</STYLE>z", "x y z"),
        ("1 < 2 and 3 > 2", "1 < 2 and 3 > 2"),
        ("雪 Schnee 𝄞", "雪 Schnee 𝄞"),
        ("<br>", ""),
        (None, None),
    ],
)
def test_clean(spark: SparkSession, raw: str | None, cleaned: str | None) -> None:
    assert spark.range(1).select(clean(F.lit(raw).cast("string"))).collect()[0][0] == cleaned


def test_rows(spark: SparkSession) -> None:
    day = dt.date(2020, 1, 1)
    rows = [
        ("full", "<i>Heat</i>", "A  thief.", ["Crime", " Drama "], True, day),
        ("bare", "Heat", None, [], False, day),
        ("long", "Heat", "𝄞 " * 1000, [], True, day),
    ]
    schema = "item_id string, title string, description string, categories array<string>, available boolean, ds date"
    known_from = F.col("event_timestamp").cast("string").alias("known_from")
    texts = {
        row.item_id: row for row in item_texts(spark.createDataFrame(rows, schema)).select("*", known_from).collect()
    }
    full, bare, long = texts["full"], texts["bare"], texts["long"]
    assert (full.title, full.text, full.available) == ("Heat", "Heat. Crime, Drama. A thief.", True)
    assert full.text_hash == hashlib.sha256(full.text.encode()).hexdigest()
    assert (full.ds, full.known_from) == (day, "2020-01-02 00:00:00")
    assert (bare.text, bare.available) == ("Heat", False)
    assert len(long.text) in (MAX_CHARACTERS - 1, MAX_CHARACTERS)
    assert long.text.startswith("Heat. 𝄞 𝄞")
