from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from model.config import Normalisation, model_config
from model.recommender.backbone import add_codes, build_backbone
from model.recommender.tasks import TEXTUAL_TASKS, Examples
from model.recommender.train import AlignmentLoss, TensorBatch, finetune
from tests.model.recommender.conftest import CODES, ITEMS, LEVELS, item_codes

Request = Callable[..., dict[str, Any]]
ROOT = Path(__file__).parents[3]


def weights(request: dict[str, Any]) -> dict[str, torch.Tensor]:
    return load_file(f"{request['output']}/model.safetensors")


def test_two_runs_give_the_same_weights(request_of: Request) -> None:
    one, other, different = request_of("one"), request_of("other"), request_of("different", finetune={"seed": 1})
    assert finetune(one) == finetune(other)
    finetune(different)
    for name, tensor in weights(one).items():
        assert torch.equal(tensor, weights(other)[name])
    assert any(not torch.equal(tensor, weights(different)[name]) for name, tensor in weights(one).items())


@pytest.mark.parametrize("normalisation", ["level", "vocabulary"])
@pytest.mark.parametrize("lora_rank", [0, 4])
def test_every_task_gets_better(request_of: Request, normalisation: Normalisation, lora_rank: int) -> None:
    request = request_of(finetune={"epochs": 6, "normalisation": normalisation}, backbone={"lora_rank": lora_rank})
    metrics = finetune(request)
    assert list(metrics["loss"]) == ["sequential", "title_to_codes", "codes_to_title"]
    assert all(losses[-1] < losses[0] for losses in metrics["loss"].values())
    assert (metrics["trained_parameters"] < metrics["parameters"]) == (lora_rank > 0)
    assert json.loads(Path(request["output"], "metrics.json").read_text()) == metrics
    assert not any("lora" in name for name in weights(request))


def test_textual_tasks_can_be_left_out(request_of: Request) -> None:
    assert list(finetune(request_of(finetune={"text_batch_size": 0}))["loss"]) == ["sequential"]


@pytest.mark.parametrize("normalisation", ["level", "vocabulary"])
def test_the_loss_is_the_mean_over_labels_of_a_plain_softmax(request_of: Request, normalisation: Normalisation) -> None:
    """Against the full logits of the model, label by label."""
    config = model_config(request_of()["config"])
    titles = [f"Part {i}" for i in range(ITEMS)]
    model, tokenizer = build_backbone(config.backbone, titles, seed=0)
    vocabulary = add_codes(model, tokenizer, np.random.default_rng(0).normal(size=(LEVELS, CODES, 6)), seed=0)
    examples = Examples(tokenizer, vocabulary, item_codes(ITEMS), titles)
    batches = [
        examples.sequential(np.array([[1, 2, 3], [4, -1, -1]]), np.array([[0, 1, 1], [1, 0, 0]])),
        *(examples.textual(task, np.array([7, 8])) for task in TEXTUAL_TASKS),
    ]
    tensors = [
        TensorBatch(torch.tensor(b.ids_BP), torch.tensor(b.position_M), torch.tensor(b.target_M), b.kind_sizes)
        for b in batches
    ]
    losses = AlignmentLoss(model, vocabulary, normalisation)(tensors)
    rows_of = {token: row for row in vocabulary.token_ids_LK.tolist() for token in row}
    for batch, loss in zip(tensors, losses, strict=True):
        logits_MV = model(batch.ids_BP).logits.flatten(0, 1)[batch.position_M]
        expected = []
        for logits_V, token in zip(logits_MV, batch.target_M.tolist(), strict=True):
            inside = rows_of.get(token) if normalisation == "level" else None
            expected.append((logits_V if inside is None else logits_V[inside]).logsumexp(0) - logits_V[token])
        torch.testing.assert_close(loss, torch.stack(expected).mean())


def test_a_diverging_run_stops_with_its_place(request_of: Request) -> None:
    with pytest.raises(RuntimeError, match=r"epoch 1, step \d+.*finetune.learning_rate"):
        finetune(request_of(finetune={"learning_rate": 1e30, "warmup_share": 0.0, "max_grad_norm": 1e30}))


def test_windows_longer_than_the_backbone_are_refused(request_of: Request) -> None:
    with pytest.raises(ValueError, match=r"backbone\.max_positions"):
        finetune(request_of(backbone={"max_positions": 20}))


def test_two_processes_train_one_model(request_of: Request, tmp_path: Path) -> None:
    request = request_of(finetune={"epochs": 2})
    (tmp_path / "request.json").write_text(json.dumps(request))
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    subprocess.run(
        [*launcher, "-m", "model.recommender.train", str(tmp_path / "request.json")],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=True,
        capture_output=True,
        timeout=240,
    )
    metrics = json.loads(Path(request["output"], "metrics.json").read_text())
    # 96 windows, 16 a step and process.
    assert metrics["steps"] == 2 * 3
    assert metrics["loss"]["sequential"][1] < metrics["loss"]["sequential"][0]
