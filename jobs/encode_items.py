"""Give codes to items that a codebook does not know yet, from its frozen codebooks; a published code never moves.

Reads   item_text up to the day, item_vectors, the codebook of the split (or, with --append, of the live model)
Writes  codebook_additions/<codebook>: appends (item, code); nothing when every item has its code

    python -m jobs.encode_items --ds 2016-10-16 --split temporal
    python -m jobs.encode_items --ds 2016-10-16 --append
"""

from __future__ import annotations

import logging
from typing import Annotated

import typer
from pyspark.sql import functions as F
from pyspark.sql.window import Window

from jobs.common.artefacts import additions_store, by_identity, code_files, live_model, newest
from jobs.common.code_version import code_version
from jobs.common.contracts import daily_table
from jobs.common.settings import load_settings
from jobs.common.spark import open_spark
from jobs.common.step import Day, SettingsFile, Split, run
from jobs.transforms.snapshot import newest_per_key
from model.generation import Manifest

log = logging.getLogger("encode_items")

OptionalSplit = Annotated[Split | None, typer.Option("--split", help="The codebook: newest of this split.")]
Append = Annotated[bool, typer.Option("--append", help="The codebook: that of the live model.")]


def main(ds: Day, split: OptionalSplit = None, append: Append = False, settings_file: SettingsFile = None) -> None:
    settings = load_settings(settings_file)
    if append == (split is not None):
        raise ValueError("Give either --split temporal|all, or --append for the live model's codebook.")
    if split is None:
        codebook = by_identity(settings, live_model(settings).manifest.parents["codebook"])
    else:
        codebook = newest(settings, "codebook", split, "train_tokenizer")
    item_text = daily_table(settings, "item_text")
    with open_spark(settings, "encode_items") as spark:
        known = spark.read.parquet(*code_files(settings, codebook)).select("item_id", "item_index")
        items = (
            newest_per_key(item_text.read(spark, None, ds.date()), "item_id")
            .join(known, "item_id", "left_anti")
            .persist()
        )
        count = items.count()
        if count == 0:
            log.info("every item has its code in %s", codebook.identity)
            return
        # Indices go on where the codebook's and the earlier additions' end.
        first = known.agg(F.max("item_index")).first()[0] + 1
        order = F.row_number().over(Window.orderBy("item_id"))
        numbered = items.select((order + (first - 1)).cast("int").alias("item_index"), "item_id", "text_hash")
        draft = additions_store(settings, codebook).begin()
        _encode(spark, settings, codebook, numbered, draft)
    draft.commit(
        Manifest(
            key={"ds": ds.date().isoformat()},
            counts={"items": count},
            parents={"codebook": codebook.identity, **item_text.parents(None, ds.date())},
            code_version=code_version(),
        )
    )
    log.info("gave codes to %d new items in %s", count, codebook.identity)


if __name__ == "__main__":
    run(main)
