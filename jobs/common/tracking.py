"""A training run in MLflow, where a team has it: settings, losses by epoch, quality, speed."""

from __future__ import annotations

import importlib.util
import logging
from typing import Any

from jobs.common.settings import Settings

EXPERIMENT = "precog"

log = logging.getLogger("finetune")


def require_mlflow(settings: Settings) -> None:
    """ValueError when runs are to be logged and MLflow is not installed: better before the training than after."""
    if settings.training.mlflow_tracking_uri and importlib.util.find_spec("mlflow") is None:
        raise ValueError("training.mlflow_tracking_uri is set, but MLflow is not installed: pip install mlflow-skinny")


def log_training(settings: Settings, identity: str, metrics: dict[str, Any], speed: dict[str, float]) -> None:
    """Log a finished training under the identity of what it made; nothing without a tracking URI. Never raises.

    `metrics` as `model.recommender.train.finetune` returns them.
    """
    if not settings.training.mlflow_tracking_uri:
        return
    try:
        _log(settings, identity, metrics, speed)
    except Exception:  # whatever the server's client raises: the model is there, and is no worse for it
        log.warning("MLflow has no run of %s", identity, exc_info=True)


def _log(settings: Settings, identity: str, metrics: dict[str, Any], speed: dict[str, float]) -> None:
    import mlflow  # noqa: PLC0415  (optional)

    mlflow.set_tracking_uri(settings.training.mlflow_tracking_uri)
    mlflow.set_experiment(EXPERIMENT)
    with mlflow.start_run(run_name=identity):
        values = settings.model_json()
        shown = {part: values[part] for part in ("backbone", "finetune", settings.method) if part in values}
        params = {f"{part}.{name}": value for part, fields in shown.items() for name, value in fields.items()}
        mlflow.log_params({"method": settings.method, **params})
        mlflow.log_metrics(speed | {name: float(metrics[name]) for name in ("parameters", "steps")})
        curves = {f"loss.{task}": values for task, values in metrics["loss"].items()}
        curves["validation_ndcg10"] = metrics["validation_ndcg10"]
        for name, by_epoch in curves.items():
            for epoch, value in enumerate(by_epoch, start=1):
                mlflow.log_metric(name, value, step=epoch)
