"""What hit rates do not say: how much of the catalogue lists show, how popular it is, and for whom they are good.

Lists are read in batches, so memory follows the catalogue and the cases, not the lists.

Shapes: N items, C cases.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from model.evaluation.metrics import Ints, estimates, hit_rate, ndcg, per_user_mean

HISTORY_LENGTHS = {"history 1-5": (1, 5), "history 6-10": (6, 10), "history 11-20": (11, 20), "history 21+": (21, None)}
TARGET_COUNTS = {
    "never seen item": (0, 0),
    "item seen 1-9 times": (1, 9),
    "item seen 10-49 times": (10, 49),
    "item seen 50+ times": (50, None),
}
"""Segments: least and greatest value, both included."""


def beyond(lists: Iterable[pa.RecordBatch], cases: pa.Table, item_ids: pa.Array, count_N: Ints) -> dict[str, Any]:
    """{"lists": figures of exposure, "segments": figures by segment} of one method's lists (key, rank, item_ids).

    `cases`: key, user_id, history_length, target_count. `count_N`: how often models saw each of `item_ids`. ValueError
    when the lists are of other cases.
    """
    exposure = Exposure(item_ids, 10)
    ranks = []
    for batch in lists:
        exposure.add(batch.column("item_ids"))
        ranks.append(batch.select(["key", "rank"]))
    ranked, asked = pa.Table.from_batches(ranks).sort_by("key"), cases.sort_by("key")
    if not ranked["key"].equals(asked["key"]):
        raise ValueError(f"There are {ranked.num_rows} lists, and not one for each of the {asked.num_rows} cases.")
    rank_C, length_C, count_C = (
        column.to_numpy().astype(np.int64)
        for column in (ranked["rank"], asked["history_length"], asked["target_count"])
    )
    user_C = asked["user_id"].to_numpy()
    return {"lists": exposure.figures(count_N), "segments": segments(rank_C, user_C, length_C, count_C)}


@dataclass
class Exposure:
    """How often each item is listed among the first k, added up batch by batch."""

    item_ids: pa.Array
    k: int
    shown_N: Ints = field(init=False)

    def __post_init__(self) -> None:
        self.shown_N = np.zeros(len(self.item_ids), np.int64)

    def add(self, lists: pa.ListArray) -> None:
        first = pc.list_slice(lists, 0, self.k)
        index = pc.index_in(pc.list_flatten(first), value_set=self.item_ids)
        self.shown_N += np.bincount(index.drop_null().to_numpy(), minlength=self.shown_N.size)

    def figures(self, count_N: Ints) -> dict[str, float]:
        """coverage (share of the catalogue that is listed at all), gini (0: all items as often, 1: one item alone),
        novelty (mean of -log2 of the share of the training events that were of the item, add-one). All 0 where no
        list holds anything, as of a model whose scores are no numbers.
        """
        shown = self.shown_N.sum()
        if shown == 0:
            return {"coverage": 0.0, "gini": 0.0, "novelty": 0.0}
        novelty_N = -np.log2((count_N + 1) / (count_N + 1).sum())
        place_N = np.arange(1, self.shown_N.size + 1)
        gini = float(2 * (place_N * np.sort(self.shown_N)).sum() / (self.shown_N.size * shown) - 1 - 1 / place_N[-1])
        return {
            "coverage": float((self.shown_N > 0).mean()),
            "gini": gini,
            "novelty": float((novelty_N * self.shown_N).sum() / shown),
        }


def segments(
    rank_C: Ints, user_C: npt.NDArray[np.object_], history_length_C: Ints, target_count_C: Ints, k: int = 10
) -> list[dict[str, Any]]:
    """HR@k and NDCG@k of short and long histories, rare and popular targets: means over users, with 95% intervals."""
    value_C = {f"HR@{k}": hit_rate(rank_C, k), f"NDCG@{k}": ndcg(rank_C, k)}
    found = []
    for bounds, measure_C in ((HISTORY_LENGTHS, history_length_C), (TARGET_COUNTS, target_count_C)):
        for name, chosen_C in _chosen(bounds, measure_C):
            of_users = {each: per_user_mean(values[chosen_C], user_C[chosen_C]) for each, values in value_C.items()}
            figures = {each: asdict(one) for each, one in estimates(of_users).items()}
            found.append({"segment": name, "cases": int(chosen_C.sum()), **figures})
    return found


def _chosen(bounds: dict[str, tuple[int, int | None]], value_C: Ints) -> Iterator[tuple[str, npt.NDArray[np.bool_]]]:
    for name, (least, greatest) in bounds.items():
        chosen_C = value_C >= least
        if greatest is not None:
            chosen_C = chosen_C & (value_C <= greatest)
        if chosen_C.any():
            yield name, chosen_C
