"""What the quality benchmark prints: tables, paired differences, figures with their goals."""

from __future__ import annotations

import sys
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.figures import Figure
from benchmarks.quality_rows import ALL, BASELINES, FLOORS, WITH_LLM, WITHOUT_LLM
from model.evaluation.protocol import PROTOCOLS

COLUMNS = ("HR@1", "HR@5", "HR@10", "NDCG@5", "NDCG@10", "MRR@10")
WITH_INTERVAL = ("HR@10", "NDCG@10")
GOALS = {"beauty": {"floor": ">=0.0525", "sasrec": ">=0.045"}, "games": {"floor": ">=0.069"}}
"""NDCG@10 on known data, seen items masked. A floor that is missed means that the split is another one."""
RATIO_GOAL = ">=1.2"
"""NDCG@10 over the best baseline's."""

console = Console(highlight=False, width=None if sys.stdout.isatty() else 200)


def show(found: dict[str, Any]) -> None:
    table = Table(title=f"{found['users']:,} users, {found['cases']:,} cases", title_justify="left")
    for name in ("method", "", *COLUMNS, "train s", "users/s", "device"):
        table.add_column(name, justify="left" if name in ("method", "", "device") else "right")
    for label, row in found["methods"].items():
        cost = found["cost"][label]
        for protocol in PROTOCOLS.values():
            values = (row[protocol][name] for name in COLUMNS)
            cells = [
                f"{one['mean']:.4f} ({one['low']:.4f}-{one['high']:.4f})"
                if name in WITH_INTERVAL
                else f"{one['mean']:.4f}"
                for name, one in zip(COLUMNS, values, strict=True)
            ]
            costs = f"{cost['train_seconds']:.0f}", f"{cost['users_per_second']:,.0f}", cost["device"]
            table.add_row(label, protocol, *cells, *costs)
    console.print(table)
    console.print(_beyond_table(found["beyond"]))
    if found["validation_ndcg10"]:
        validated = ", ".join(f"{row} {value:.4f}" for row, value in found["validation_ndcg10"].items())
        console.print(f"NDCG@10 on the validation cases: {validated}. Chosen by it: {found['reference']}.")
    for other, protocols in found["against"].items():
        _print_difference(found["reference"], other, protocols)
    for row, against in found["with_llm"].items():
        if row != found["reference"]:
            _print_difference(row, WITHOUT_LLM, against[WITHOUT_LLM])


def _print_difference(one: str, other: str, protocols: dict[str, Any]) -> None:
    found = protocols["masked"]["NDCG@10"]
    verdict = f"{found['mean']:+.4f} ({found['low']:+.4f} to {found['high']:+.4f}), p = {found['p_value']:.3f}"
    console.print(f"NDCG@10, masked, {one} - {other}: {verdict}")


def _beyond_table(found: dict[str, Any]) -> Table:
    one = next(iter(found.values()))
    names = [segment["segment"] for segment in one["segments"]]
    table = Table(title="First ten, seen items masked; NDCG@10 by segment", title_justify="left")
    for name in ("method", *one["lists"], *names):
        table.add_column(name, justify="left" if name == "method" else "right")
    table.add_row("cases", *("" for _ in one["lists"]), *(f"{segment['cases']:,}" for segment in one["segments"]))
    for label, row in found.items():
        lists = (f"{value:.3f}" for value in row["lists"].values())
        table.add_row(label, *lists, *(f"{segment['NDCG@10']['mean']:.4f}" for segment in row["segments"]))
    return table


def figures_of(name: str, found: dict[str, Any], goals: dict[str, str]) -> list[Figure]:
    """NDCG@10, seen items masked: of the best floor, of each method, and ours over the best baseline."""
    ndcg = {label: row["masked"]["NDCG@10"]["mean"] for label, row in found["methods"].items()}
    best_floor = max((ndcg[floor] for floor in FLOORS if floor in ndcg), default=0.0)
    figures = [Figure(f"quality.{name}.best_floor_ndcg10", best_floor, goals.get("floor", ""))]
    figures += [
        Figure(f"quality.{name}.{method}_ndcg10", ndcg[method], goals.get(method, ""))
        for method in ALL
        if method in ndcg and method not in FLOORS
    ]
    for row, against in found["with_llm"].items():
        figures += [
            Figure(f"quality.{name}.{row}_llm_ratio", ndcg[row] / max(ndcg[WITHOUT_LLM], 1e-12), ">1" if goals else ""),
            Figure(f"quality.{name}.{row}_llm_p_value", against[WITHOUT_LLM]["masked"]["NDCG@10"]["p_value"]),
        ]
    chosen = found["reference"]
    if chosen not in WITH_LLM:
        return figures
    baselines = [method for method in BASELINES if method in ndcg]
    if baselines:
        best = max(baselines, key=ndcg.__getitem__)
        ratio = ndcg[chosen] / max(ndcg[best], 1e-12)
        figures.append(Figure(f"quality.{name}.ratio", ratio, RATIO_GOAL if goals else ""))
        p_value = found["against"][best]["masked"]["NDCG@10"]["p_value"]
        figures.append(Figure(f"quality.{name}.p_value", p_value, "<0.05" if goals else ""))
        figures += [
            Figure(f"quality.{name}.{row}_ratio", ndcg[row] / max(ndcg[best], 1e-12)) for row in WITH_LLM if row in ndcg
        ]
    if "fusion_of_ids" in ndcg:
        figures.append(Figure(f"quality.{name}.text_ratio", ndcg[chosen] / max(ndcg["fusion_of_ids"], 1e-12)))
    return figures
