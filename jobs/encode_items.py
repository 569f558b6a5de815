"""Give codes to items that a codebook does not know yet, from its frozen codebooks; a published code never moves.

Reads   item_text up to the day, item_vectors, the codebook of the split, for `temporal` also that of the live model's
        twin, which is judged beside it (with --append: the codebook of the live model)
Writes  codebook_additions/<codebook>: appends codes, texts and their vectors; nothing when every item has its code

    python -m jobs.encode_items --ds 2016-10-16 --split temporal
    python -m jobs.encode_items --ds 2016-10-16 --append
"""

from __future__ import annotations

import datetime as dt
import logging
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
import typer
from pyspark.sql import SparkSession

from jobs.common.artefacts import additions_store, by_identity, code_files, live_model, method_of, newest
from jobs.common.code_version import code_version
from jobs.common.contracts import daily_table
from jobs.common.item_vectors import encoder_of, write_text_vectors
from jobs.common.ledger import Lease
from jobs.common.promotions import champion_twin
from jobs.common.publishing import ledger_of
from jobs.common.settings import Settings, load_settings
from jobs.common.spark import open_spark
from jobs.common.step import Day, SettingsFile, Split, run
from jobs.transforms.snapshot import newest_per_key
from model.config import TokenizerConfig
from model.data.files import ITEMS_FILE, TEXTS_FILE, load_tensors, save_table, save_tensors
from model.generation import Generation, Manifest, sha256
from model.recommender.ttds import item_states
from model.recommender.users import STATES_FILE
from model.tokenizer.health import reserve
from model.tokenizer.train import append_codes, write_item_codes

log = logging.getLogger("encode_items")

OptionalSplit = Annotated[Split | None, typer.Option("--split", help="The codebook: newest of this split.")]
Append = Annotated[bool, typer.Option("--append", help="The codebook: that of the live model.")]


def main(ds: Day, split: OptionalSplit = None, append: Append = False, settings_file: SettingsFile = None) -> None:
    settings = load_settings(settings_file)
    if append == (split is not None):
        raise ValueError("Give either --split temporal|all, or --append for the live model's codebook.")
    day = ds.date()
    behind = [one for one in _codebooks(settings, day, split) if not _read_everything(settings, one, day)]
    if not behind:
        log.info("every item has its code: none is new")
        return
    # The one writer's lease: two at once could give one code to two items, or two codes to one.
    with ledger_of(settings).lease("encode_items") as lease, open_spark(settings, "encode_items") as spark:
        for codebook in behind:
            encode(spark, settings, lease, codebook, day)


def _codebooks(settings: Settings, day: dt.date, split: Split | None) -> list[Generation]:
    """The codebooks to add to, each once.

    The champion is judged beside the newest temporal model, by its twin. While that one's codebook stays as it was
    trained, the champion cannot list what came since, nor read it in histories, and loses the more the older it is.
    """
    if split is None:
        return [by_identity(settings, live_model(settings).manifest.parents["codebook"])]
    codebooks = [newest(settings, "codebook", split, day, "train_tokenizer")]
    champion = champion_twin(settings) if split is Split.temporal else None
    if champion is not None and champion.manifest.parents["codebook"] != codebooks[0].identity:
        codebooks.append(by_identity(settings, champion.manifest.parents["codebook"]))
    return codebooks


def _read_everything(settings: Settings, codebook: Generation, day: dt.date) -> bool:
    """Whether its training, or a run of before, saw the same item text."""
    item_text = daily_table(settings, "item_text")
    made = [
        (additions.manifest.parents, additions.manifest.key["ds"])
        for additions in additions_store(settings, codebook).complete()
    ]
    trained_on = by_identity(settings, codebook.manifest.parents["training_set"]).manifest
    made.append((trained_on.parents, trained_on.key["to"]))
    return any(item_text.was_read(parents.values(), dt.date.fromisoformat(until), day) for parents, until in made)


def encode(spark: SparkSession, settings: Settings, lease: Lease, codebook: Generation, day: dt.date) -> None:
    """Append codes for the items up to the day that have none in the codebook."""
    item_text = daily_table(settings, "item_text")
    known = spark.read.parquet(*code_files(settings, codebook))
    items = newest_per_key(item_text.read(spark, None, day), "item_id").join(known, "item_id", "left_anti")
    # Item-sized, like everything from here on.
    new = items.select("item_id", "text_hash", "title", "text").orderBy("item_id").toPandas()
    if new.empty:
        log.info("every item has its code in %s", codebook.identity)
        return
    # Indices go on where the codebook's and the earlier additions' end.
    first_index = known.count()
    numbered = spark.createDataFrame(new.rename_axis("item_index").reset_index())
    draft = additions_store(settings, codebook).begin()
    vectors = write_text_vectors(spark, settings, encoder_of(codebook), numbered, draft)
    text_NE = load_tensors(vectors)["vectors"]
    index_N = np.arange(first_index, first_index + len(new), dtype=np.int32)
    save_table(draft.path(TEXTS_FILE), pa.table({"item_index": index_N, "title": new["title"], "text": new["text"]}))
    # The codebook's own settings: today's may be for the next one.
    tokenizer = TokenizerConfig(**codebook.manifest.settings["tokenizer"])
    levels = (f"code_{level}" for level in range(tokenizer.levels))
    taken_ML = known.select(*levels).toPandas().to_numpy(np.int64)
    if method_of(codebook) == "ttds":
        # Its towers read what its own language model makes of the texts.
        text_NE = item_states(codebook.uri, new["text"].to_list())
        save_tensors(draft.path(STATES_FILE), {"text": text_NE})
    item_ids, text_hashes = new["item_id"].to_list(), new["text_hash"].to_list()
    codes_NL = append_codes(codebook.uri, item_ids, text_NE, taken_ML)
    write_item_codes(draft.path(ITEMS_FILE), item_ids, text_hashes, codes_NL, first_index)
    room = reserve(np.concatenate([taken_ML, codes_NL]), tokenizer.codes_per_level)
    lease.check()
    draft.commit(
        Manifest(
            key={"ds": day.isoformat()},
            counts={"items": len(new)},
            metrics={"reserve": room},
            parents={"codebook": codebook.identity, **item_text.parents(None, day)},
            code_version=code_version(),
            checksums={ITEMS_FILE: sha256(draft.path(ITEMS_FILE))},
        )
    )
    log.info("gave codes to %d new items in %s", len(new), codebook.identity)
    warn_of_reserve(room)


def warn_of_reserve(room: dict[str, Any]) -> None:
    """Say it before codes run out where new items go; the items themselves always get one, if a less fitting one."""
    if room["nearly_full"]:
        tightest = room["tightest"][0]
        log.warning(
            "%d of %d prefixes have less than a tenth of their last codes free (%s: %d): new items like theirs will "
            "get codes of other prefixes. Train a new codebook.",
            room["nearly_full"],
            room["prefixes"],
            tightest["prefix"],
            tightest["free"],
        )


if __name__ == "__main__":
    run(main)
