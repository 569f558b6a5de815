from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from jobs.common.settings import Settings, Training
from jobs.common.tracking import log_training, require_mlflow

METRICS = {"parameters": 10, "steps": 4, "loss": {"next_item": [2.0, 1.0]}, "validation_ndcg10": [0.1, 0.2]}
SPEED = {"tokens_per_second": 100.0, "mfu": 0.3, "data_wait": 0.01}
INSTALLED = importlib.util.find_spec("mlflow") is not None


def logging_to(settings: Settings, uri: str) -> Settings:
    return settings.model_copy(update={"training": Training(mlflow_tracking_uri=uri)})


def test_nothing_is_logged_unless_asked(settings: Settings) -> None:
    require_mlflow(settings)
    log_training(settings, "model/all/000001", METRICS, SPEED)


@pytest.mark.skipif(INSTALLED, reason="MLflow is installed")
def test_a_missing_mlflow_is_said_before_the_training(settings: Settings, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="pip install mlflow-skinny"):
        require_mlflow(logging_to(settings, f"file:{tmp_path}"))


@pytest.mark.skipif(not INSTALLED, reason="MLflow is optional and not installed")
def test_a_run_has_the_settings_the_curves_and_the_speed(settings: Settings, tmp_path: Path) -> None:
    import mlflow

    uri = f"sqlite:///{tmp_path}/mlflow.db" if importlib.util.find_spec("sqlalchemy") else f"file:{tmp_path}"
    asked = logging_to(settings, uri)
    require_mlflow(asked)
    log_training(asked, "model/all/000001", METRICS, SPEED)
    (run,) = mlflow.search_runs(experiment_names=["precog"], output_format="list")
    assert run.info.run_name == "model/all/000001"
    assert run.data.params["method"] == settings.method
    assert run.data.params["finetune.epochs"] == str(settings.model.finetune.epochs)
    assert run.data.metrics["tokens_per_second"] == SPEED["tokens_per_second"]
    curve = mlflow.MlflowClient().get_metric_history(run.info.run_id, "loss.next_item")
    assert [(point.step, point.value) for point in curve] == [(1, 2.0), (2, 1.0)]
