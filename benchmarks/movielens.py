"""The sample's MovieLens as a data folder (docs/data_format.md), for benchmarks without data of their own."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

from jobs.sample_data import LICENCE, load_ratings
from model.evaluation.dataset import INTERACTIONS, ITEMS

MIN_EVENTS = 5
"""Of each user and each film that is kept, as in the public data sets."""


def write_movielens(folder: Path) -> Path:
    """Write the folder anew. Every rating counts, whatever its stars."""
    folder.mkdir(parents=True, exist_ok=True)
    ratings = load_ratings().sort_values(["userId", "timestamp", "movieId"])
    while True:
        common = ratings.groupby("movieId")["userId"].transform("size") >= MIN_EVENTS
        active = ratings.groupby("userId")["movieId"].transform("size") >= MIN_EVENTS
        if (common & active).all():
            break
        ratings = ratings[common & active]
    films = ratings.drop_duplicates("movieId").sort_values("movieId")
    interactions = ratings.rename(columns={"userId": "user_id", "movieId": "item_id"})
    interactions = interactions.assign(seq_pos=interactions.groupby("user_id").cumcount())
    interactions = interactions[["user_id", "item_id", "seq_pos", "timestamp"]]
    interactions.to_csv(folder / INTERACTIONS, index=False, compression={"method": "gzip", "mtime": 0})  # type: ignore[call-overload]
    with gzip.GzipFile(folder / ITEMS, "wb", mtime=0) as file:
        for item_id, title, genres in zip(
            *(films[name].tolist() for name in ("movieId", "title", "genres")), strict=True
        ):
            line = {"item_id": item_id, "title": title, "categories": [genres.split("|")]}
            file.write((json.dumps(line) + "\n").encode())
    (folder / "LICENCE").write_text(LICENCE + "\n")
    return folder
