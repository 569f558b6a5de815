from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from model.config import Normalisation
from model.recommender import trainer
from model.recommender.tasks import TASKS, Family
from model.recommender.train import finetune
from model.task_names import default_mixture
from tests.two_processes import run_two

Request = Callable[..., dict[str, Any]]
Kill = Callable[[int, Callable[[], object]], list[int]]
LORA = {"lora_rank": 4, "lora_dropout": 0.2}


def weights(request: dict[str, Any]) -> dict[str, torch.Tensor]:
    return load_file(f"{request['output']}/model.safetensors")


def trained(request: dict[str, Any]) -> dict[str, Any]:
    """The metrics without the speed, which is the machine's."""
    metrics = finetune(request)
    assert set(metrics.pop("speed")) == {"tokens_per_second", "mfu", "data_wait", "refresh_share"}
    return metrics


def of_family(family: Family) -> dict[str, float]:
    return {name: 1.0 for name, task in TASKS.items() if task.family is family}


def test_two_runs_give_the_same_weights(request_of: Request) -> None:
    one, other, different = request_of("one"), request_of("other"), request_of("different", finetune={"seed": 1})
    assert trained(one) == trained(other)
    finetune(different)
    for name, tensor in weights(one).items():
        assert torch.equal(tensor, weights(other)[name])
    assert any(not torch.equal(tensor, weights(different)[name]) for name, tensor in weights(one).items())


@pytest.mark.parametrize("normalisation", ["level", "vocabulary"])
@pytest.mark.parametrize("backbone", [{}, LORA], ids=["all weights", "lora"])
def test_every_task_gets_better(request_of: Request, normalisation: Normalisation, backbone: dict[str, Any]) -> None:
    mixture = dict.fromkeys(default_mixture(), 0.5)
    request = request_of(
        finetune={"epochs": 6, "normalisation": normalisation, "mixture": mixture, "patience": 0}, backbone=backbone
    )
    metrics = trained(request)
    assert list(metrics["loss"]) == list(mixture)
    assert all(losses[-1] < losses[0] for losses in metrics["loss"].values())
    assert sum(metrics["token_share"].values()) == pytest.approx(1)
    assert sum(metrics["token_share"][name] for name in mixture if TASKS[name].others) <= 1 / 3
    assert (metrics["trained_parameters"] < metrics["parameters"]) == bool(backbone)
    assert json.loads(Path(request["output"], "metrics.json").read_text()) == metrics
    assert not any("lora" in name for name in weights(request))


GOLDEN = {Family.SEQUENTIAL: 1.9415, Family.TEXTUAL: 2.3388, Family.QUERY: 2.2319}


@pytest.mark.parametrize("family", GOLDEN)
def test_a_family_alone_learns_and_its_losses_are_known(request_of: Request, family: Family) -> None:
    recipe = {"epochs": 3, "mixture": of_family(family), "patience": 0, "auxiliary_weight": 1.0}
    losses = trained(request_of(finetune=recipe))["loss"]
    assert all(by_epoch[-1] < by_epoch[0] for by_epoch in losses.values())
    # Made by this test: a change here is a change of what is trained.
    assert np.mean([by_epoch[-1] for by_epoch in losses.values()]) == pytest.approx(GOLDEN[family], abs=2e-3)


def test_item_dropout_reads_other_histories_in_every_epoch(request_of: Request) -> None:
    some = {"item_dropout": 0.5, "mixture": {"next_item": 1.0}, "patience": 0}
    one, other = (trained(request_of(name, finetune=some)) for name in ("one", "other"))
    whole = trained(request_of("whole", finetune=some | {"item_dropout": 0.0}))
    assert one == other
    assert one["loss"] != whole["loss"]
    with pytest.raises(ValueError, match=r"item_dropout = 1\.0 is no share"):
        finetune(request_of("none left", finetune={"item_dropout": 1.0}))


def test_bfloat16_on_a_cpu_learns_what_float32_does(request_of: Request) -> None:
    rough, exact = (trained(request_of(each, finetune={"precision": each})) for each in ("bfloat16", "float32"))
    assert rough != exact
    assert rough["loss"]["next_item"] == pytest.approx(exact["loss"]["next_item"], rel=0.01)
    assert exact == trained(request_of("auto"))


@pytest.mark.parametrize(
    ("killed_at", "backbone", "precision"),
    [(3, {}, "float32"), (8, LORA, "float32"), (12, {}, "bfloat16")],
    ids=["early", "lora", "late, bfloat16"],
)
def test_a_killed_training_goes_on_to_the_same_end(
    request_of: Request, tmp_path: Path, kill: Kill, backbone: dict[str, Any], killed_at: int, precision: str
) -> None:
    recipe = {"epochs": 3, "checkpoint_steps": 2, "accumulation": 2, "batch_size": 8, "precision": precision}
    undisturbed = request_of("undisturbed", finetune=recipe, backbone=backbone)
    expected = trained(undisturbed)
    request = request_of("resumed", finetune=recipe, backbone=backbone) | {"checkpoints": str(tmp_path / "kept")}
    done = kill(killed_at, lambda: finetune(request))
    request["config"]["fusion"]["shortlist"] += 1  # which no training reads
    assert trained(request) == expected
    assert len(done) < killed_at + expected["steps"], "it began anew"
    for name, tensor in weights(undisturbed).items():
        assert torch.equal(tensor, weights(request)[name]), name


def test_other_settings_do_not_go_on_from_a_checkpoint(request_of: Request, tmp_path: Path) -> None:
    kept = {"checkpoints": str(tmp_path / "kept")}
    finetune(request_of("one", finetune={"checkpoint_steps": 2}) | kept)
    other = request_of("other", finetune={"checkpoint_steps": 2, "learning_rate": 1e-3})
    assert trained(other | kept) == trained(request_of("plain", finetune=other["config"]["finetune"]))


def test_the_newest_epoch_that_was_not_worse_is_saved(
    request_of: Request, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    scores = [(0.1, 0.02), (0.3, 0.02), (0.29, 0.02), (0.2, 0.02), (0.26, 0.02), (0.9, 0.02)]
    finish, found, after_epoch = trainer.Trainer._finish_epoch, iter(scores), []

    def finishes(self: trainer.Trainer) -> None:
        finish(self)
        after_epoch.append(self.checkpoints.weights())

    monkeypatch.setattr(trainer.Validation, "score", lambda *_: next(found))
    monkeypatch.setattr(trainer.Trainer, "_finish_epoch", finishes)
    request = request_of(finetune={"epochs": 9, "patience": 2})
    metrics = trained(request)
    assert metrics["validation_ndcg10"] == [0.1, 0.3, 0.29, 0.2, 0.26]
    assert metrics["best_epoch"] == 3
    assert "stopped after epoch 5 of 9: NDCG@10 on the validation cases was best after epoch 3" in caplog.text
    saved = weights(request)
    for name, tensor in after_epoch[2].items():
        assert torch.equal(saved[name], tensor)
        assert not torch.equal(after_epoch[4][name], tensor)


def test_without_patience_nothing_is_decoded(request_of: Request) -> None:
    metrics = trained(request_of(finetune={"patience": 0}))
    assert metrics["validation_ndcg10"] == []


def test_tasks_of_users_need_codes_for_them(request_of: Request) -> None:
    with pytest.raises(ValueError, match=r"next_item_of_user, but users have no codes: .* method to ttds"):
        finetune(request_of(finetune={"mixture": {"next_item": 1.0, "next_item_of_user": 0.5}}))


def test_a_diverging_run_names_its_batch(request_of: Request) -> None:
    with pytest.raises(RuntimeError, match=r"epoch 1, step \d+: batch \d+ of shard 0, seed 0.*finetune.learning_rate"):
        finetune(request_of(finetune={"learning_rate": 1e30, "warmup_share": 0.0, "max_grad_norm": 1e30}))


def test_windows_longer_than_the_backbone_are_refused(request_of: Request) -> None:
    with pytest.raises(ValueError, match=r"backbone\.max_positions"):
        finetune(request_of(backbone={"max_positions": 20}))


@pytest.mark.parametrize(("parallel", "backbone"), [("ddp", {}), ("fsdp", LORA)], ids=["ddp", "fsdp and lora"])
def test_two_processes_train_what_one_does_with_two_micro_batches(
    request_of: Request, tmp_path: Path, parallel: str, backbone: dict[str, Any]
) -> None:
    recipe = {"epochs": 2, "shards": 2, "parallel": parallel}
    alone = request_of("alone", finetune=recipe | {"accumulation": 2}, backbone=backbone)
    expected = trained(alone)
    request = request_of("together", finetune=recipe, backbone=backbone)
    (tmp_path / "request.json").write_text(json.dumps(request))
    run_two("-m", "model.recommender.train", tmp_path / "request.json")
    metrics = json.loads(Path(request["output"], "metrics.json").read_text())
    assert metrics["steps"] == expected["steps"]
    for task, losses in expected["loss"].items():
        assert metrics["loss"][task] == pytest.approx(losses, abs=1e-5), task
    for name, tensor in weights(alone).items():
        torch.testing.assert_close(weights(request)[name], tensor, atol=1e-4, rtol=1e-4)


def test_shards_that_do_not_fit_the_processes_are_refused() -> None:
    recipe = trainer.FinetuneConfig(shards=3)
    two = trainer.Processes(0, 2, torch.device("cpu"))
    with pytest.raises(ValueError, match=r"finetune\.shards = 3 .* 2 processes"):
        trainer._shards(recipe, two)
