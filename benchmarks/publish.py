"""A day of few changes, publishing many users, what a read costs, readers during a publish.

python -m benchmarks.publish [--quick]

Figures: recommend.incremental_share (a day on which 5% of the users changed, over a full run), publish.users_per_s and
read times by store (p50 and p99 of one user's final list; read_vs_bare: over Feast reading the stored fields alone),
publish.driver_growth (the driver process's greatest memory with all users over that with a tenth of them),
publish.read_vs_decode (decoding one user live over the read), publish.mixed_reads (lists that are neither the old nor
the new one, of all that were read while a publish ran). Kills: python -m benchmarks.faults --of publish.
"""

from __future__ import annotations

import datetime as dt
import multiprocessing
import resource
import shutil
import time
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import numpy as np
import torch
import typer
from pyspark.sql import SparkSession

from benchmarks import big_lake, decode
from benchmarks.big_lake import DAY, K
from benchmarks.figures import Figure, publish
from benchmarks.online import STORES, online_store
from jobs.common.feature_store import RECOMMENDATIONS_SERVICE, apply, open_store
from jobs.common.publishing import ledger_of
from jobs.common.settings import Settings
from jobs.common.spark import open_spark
from jobs.publish import publish as publish_lists
from jobs.recommend import recommend
from model.decoding.beam import BeamSearch
from model.decoding.trie import Allowed, Available, Trie

ROOT = Path("build/publish").absolute()
ITEMS = 10_000
CHANGED_EVERY = 20
STORED = (
    "item_codes",
    "item_ids",
    "scores",
    "model_version",
    "codebook_version",
    "generated_at",
    "valid_until",
    "source",
)


def settings_of(name: str, full_every_days: int = 7) -> Settings:
    return Settings(
        lake_uri=str(ROOT / name),
        input={"events_uri": "", "catalogue_uri": ""},
        event_types={"buy": {}},
        spark={"master": "local[2]", "shuffle_partitions": 4},
        inference={"full_every_days": full_every_days},
        publishing={"valid_for_days": 36_500, "min_list_overlap": 0},
    )


def incremental(spark: SparkSession, users: int) -> tuple[float, float]:
    """Seconds of a day on which a twentieth of the users changed, and of the same day with everyone ranked."""
    settings = settings_of("incremental")
    codebook = big_lake.write_items(spark, settings, ITEMS)
    model = big_lake.write_model(settings, codebook)
    next_day = DAY + dt.timedelta(days=1)
    big_lake.write_histories(spark, settings, users, ITEMS, DAY, 1)
    recommend(spark, settings, model, DAY)
    big_lake.write_histories(spark, settings, users, ITEMS, next_day, CHANGED_EVERY)
    seconds = []
    for full_every_days in (7, 1):
        started = time.perf_counter()
        made = recommend(spark, settings_of("incremental", full_every_days=full_every_days), model, next_day)
        seconds.append(time.perf_counter() - started)
        again = 0 if full_every_days == 1 else users - users // CHANGED_EVERY
        assert made.manifest.counts == {"rows": users, "used again": again}, made.manifest.counts
    return seconds[0], seconds[1]


def put_online(spark: SparkSession, settings: Settings, day: dt.date) -> float:
    """Seconds."""
    ledger = ledger_of(settings)
    started = time.perf_counter()
    with ledger.lease("publish") as lease:
        publish_lists(spark, settings, ledger, lease, day)
    return time.perf_counter() - started


def entity(user: int) -> dict[str, Any]:
    return {"user_id": f"u{user}", "catalogue_id": "current", "exclude_item_ids": None}


def read_on(settings: Settings, users: int, reads: int, ended: Any, answers: Any) -> None:
    """Read users' lists until the publish has ended, at least so many; puts how many were read and which were wrong."""
    store = open_store(settings)
    service = store.get_feature_service(RECOMMENDATIONS_SERVICE)
    rng, number, wrong = np.random.default_rng(0), 0, []
    while number < reads or not ended.is_set():
        user = int(rng.integers(users))
        row = {name: values[0] for name, values in store.get_online_features(service, [entity(user)]).to_dict().items()}
        versions = {f"model/all/{version:06}": big_lake.listed(user, version, ITEMS) for version in (1, 2)}
        if row["source"] != "model" or row["item_ids"] != versions.get(row["model_version"]):
            wrong.append(f"u{user}: {row}")
        number += 1
    answers.put((number, wrong))


def read_times(settings: Settings, users: int, reads: int) -> tuple[np.ndarray, np.ndarray]:
    """Seconds of single reads: of the final list, and of Feast reading the stored fields alone; in turn."""
    store = open_store(settings)
    service = store.get_feature_service(RECOMMENDATIONS_SERVICE)
    stored = [f"user_recommendations:stored_{name}" for name in STORED]
    rng, seconds = np.random.default_rng(1), np.empty((2, reads))
    for number in range(reads):
        row = entity(int(rng.integers(users)))
        sides: list[tuple[Any, dict[str, Any]]] = [(service, row), (stored, {"user_id": row["user_id"]})]
        for side, (features, asked) in enumerate(sides):
            started = time.perf_counter()
            store.get_online_features(features, [asked]).to_dict()
            seconds[side, number] = time.perf_counter() - started
    return seconds[0], seconds[1]


def live_decoding() -> float:
    """Seconds to decode one user, who has 20 items, with SmolLM2-135M's shape in memory."""
    model, token_ids_LK = decode.language_model(decode.FULL)
    codes_NL = decode.distinct_codes(decode.FULL.items)
    trie = Trie(codes_NL, decode.CODES)
    available = Available(trie, torch.ones(len(codes_NL), dtype=torch.bool))
    search = BeamSearch(model, token_ids_LK, trie, "vocabulary", [1, 2, 3])
    ids_1P = torch.randint(decode.FULL.text_tokens, model.config.vocab_size, (1, 81))
    seconds = []
    for _ in range(5):
        started = time.perf_counter()
        search(ids_1P, torch.tensor([81]), Allowed(available, torch.empty(1, 0, dtype=torch.int64)), beam_width=K, k=K)
        seconds.append(time.perf_counter() - started)
    return median(seconds)


def of_store(spark: SparkSession, store: str, users: int, reads: int) -> tuple[list[Figure], list[str], float]:
    """The figures of one online store, what was read wrong, and the median seconds of a read."""
    with online_store(store):
        settings = settings_of(store)
        codebook = big_lake.write_items(spark, settings, ITEMS)
        big_lake.write_histories(spark, settings, 1000, ITEMS, DAY, 1)  # what is popular
        next_day = DAY + dt.timedelta(days=1)
        big_lake.write_lists(spark, settings, users // 10, ITEMS, DAY, 1, codebook)
        big_lake.write_lists(spark, settings, users, ITEMS, next_day, 2, codebook)
        apply(settings)
        put_online(spark, settings, DAY)
        small = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        context = multiprocessing.get_context("spawn")
        ended, answers = context.Event(), context.Queue()
        reader = context.Process(target=read_on, args=(settings, users // 10, reads, ended, answers))
        reader.start()
        seconds = put_online(spark, settings, next_day)
        ended.set()
        number, wrong = answers.get()
        reader.join()
        growth = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / small
        final, bare = read_times(settings, users, 2000)
    print(f"{store}: {users:,} users in {seconds:.0f} s, {number:,} reads beside and after, {len(wrong)} of them wrong")
    return (
        [
            Figure(f"publish.users_per_s.{store}", users / seconds),
            Figure(f"publish.driver_growth.{store}", growth, "<=1.2"),
            Figure(f"publish.read_p50_ms.{store}", 1000 * float(np.median(final))),
            Figure(f"publish.read_p99_ms.{store}", 1000 * float(np.quantile(final, 0.99))),
            Figure(f"publish.read_vs_bare.{store}", float(np.median(final) / np.median(bare))),
        ],
        wrong,
        float(np.median(final)),
    )


def main(quick: Annotated[bool, typer.Option("--quick", help="Few users, named kills only.")] = False) -> None:
    shutil.rmtree(ROOT, ignore_errors=True)
    users, ranked, reads = (20_000, 2_000, 2_000) if quick else (1_000_000, 50_000, 50_000)
    figures: list[Figure] = []
    torn: list[str] = []
    read = 0.0
    with open_spark(settings_of("incremental"), "benchmark") as spark:
        changed, full = incremental(spark, ranked)
        print(f"{ranked:,} users: {full:.1f} s, {changed:.1f} s when a twentieth of them changed")
        figures.append(Figure("recommend.incremental_share", changed / full, "" if quick else "<=0.08"))
        for store in STORES:
            found, wrong, read = of_store(spark, store, users, reads)
            figures, torn = figures + found, torn + wrong
    for line in torn:
        print(f"neither the old list nor the new one: {line}")
    live = live_decoding()
    print(f"one user decoded live: {1000 * live:.0f} ms")
    figures += [
        Figure("publish.read_vs_decode", live / read, ">=100"),
        Figure("publish.mixed_reads", len(torn), "<=0"),
    ]
    publish("publish", f"{users:,} users, K = {K}, {ITEMS:,} items, readers of a tenth of the users", figures)


if __name__ == "__main__":
    typer.run(main)
