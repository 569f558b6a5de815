"""The quality benchmark: the same table twice, and a method that is there is not run again."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import quality_rows, recipe
from benchmarks.budget import BudgetError, budget
from benchmarks.quality import Bench, main
from benchmarks.quality_rows import CONFIG, FURTHER, OURS, WITH_LLM, WITHOUT_LLM, Run
from benchmarks.quality_table import figures_of
from model.config import BackboneConfig, ModelConfig, TokenizerConfig
from model.data.files import save_tensors
from model.evaluation.dataset import Interactions, leave_one_out, read_folder
from tests.model.evaluation.conftest import write_folder

DEFAULTS: dict[str, Any] = {
    "split": "leave_one_out",
    "seeds": 1,
    "shuffle_ties": None,
    "budget_minutes": None,
    "choices": False,
    "quick": False,
}


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
    assert all(one["lists"]["coverage"] > 0 for one in table["beyond"].values())
    assert set(table.pop("cost")) == {"cooccurrence", "sasrec"}  # times, which differ
    return table


def test_two_runs_give_one_table(data: Interactions, tmp_path: Path) -> None:
    table = found(data, tmp_path / "one")
    assert table == found(data, tmp_path / "two")
    assert set(table["against"]) == {"sasrec"}
    assert len(list((tmp_path / "one").glob("sasrec-0/*/manifest.json"))) == 1
    assert found(data, tmp_path / "one") == table
    assert len(list((tmp_path / "one").glob("sasrec-0/*/manifest.json"))) == 1, "it was made again"


def tiny(config: ModelConfig) -> ModelConfig:
    return dataclasses.replace(
        config,
        behaviour=dataclasses.replace(config.behaviour, dim=8, epochs=1),
        tokenizer=TokenizerConfig(codes_per_level=4, input_dim=4, epochs=13, latent_dim=4, hidden_dim=8),
        backbone=BackboneConfig(hidden_size=16, layers=1, heads=2, intermediate_size=16, text_vocabulary=280),
        finetune=dataclasses.replace(config.finetune, epochs=1),
        ttds=dataclasses.replace(config.ttds, epochs=1, renewals=1),
    )


def test_our_rows_come_from_one_recipe_each_step_made_once(
    data: Interactions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def texts(_: list[str]) -> str:
        uri = f"{tmp_path}/texts.safetensors"
        save_tensors(uri, {"vectors": np.random.default_rng(0).normal(size=(12, 6)).astype(np.float32)})
        return uri

    monkeypatch.setattr(recipe, "text_vectors", texts)
    monkeypatch.setattr(quality_rows, "FURTHER", {name: tiny(config) for name, config in FURTHER.items()})
    bench = Bench(data, leave_one_out(data), tmp_path / "quality")
    runs = [Run(name, 0, tiny(config)) for name, config in {"popularity": CONFIG, **OURS}.items()]
    table = bench.table({run.label: bench.lists(run) for run in runs})
    validated = table["validation_ndcg10"]
    assert set(validated) == {"fusion_of_ids", WITHOUT_LLM, *WITH_LLM}
    assert table["reference"] == max(WITH_LLM, key=validated.__getitem__), "what has no language model is not chosen"
    assert set(table["methods"]) == {"popularity", *OURS}
    steps = ("behaviour", "codebook", "model")
    made = {name: len(list((tmp_path / "quality" / name).glob("*/manifest.json"))) for name in steps}
    # With texts and without, the codebook of each and the one that moved; a language model for all rows of a method.
    assert made == {"behaviour": 2, "codebook": 3, "model": 3}
    names = [figure.name for figure in figures_of("tiny", table, {})]
    assert {"quality.tiny.ratio", "quality.tiny.p_value", "quality.tiny.rsllm_llm_ratio"} <= set(names)


def test_other_splits_are_told_apart_and_nothing_is_chosen_without_cases_to_validate_on(
    data: Interactions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "shop"
    rows = [f"{user},{(user * 3 + place) % 12},{place},{place * 86_400}" for user in range(20) for place in range(6)]
    items: list[dict[str, object]] = [{"item_id": item, "title": f"Item {item}"} for item in range(12)]
    folder.mkdir()
    write_folder(folder, rows, items)
    for options in ({}, {"split": "temporal"}, {"shuffle_ties": 1}):
        main(folder, methods="popularity,successor", **DEFAULTS | options)
    results = {file.stem: file.read_text() for file in (tmp_path / "build/benchmarks").iterdir()}
    assert set(results) == {"quality-shop", "quality-shop-temporal", "quality-shop-shuffled"}
    assert "quality.shop-temporal.best_floor_ndcg10" in results["quality-shop-temporal"]
    assert "Chosen by it" not in capsys.readouterr().out
    main(folder, methods="popularity,successor", **DEFAULTS)
    assert "popularity: made before" in capsys.readouterr().out


def test_the_budget_ends_a_run_and_no_other() -> None:
    with pytest.raises(BudgetError), budget(0.001):
        time.sleep(5)
    with budget(None):
        time.sleep(0.1)
