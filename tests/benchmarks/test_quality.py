"""The quality benchmark: the same table twice, and a method that is there is not run again."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from benchmarks.quality import CONFIG, Bench, Run
from model.evaluation.dataset import Interactions, leave_one_out, read_folder
from tests.model.evaluation.conftest import write_folder


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Interactions:
    rows = [f"{user},{(user * 3 + place) % 12},{place},{place * 86_400}" for user in range(20) for place in range(6)]
    items: list[dict[str, object]] = [{"item_id": item, "title": f"Item {item}"} for item in range(12)]
    return read_folder(write_folder(tmp_path_factory.mktemp("data"), rows, items))


def found(data: Interactions, root: Path) -> dict[str, Any]:
    config = dataclasses.replace(CONFIG, behaviour=dataclasses.replace(CONFIG.behaviour, dim=8, epochs=1))
    bench = Bench(data, leave_one_out(data), root)
    table = bench.table(
        {run.label: bench.lists(run) for run in (Run("cooccurrence", 0, config), Run("sasrec", 0, config))}
    )
    assert all(one["lists"]["invalid_rate"] == 0 for one in table["beyond"].values())
    assert set(table.pop("cost")) == {"cooccurrence", "sasrec"}  # times, which differ
    return table


def test_two_runs_give_one_table(data: Interactions, tmp_path: Path) -> None:
    table = found(data, tmp_path / "one")
    assert table == found(data, tmp_path / "two")
    assert set(table["against"]) == {"sasrec"}
    assert len(list((tmp_path / "one").glob("sasrec-0/*/manifest.json"))) == 1
    assert found(data, tmp_path / "one") == table
    assert len(list((tmp_path / "one").glob("sasrec-0/*/manifest.json"))) == 1, "it was made again"
