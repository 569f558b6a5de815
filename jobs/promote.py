"""Let the newest model go live, if the evaluation allows it.

The pointer of model/all moves to the model that learned the same recipe from all data of the same day. The verdict with
its reasons is kept whatever it is, for programs and as a page. A refusal under `promotion.rule = "gate"` is an answer,
not a failure: the champion stays.

Reads   the day's evaluation, the model that it judged, the day's model/all, and what both were made from
Writes  promotion: the verdict, verdict.html; model/all/CURRENT

    python -m jobs.promote --ds 2016-10-16
"""

from __future__ import annotations

import datetime as dt
import logging
from typing import Any

from jobs.common.artefacts import by_identity, newest, newest_of_day, store
from jobs.common.code_version import code_version
from jobs.common.pages import render
from jobs.common.promotions import champion_twin, verdicts
from jobs.common.quality_plots import plot_methods, plot_segments
from jobs.common.recipes import differences, recipe
from jobs.common.settings import Settings, load_settings
from jobs.common.step import Day, SettingsFile, Split, run
from jobs.transforms.ranking import NO_NUMBERS
from model.evaluation.metrics import Comparison
from model.generation import Generation, Manifest, write_atomically

log = logging.getLogger("promote")

JUDGED_BY = ("HR@10", "NDCG@10")
MAIN_LOSSES = ("next_item", "next_item_of_user", "user_item")
"""By method: among a model's losses, which of them predicts the next item. The first that it has counts."""
LOSS_MARGIN = 0.1
PAGE = "verdict.html"
NOTHING_LIVE = "nothing was live, and then a healthy model is enough"
ALWAYS = "under the rule “always” every model goes live"
"""Why a model goes live although something did not hold."""


def main(ds: Day, settings_file: SettingsFile = None) -> None:
    settings = load_settings(settings_file)
    evaluation = newest_of_day(
        store(settings, "evaluation"), ds.date(), f"jobs.evaluate --ds {ds.date()} --split {Split.temporal}"
    )
    candidate = newest(settings, "model", Split.all, ds.date(), "finetune")
    live = store(settings, "model", Split.all).current()
    if live is not None and live.identity == candidate.identity and _decided(settings, candidate, evaluation):
        log.info("%s is live already: there is nothing to decide", live.identity)
        return
    twin = by_identity(settings, evaluation.manifest.parents["challenger"])
    verdict = _verdict(
        settings.promotion.rule,
        _health(settings, candidate, twin, evaluation),
        [*_against_live(settings, live, evaluation), *_comparisons(evaluation)],
        live,
    )
    parents = {"live": candidate.identity, "twin": twin.identity, "evaluation": evaluation.identity}
    draft = verdicts(settings).begin()
    write_atomically(draft.path(PAGE), _page(ds.date(), verdict, parents, evaluation, live).encode())
    draft.commit(
        Manifest(key={"ds": ds.date().isoformat()}, metrics=verdict, parents=parents, code_version=code_version())
    )
    for reason in verdict["reasons"]:
        log.info("%s  %s", "pass" if reason["passed"] else "FAIL", reason["text"])
    if verdict["waived"]:
        log.info("what FAILs does not count: %s", verdict["waived"])
    log.info("the verdict as a page: %s", draft.path(PAGE))
    if verdict["promoted"]:
        store(settings, "model", Split.all).point_to(candidate)
        log.info("%s is live (rule: %s)", candidate.identity, settings.promotion.rule)
    else:
        stays = f"{live.identity} stays live" if live else "none is live"
        log.warning("%s is not promoted: %s", candidate.identity, stays)


def _decided(settings: Settings, candidate: Generation, evaluation: Generation) -> bool:
    pair = (candidate.identity, evaluation.identity)
    parents = (verdict.manifest.parents for verdict in verdicts(settings).complete())
    return any((each["live"], each["evaluation"]) == pair for each in parents)


def _verdict(
    rule: str, health: list[tuple[bool, str]], compared: list[tuple[bool, str]], live: Generation | None
) -> dict[str, Any]:
    """`compared`: with the live model and the baselines. While nothing is live, a healthy model is better than none."""
    reasons = [*health, *compared]
    passed = all(ok for ok, _ in (reasons if live is not None else health))
    promoted = passed or rule == "always"
    moot = promoted and not all(ok for ok, _ in reasons)
    return {
        "promoted": promoted,
        "passed": passed,
        "rule": rule,
        "reasons": [{"passed": ok, "text": text} for ok, text in reasons],
        "waived": (NOTHING_LIVE if passed else ALWAYS) if moot else "",
    }


def _health(
    settings: Settings, candidate: Generation, twin: Generation, evaluation: Generation
) -> list[tuple[bool, str]]:
    """What must hold of any model that goes live, the first one too."""
    collisions = by_identity(settings, candidate.manifest.parents["codebook"]).manifest.metrics["collisions_after"]
    judged = evaluation.manifest.metrics
    broken = judged["problems"]["challenger"].get(NO_NUMBERS, 0)
    changed = differences(recipe(settings, twin), recipe(settings, candidate))
    return [
        (collisions == 0, f"codes shared by two items: {collisions}"),
        (broken == 0, f"lists of {twin.identity} for which {NO_NUMBERS}: {broken} of {judged['cases']}"),
        (not changed, _of_recipe(twin, changed)),
        _of_loss(_main_loss(candidate), _main_loss(twin)),
    ]


def _of_recipe(twin: Generation, changed: list[str]) -> str:
    if not changed:
        return f"the recipe is that of {twin.identity}, which was judged"
    return (
        f"the recipe is not that of {twin.identity}, which was judged ({'; '.join(changed)}): run the train DAG "
        "anew, with one settings for both splits"
    )


def _main_loss(model: Generation) -> float | None:
    """That of predicting the next item, in the epoch whose weights were kept; None where it was not learned."""
    metrics = model.manifest.metrics
    name = next((name for name in MAIN_LOSSES if name in metrics["loss"]), None)
    return None if name is None else float(metrics["loss"][name][metrics["best_epoch"] - 1])


def _of_loss(loss: float | None, judged: float | None) -> tuple[bool, str]:
    if loss is None or judged is None:
        return False, (
            f"no loss says how well the next item is predicted ({', '.join(MAIN_LOSSES)}): give next_item a share "
            "in model.finetune.mixture"
        )
    text = f"loss on all data {loss:.3f}, of the judged model {judged:.3f}, each of the epoch that was kept: "
    return loss <= judged * (1 + LOSS_MARGIN), f"{text}at most {LOSS_MARGIN:.0%} more is allowed"


def _against_live(settings: Settings, live: Generation | None, evaluation: Generation) -> list[tuple[bool, str]]:
    """Whether the evaluation compared with what is live now: another model may have gone live since."""
    champion = champion_twin(settings)
    if live is None or champion is None:
        return []
    judged = evaluation.manifest.parents.get("champion", "no champion")
    if judged == champion.identity:
        return [(True, f"compared with {judged}, the twin of {live.identity}, which is live")]
    told = f"the evaluation compared with {judged}, not with {champion.identity}, the twin of {live.identity}, "
    return [(False, f"{told}which is live: run jobs.evaluate anew")]


def _page(
    day: dt.date, verdict: dict[str, Any], parents: dict[str, str], evaluation: Generation, live: Generation | None
) -> str:
    return render(
        "verdict.html.j2",
        day=day,
        verdict=verdict,
        model=parents["live"],
        before=live.identity if live else None,
        parents=parents | evaluation.manifest.parents,
        quality=evaluation.manifest.metrics,
        methods_plot=plot_methods(evaluation.manifest.metrics),
        segments_plot=plot_segments(evaluation.manifest.metrics["beyond"]),
    )


def _comparisons(evaluation: Generation) -> list[tuple[bool, str]]:
    """Better than each baseline, and than the champion where there is one, beyond noise."""
    reasons, parents = [], evaluation.manifest.parents
    for other, protocols in evaluation.manifest.metrics["against"].items():
        if parents.get(other) == parents["challenger"]:  # what is live, judged anew: it need not beat itself
            continue
        for name in JUDGED_BY:
            comparison = Comparison(**protocols["masked"][name])
            reasons.append((comparison.better, f"{name} - {other}'s, seen items masked: {comparison}"))
    return reasons


if __name__ == "__main__":
    run(main)
