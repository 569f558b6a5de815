"""The graph encoder: its graph is the training set's, its way back is exact, and it learns who goes with whom."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from scipy import sparse

from model.behaviour.dccf import Dccf, _Spread
from model.behaviour.train import train_behaviour
from model.config import BehaviourConfig, ModelConfig
from model.data.files import load_tensors

CONFIG = BehaviourConfig(kind="dccf", dim=16, intents=8, epochs=30, batch_size=16, learning_rate=1e-2)


@pytest.fixture
def training_set(tmp_path: Path) -> Path:
    """Two crowds: one takes the items 0-9, the other 10-19. A user's windows stand apart."""
    rng = np.random.default_rng(0)
    rows = {"user_id": [], "items": [], "targets": []}
    for user in range(60):
        for _ in range(2):
            items = rng.permutation(10)[:4] + 10 * (user % 2)
            rows["user_id"].append(f"user {user}")
            rows["items"].append([*items.tolist(), -1])
            rows["targets"].append([1, 1, 1, 1, 0])
    for name, table in (
        ("items", {"item_index": np.arange(20, dtype=np.int32), "item_id": [f"item {i}" for i in range(20)]}),
        ("sequences", rows),
    ):
        (tmp_path / name).mkdir()
        pq.write_table(pa.table(table), tmp_path / name / "part-0.parquet", row_group_size=20)
    return tmp_path


def test_the_graph_joins_a_users_windows(training_set: Path) -> None:
    encoder = Dccf.of_training_set(str(training_set / "sequences"), 20, CONFIG)
    graph_UN = encoder.graph_UN.to_dense()
    assert graph_UN.shape == (60, 20)
    np.testing.assert_allclose(graph_UN.T, encoder.graph_NU.to_dense())
    taken_UN = graph_UN > 0
    expected_UN = taken_UN / (taken_UN.sum(1, keepdim=True).sqrt() * taken_UN.sum(0, keepdim=True).sqrt())
    np.testing.assert_allclose(graph_UN, expected_UN, rtol=1e-6)
    assert (taken_UN.sum(1) > 4).any()


def test_the_way_back_through_the_graph_is_exact() -> None:
    graph = sparse.random_array((7, 5), density=0.5, format="csr", rng=np.random.default_rng(0))
    pair = [torch.tensor(one.toarray()).to_sparse_csr() for one in (graph, graph.T)]
    rows_YD = torch.randn(5, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda rows: _Spread.apply(*pair, rows), (rows_YD,))  # type: ignore[no-untyped-call]


def test_items_of_one_crowd_lie_together_and_runs_agree(training_set: Path, tmp_path: Path) -> None:
    config = ModelConfig(behaviour=CONFIG, history_items=2, window_items=5)
    vectors = []
    for output in ("one", "two"):
        request = {
            "config": asdict(config),
            "inputs": {"training_set": str(training_set)},
            "output": str(tmp_path / output),
        }
        metrics = train_behaviour(request)
        assert metrics["loss_by_epoch"][-1] < metrics["loss_by_epoch"][0]
        vectors.append(load_tensors(f"{tmp_path}/{output}/vectors.safetensors")["vectors"])
    np.testing.assert_array_equal(*vectors)
    unit_ND = vectors[0] / np.linalg.norm(vectors[0], axis=1, keepdims=True)
    cosine_NN = unit_ND @ unit_ND.T
    assert cosine_NN[:10, :10].mean() > cosine_NN[:10, 10:].mean() + 0.6


def test_a_batch_without_targets_costs_nothing_but_keeps_the_step(training_set: Path) -> None:
    encoder = Dccf.of_training_set(str(training_set / "sequences"), 20, replace(CONFIG, contrast_weight=0.1))
    nothing = torch.empty(0, dtype=torch.long)
    loss, count = encoder(nothing, nothing)
    loss.backward()
    assert (loss.item(), count) == (0, 0)
