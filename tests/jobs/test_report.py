"""The report of a model whose codebook or evaluation an older version wrote, which knew less of itself."""

from __future__ import annotations

import base64
import datetime as dt
import io
from collections.abc import Collection
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from matplotlib.image import imread

from jobs.common.artefacts import additions_store, store
from jobs.common.codebook_plots import plot_usage
from jobs.common.pages import render
from jobs.common.quality_plots import estimate, plot_methods, plot_segments
from jobs.common.settings import Settings
from jobs.report import SHOWN_METRICS, _picture, changes, coded_items, plot_losses
from model.config import TokenizerConfig
from model.data.files import save_tensors
from model.evaluation.beyond import beyond
from model.evaluation.protocol import METRICS, evaluate_lists
from model.generation import Draft, Generation, GenerationStore, Manifest
from model.recommender.tasks import TASKS
from model.tokenizer.codebook import Codebook
from model.tokenizer.health import health, reserve
from model.tokenizer.neighbours import preservation, together
from model.tokenizer.portrait import examples, picture, tree

PICTURE = "picture.safetensors"
SAYS = {
    "seconds": "finetune all",
    "used_again": "kept an earlier list",
    "overlap": "publish before",
    "neighbours": "take together most",
    "reserve": "prefixes are in use",
    "tree": "prefixes in use by length",
    "examples": "Most typical",
    "beyond": "What the first ten show",
    "picture": "two leading axes",
    "validation_ndcg10": "on the validation cases, epoch by epoch",
    "fusion": "without the language model",
}
"""What the page says only of a model that has it."""
FUSED = {
    "weights": {"list": {"language_model": 0.25, "teacher": 0.5}},
    "validation_cases": 67,
    "validation_ndcg10": {"fused": 0.08, "without_language_model": 0.07},
}
TRAINED = {"validation_ndcg10": [0.1, 0.2], "best_epoch": 2, "fusion": FUSED}


@pytest.fixture(scope="module")
def draft(tmp_path_factory: pytest.TempPathFactory) -> Draft:
    return GenerationStore(str(tmp_path_factory.mktemp("lake")), "codebook/all").begin()


@pytest.fixture(scope="module")
def codebook(draft: Draft) -> Generation:
    """Of thirty items, as the tokenizer's step leaves it today."""
    text_NE = np.random.default_rng(0).normal(size=(30, 6)).astype(np.float32)
    ids, nobody_N = [f"i{n:02}" for n in range(30)], np.zeros(30, bool)
    trained = Codebook.train(TokenizerConfig(levels=3, codes_per_level=8, input_dim=4), ids, text_NE, text_NE, nobody_N)
    x_NP = trained.inputs(text_NE, text_NE, nobody_N)
    codes_NL = trained.assign(ids, x_NP, np.empty((0, 3), np.int64))
    save_tensors(draft.path(PICTURE), {"place": picture(x_NP), "first": codes_NL[:, 0].copy()})
    figures = health(trained, x_NP, codes_NL) | {
        "neighbours": preservation(codes_NL, *together(np.arange(30) // 3, np.arange(30), 30)),
        "reserve": reserve(codes_NL, 8),
        "tree": tree(codes_NL),
        "examples": examples(x_NP, codes_NL, ids),
    }
    return draft.commit(Manifest(metrics=figures, checksums={PICTURE: "sha256:"}))


@pytest.fixture(scope="module")
def quality() -> dict[str, Any]:
    lists = {"method": ["challenger"] * 4, "masked": [True, True, False, False], "user_id": ["u", "v"] * 2}
    table = pa.table(lists | {"key": ["u#2", "v#2"] * 2, "rank": [0, -1, 0, 0]})
    ranked = pa.record_batch({"key": ["u#2", "v#2"], "rank": [0, -1], "item_ids": [["a"], ["b"]]})
    cases = pa.table({"key": ["u#2", "v#2"], "user_id": ["u", "v"], "history_length": [1, 7], "target_count": [0, 3]})
    found = beyond([ranked], cases, pa.array(["a", "b"]), np.array([1, 1]))
    return evaluate_lists(table) | {"beyond": {"challenger": found}}


LISTS = {"ranked": 3, "used_again": 4}
PUBLISHED = {"full": 1.0, "popular": 0.25, "overlap": 0.5}


def page(codebook: Generation, quality: dict[str, Any], lacking: Collection[str] = ()) -> str:
    figures = codebook.manifest.metrics
    return render(
        "report.html.j2",
        model=codebook,
        codebook=codebook,
        tiles={"events": 3},
        earlier="2016-10-15",
        changes=changes({"events": 2, "model": "model/all/1"}, {"events": 3, "model": "model/all/2"}),
        methods_plot=plot_methods(quality),
        segments_plot=plot_segments(quality["beyond"]),
        estimate=estimate,
        cost_per_hour=12.0,
        users=[{"history": ["A"], "recommended": ["B", "C"], "before": ["C"]}],
        lists={} if "used_again" in lacking else LISTS,
        published=without(PUBLISHED, lacking),
        quality=without(quality, lacking),
        metric_names=list(METRICS),
        shown=SHOWN_METRICS,
        verdict={"reasons": []},
        seconds={} if "seconds" in lacking else {"finetune all": 75.3},
        trained={"live": without(TRAINED, lacking)},
        health=figures,
        codebook_plot=plot_usage(figures),
        codebook_picture=_picture(codebook),
        parents={},
    )


def without(known: dict[str, Any], lacking: Collection[str]) -> dict[str, Any]:
    return {name: value for name, value in known.items() if name not in lacking}


def test_all_that_is_known_is_shown(codebook: Generation, quality: dict[str, Any]) -> None:
    whole = page(codebook, quality)
    assert [part for part, words in SAYS.items() if words not in whole] == []


def test_what_changed_is_said(codebook: Generation, quality: dict[str, Any]) -> None:
    facts = {"events": 3, "gone": 0, "new": 2, "model": "a"}
    rows = changes({"events": 2, "gone": 4, "new": 0, "model": "b"}, facts)
    assert rows == [
        ("events", "2", "3", "+50.0%"),
        ("gone", "4", "0", "-100.0%"),
        ("new", "0", "2", "new"),
        ("model", "b", "a", "changed"),
    ]
    assert changes({}, facts) == []
    whole = page(codebook, quality)
    assert "<b>B</b>" in whole
    assert "<b>C</b>" not in whole
    assert "0.25" in whole  # 75.3 s at 12 an hour


def test_wide_tables_fit_a_phone_and_are_whole_on_paper(codebook: Generation, quality: dict[str, Any]) -> None:
    whole = page(codebook, quality)
    assert '<div class="wide"><table class="facts"><tr><th><th class="number">2016-10-15' in whole
    on_a_phone = whole.split("@media screen and (max-width: 40rem)")[1].split("@media print")[0]
    assert ".more, .wide small, .wide br { display: none; }" in on_a_phone
    assert [name for name in METRICS if f'<th class="number more">{name}' not in whole] == list(SHOWN_METRICS)
    assert '<td data-label="Before, 2016-10-15">' in whole  # its heading, where people are cards
    on_paper = whole.split("@media print")[1].split("</style>")[0]
    assert ".wide { overflow: visible; }" in on_paper


@pytest.mark.parametrize("tasks", [["next_item"], ["title", "choice", "id_text", "user_item"], list(TASKS)])
def test_losses_stand_two_to_a_row(tasks: list[str]) -> None:
    """Each figure of the page is as wide: side by side, five panels would be shown in a fifth of their size."""
    model = Generation("", 1, "", Manifest(metrics={"loss": {task: [3.0, 2.0] for task in tasks}}))
    drawn = imread(io.BytesIO(base64.b64decode(plot_losses({"judged": model, "live": model}))))
    assert drawn.shape[1] == 768
    edges = (drawn[0], drawn[-1], drawn[:, 0], drawn[:, -1])
    assert all((edge == 1).all() for edge in edges), "white: nothing is cut, no legend either"


def test_items_with_a_code_are_those_of_the_day(settings: Settings) -> None:
    codebook = store(settings, "codebook", "all").begin().commit(Manifest(metrics={"items": 30}))
    for day, items in (("2016-10-15", 2), ("2016-10-16", 3)):
        additions_store(settings, codebook).begin().commit(Manifest({"ds": day}, {"items": items}))
    found = {day: coded_items(settings, codebook, dt.date(2016, 10, day)) for day in (14, 15, 16, 17)}
    assert found == {14: 30, 15: 32, 16: 35, 17: 35}


@pytest.mark.parametrize("lacking", [[part] for part in SAYS] + [list(SAYS)], ids=" ".join)
def test_what_an_older_version_did_not_write_is_left_out(
    codebook: Generation, quality: dict[str, Any], draft: Draft, lacking: list[str]
) -> None:
    metrics = without(codebook.manifest.metrics, lacking)
    checksums = {} if "picture" in lacking else codebook.manifest.checksums
    old = Generation(draft.uri, draft.attempt, draft.identity, Manifest(metrics=metrics, checksums=checksums))
    shown = page(old, quality, lacking)
    assert [part for part, words in SAYS.items() if words not in shown] == lacking
    assert "items, one code each" in shown
