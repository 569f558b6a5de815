"""Let the newest model go live, if the evaluation allows it.

The pointer of model/all moves to the model that learned the same recipe from all data. The verdict with its reasons is
kept whatever it is. A refusal under `promotion.rule = "gate"` is an answer, not a failure: the champion stays.

Reads   evaluation, model/all and its codebook's health
Writes  promotion: the verdict; model/all/CURRENT

    python -m jobs.promote --ds 2016-10-16
"""

from __future__ import annotations

import logging
from typing import Any

from jobs.common.artefacts import by_identity, store
from jobs.common.code_version import code_version
from jobs.common.promotions import verdicts
from jobs.common.settings import load_settings
from jobs.common.step import Day, SettingsFile, run
from model.evaluation.metrics import Comparison
from model.generation import Generation, Manifest

log = logging.getLogger("promote")

JUDGED_BY = ("HR@10", "NDCG@10")


def main(ds: Day, settings_file: SettingsFile = None) -> None:
    settings = load_settings(settings_file)
    evaluation = store(settings, "evaluation").latest()
    models = store(settings, "model", "all")
    candidate = models.latest()
    if evaluation is None or candidate is None:
        raise ValueError("Nothing to judge: run jobs.evaluate and jobs.finetune --split all first.")
    codebook = by_identity(settings, candidate.manifest.parents["codebook"])
    health, comparisons = _health(codebook), _comparisons(evaluation.manifest.metrics)
    reasons = [*health, *comparisons]
    # With nothing live yet, any healthy model is better than none.
    counted = reasons if "champion" in evaluation.manifest.parents else health
    passed = all(ok for ok, _ in counted)
    promoted = passed or settings.promotion.rule == "always"
    verdicts(settings).begin().commit(
        Manifest(
            key={"ds": ds.date().isoformat()},
            metrics={
                "promoted": promoted,
                "passed": passed,
                "rule": settings.promotion.rule,
                "reasons": [{"passed": ok, "text": text} for ok, text in reasons],
            },
            parents={
                "live": candidate.identity,
                "twin": evaluation.manifest.parents["challenger"],
                "evaluation": evaluation.identity,
            },
            code_version=code_version(),
        )
    )
    for ok, text in reasons:
        log.info("%s  %s", "pass" if ok else "FAIL", text)
    if promoted:
        models.point_to(candidate)
        log.info("%s is live (rule: %s)", candidate.identity, settings.promotion.rule)
    else:
        log.warning("%s is not promoted: the live model stays", candidate.identity)


def _health(codebook: Generation) -> list[tuple[bool, str]]:
    collisions = codebook.manifest.metrics["collisions_after"]
    return [(collisions == 0, f"codes shared by two items: {collisions}")]


def _comparisons(metrics: dict[str, Any]) -> list[tuple[bool, str]]:
    """Better than each baseline, and than the champion where there is one, beyond noise."""
    reasons = []
    for other, protocols in metrics["against"].items():
        for name in JUDGED_BY:
            comparison = Comparison(**protocols["masked"][name])
            reasons.append((comparison.better, f"{name} - {other}'s, seen items masked: {comparison}"))
    return reasons


if __name__ == "__main__":
    run(main)
