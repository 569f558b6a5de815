"""From ranked lists to the table that people read: each method under both masking protocols, on the same users.

Shapes: C cases, U users.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from model.evaluation.metrics import (
    Comparison,
    Estimate,
    Floats,
    comparisons,
    estimates,
    hit_rate,
    mrr,
    ndcg,
    per_user_mean,
)

METRICS = {
    "HR@1": (hit_rate, 1),
    "HR@5": (hit_rate, 5),
    "HR@10": (hit_rate, 10),
    "NDCG@5": (ndcg, 5),
    "NDCG@10": (ndcg, 10),
    "MRR@10": (mrr, 10),
}
PROTOCOLS = {True: "masked", False: "not masked"}


def evaluate_lists(ranks: pa.Table, reference: str = "challenger") -> dict[str, Any]:
    """(method, masked, user_id, key, rank) -> figures as JSON values. `rank` is 0-based, -1 for a target not listed.

    Result: {"reference", "users", "cases", "methods": {method: {protocol: {metric: estimate}}},
    "against": {other: {protocol: {metric: the reference's comparison with it}}}}. ValueError when methods have lists
    of other users.
    """
    methods = sorted(ranks.column("method").unique().to_pylist())
    figures: dict[str, Any] = {method: {} for method in methods}
    against: dict[str, Any] = {method: {} for method in methods if method != reference}
    for masked, protocol in PROTOCOLS.items():
        _require_same_users(ranks, methods, reference, masked=masked)
        per_user = {method: _per_user(ranks, method, masked) for method in methods}
        for method, values in per_user.items():
            figures[method][protocol] = {name: asdict(one) for name, one in estimates(values).items()}
            if method != reference:
                found = comparisons(per_user[reference], values)
                against[method][protocol] = {name: asdict(one) for name, one in found.items()}
    one = _select(ranks, reference, masked=True)
    return {
        "reference": reference,
        "users": len(one.column("user_id").unique()),
        "cases": one.num_rows,
        "methods": figures,
        "against": against,
    }


def format_table(metrics: dict[str, Any]) -> str:
    """The figures as aligned text: a line per method and protocol, then the paired differences."""
    lines = [f"{metrics['users']} users, {metrics['cases']} cases"]
    for method, protocols in metrics["methods"].items():
        for protocol, values in protocols.items():
            cells = (f"{name} {Estimate(**values[name])}" for name in ("HR@10", "NDCG@10"))
            lines.append(f"  {method:<12} {protocol:<11} " + "   ".join(cells))
    for other, protocols in metrics["against"].items():
        for protocol, values in protocols.items():
            cells = (f"{name} {Comparison(**values[name])}" for name in ("HR@10", "NDCG@10"))
            lines.append(f"  {metrics['reference']} - {other}, {protocol}: " + "   ".join(cells))
    return "\n".join(lines)


def _select(ranks: pa.Table, method: str, *, masked: bool) -> pa.Table:
    method_C = np.asarray(ranks.column("method").to_numpy())
    masked_C = np.asarray(ranks.column("masked").to_numpy())
    return ranks.filter(pa.array((method_C == method) & (masked_C == masked)))


def _require_same_users(ranks: pa.Table, methods: list[str], reference: str, *, masked: bool) -> None:
    users = {method: set(_select(ranks, method, masked=masked)["user_id"].to_pylist()) for method in methods}
    for method, found in users.items():
        if other := found ^ users[reference]:
            raise ValueError(
                f"{reference} and {method} must have the same users to be compared: {len(users[reference])} and "
                f"{len(found)}, {len(other)} of them of one alone, {min(other)} for one. Rank the same cases by both."
            )


def _per_user(ranks: pa.Table, method: str, masked: bool) -> dict[str, Floats]:
    chosen = _select(ranks, method, masked=masked)
    rank_C: npt.NDArray[np.int64] = chosen.column("rank").to_numpy().astype(np.int64)
    user_C = chosen.column("user_id").to_numpy()
    return {name: per_user_mean(metric(rank_C, k), user_C) for name, (metric, k) in METRICS.items()}
