"""What every definition must say of itself, and the two services. Feast reads them from its registry, as apps do."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from feast import FeatureStore

from jobs.common.feature_store import apply, open_store
from jobs.common.settings import Settings

REPO = Path(__file__).parents[2] / "feature_repo"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> FeatureStore:
    settings = Settings(
        lake_uri=str(tmp_path_factory.mktemp("lake")),
        input={"events_uri": "", "catalogue_uri": ""},
        event_types={"click": {}},
        feast={"repo": str(REPO)},
    )
    assert apply(settings)
    assert not apply(settings), "the same definitions were registered twice"
    return open_store(settings)


def test_every_object_has_an_owner_tags_and_a_description(store: FeatureStore) -> None:
    objects = [
        *store.list_entities(),
        *store.list_data_sources(),
        *store.list_feature_views(),
        *store.list_on_demand_feature_views(),
        *store.list_feature_services(),
    ]
    assert len(objects) == 3 + 7 + 6 + 1 + 2
    for one in objects:
        assert one.owner, one.name
        assert one.tags, one.name
        assert one.description, one.name
    for view in store.list_feature_views():
        for field in view.schema:
            assert field.description, f"{view.name}:{field.name}"


def test_an_app_reads_the_on_demand_view_alone(store: FeatureStore) -> None:
    [projection] = store.get_feature_service("recommendations_v1").feature_view_projections
    assert projection.name == "recommendations"
    assert [feature.name for feature in projection.features] == [
        "item_codes",
        "item_ids",
        "scores",
        "model_version",
        "codebook_version",
        "generated_at",
        "valid_until",
        "source",
    ]


def test_production_keeps_its_registry_in_a_database_named_by_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Settings(
        lake_uri=str(tmp_path),
        input={"events_uri": "", "catalogue_uri": ""},
        event_types={"click": {}},
        feast={"repo": str(REPO), "config": "feature_store_production.yaml"},
    )
    monkeypatch.delenv("PRECOG_REDIS", raising=False)  # tests of the other store may have left it
    with pytest.raises(ValueError, match=r"production\.yaml reads PRECOG_FEAST_REGISTRY, PRECOG_REDIS from the env"):
        apply(settings)
    monkeypatch.setenv("PRECOG_FEAST_REGISTRY", f"sqlite:///{tmp_path}/elsewhere.db")
    monkeypatch.setenv("PRECOG_REDIS", "localhost:1")
    assert apply(settings)
    assert (tmp_path / "elsewhere.db").is_file()
    assert open_store(settings).get_feature_service("recommendations_v1")


def test_no_secret_and_no_path_stands_in_a_yaml() -> None:
    for file in REPO.glob("*.yaml"):
        text = file.read_text()
        assert "${PRECOG_FEAST_PROJECT}" in text
        assert "password:" not in text.lower()
        assert "/home" not in text


def test_the_on_demand_function_needs_nothing_but_its_own_source() -> None:
    """Feast runs it from its text: a name of the module would be missing when an app reads."""
    module = ast.parse((REPO / "feature_views.py").read_text())
    [function] = [node for node in module.body if isinstance(node, ast.FunctionDef) and node.name == "recommendations"]
    function.decorator_list = []
    namespace: dict[str, object] = {}
    exec(compile(ast.Module([function], type_ignores=[]), "source", "exec"), namespace)
    row = {
        "stored_valid_until": [None],
        "stored_retracted_item_ids": [["b"]],
        "exclude_item_ids": [None],
        "stored_item_codes": [None],
        "stored_item_ids": [None],
        "stored_scores": [None],
        "stored_model_version": [None],
        "stored_source": [None],
        "stored_popular_item_codes": [["1", "2"]],
        "stored_popular_item_ids": [["a", "b"]],
        "stored_popular_scores": [[2.0, 1.0]],
        "stored_popular_codebook_version": ["c"],
        "stored_popular_generated_at": [None],
        "stored_popular_valid_until": [None],
    }
    answer = namespace["recommendations"](row)  # type: ignore[operator]
    assert (answer["item_ids"], answer["item_codes"], answer["source"]) == ([["a"]], [["1"]], ["fallback"])
