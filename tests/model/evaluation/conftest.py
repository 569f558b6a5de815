"""A small data folder."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pytest

from model.evaluation.dataset import INTERACTIONS, ITEMS, Interactions, read_folder

DAY = 86_400
USERS, N_ITEMS = 40, 25


def write_folder(folder: Path, rows: list[str], items: list[dict[str, object]]) -> Path:
    folder.mkdir(exist_ok=True)
    with gzip.open(folder / INTERACTIONS, "wt") as file:
        file.write("\n".join(["user_id,item_id,seq_pos,timestamp", *rows]) + "\n")
    with gzip.open(folder / ITEMS, "wt") as file:
        file.writelines(json.dumps(item) + "\n" for item in items)
    return folder


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Interactions:
    """Users walk along the catalogue in steps of their own; two interactions share each day."""
    rng = np.random.default_rng(0)
    rows = []
    for user in range(USERS):
        for place in range(int(rng.integers(3, 30))):
            item = (user + place * (1 + user % 3)) % N_ITEMS
            rows.append(f"{user},{item},{place},{(place // 2 + user % 7) * DAY}")
    rng.shuffle(rows)
    items: list[dict[str, object]] = [{"item_id": item, "title": f"Item {item}"} for item in range(N_ITEMS)]
    return read_folder(write_folder(tmp_path_factory.mktemp("data"), rows, items))
