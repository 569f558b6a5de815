from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from model.config import Normalisation, model_config
from model.recommender.loss import TensorBatch
from model.recommender.speed import peak_flops
from model.recommender.train import prepare


@pytest.mark.parametrize("normalisation", ["level", "vocabulary"])
@pytest.mark.parametrize("lora_rank", [0, 4])
def test_the_cost_of_a_micro_batch_is_what_torch_counts(
    request_of: Callable[..., dict[str, Any]], normalisation: Normalisation, lora_rank: int
) -> None:
    wide = {"hidden_size": 128, "layers": 3, "intermediate_size": 512, "lora_rank": lora_rank}
    request = request_of(backbone=wide, finetune={"normalisation": normalisation})
    trainer = prepare(model_config(request["config"]), request["inputs"])
    batch = next(trainer.batches.read(epoch=0, shard=0, shards=1))
    with FlopCounterMode(display=False) as counted:
        trainer.loss(TensorBatch.of(batch, torch.device("cpu"))).sum().backward()
    padding = batch.ids_RP.size / batch.tokens
    assert trainer.cost.of(batch) == pytest.approx(counted.get_total_flops() / padding, rel=0.15)


def test_a_cpu_is_measured() -> None:
    assert 1e8 < peak_flops(torch.device("cpu")) < 1e14
